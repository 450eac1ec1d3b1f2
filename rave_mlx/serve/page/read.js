/* Reading: the text of the chosen documents, block by block, each with its place; always as text, never as HTML. */

import { postForm } from "./api.js";
import { formCommand } from "./copy.js";
import { allPages, chosenPages, showPage } from "./documents.js";
import { announce, at, certaintyBadge, certaintyWords, copyText, h, percent, plural, saveText, showError } from "./dom.js";
import { chosenDocuments, formFields } from "./extract.js";

let running = null;
const markdownOf = (row) => row.pages.map((page) => page.markdown).join("\n\n");

/* What a block looks like: its text in the element that its kind names. */
function blockContent(block) {
  if (block.kind === "title" || block.kind === "heading") {
    return h("p", { class: `heading level-${Math.min(4, block.level ?? 2)}`, role: "heading", "aria-level": 3 }, block.text);
  }
  if (block.rows) {
    return h("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Table" },
      h("table", { class: "rows" }, h("tbody", {}, block.rows.map((row) => h("tr", {}, row.map((cell) => h("td", {}, cell ?? "")))))));
  }
  if (block.kind === "code" || block.kind === "formula") return h("pre", { tabindex: 0 }, block.text);
  if (block.kind === "picture") return h("p", { class: "muted" }, block.text ? `Picture: ${block.text}` : "Picture");
  return h("p", {}, block.kind === "list item" ? `• ${block.text}` : block.text);
}

class Reading {
  constructor(doc, stage) {
    Object.assign(this, { doc, stage, row: null });
    this.state = h("p", { class: "muted" }, "Reading …");
    this.error = h("p", { class: "error", role: "alert", hidden: true });
    this.body = h("div", { class: "result-body" });
    this.element = h("section", { class: "result", "aria-label": `Text of ${doc.name}` },
      h("h2", { class: "name" }, doc.name), this.state, this.error, this.body);
  }

  async fetch(signal) {
    const fields = formFields(this.doc, [["format", "json"]]), began = performance.now();
    try {
      const answer = await postForm("/v1/read", [["file", this.doc.file, this.doc.name], ...fields], signal);
      [this.row] = answer.documents;
      this.#show(fields, (performance.now() - began) / 1000);
    } catch (error) {
      this.state.textContent = error.name === "AbortError" ? "Stopped." : "";
      if (error.name !== "AbortError") showError(this.error, error);
    }
  }

  #show(fields, took) {
    const { row } = this;
    if (row.error) showError(this.error, row.error);
    this.state.textContent = `${plural(row.pages.length, "page")} · ${took.toFixed(1)} s`;
    announce(`${this.doc.name}: ${plural(row.pages.length, "page")} read`);
    const source = h("pre", { class: "source", hidden: true, tabindex: 0 }, markdownOf(row));
    const pages = h("div", {}, row.pages.map((page) => this.#page(page)));
    const toggle = h("button", {
      type: "button", class: "quiet", "aria-pressed": "false", onclick: () => {
        source.hidden = !source.hidden;
        pages.hidden = !source.hidden;
        toggle.setAttribute("aria-pressed", String(!source.hidden));
      },
    }, "Show Markdown");
    const copy = (label, text) => h("button", { type: "button", class: "quiet", onclick: (event) => copyText(text(), event.currentTarget) }, label);
    const name = `${this.doc.name.replace(/\.[^.]*$/, "")}.md`;
    this.body.replaceChildren(pages, source, h("div", { class: "actions" }, toggle,
      copy("Copy Markdown", () => markdownOf(row)), copy("Copy JSON", () => JSON.stringify(row, null, 2)),
      copy("Copy curl", () => formCommand("/v1/read", [this.doc], fields)),
      h("button", { type: "button", class: "quiet", onclick: () => saveText(name, markdownOf(row), "text/markdown") }, "Save")));
  }

  #page(page) {
    const unsure = page.certainty !== null && certaintyWords(page.certainty).level !== "sure";
    const head = h("p", { class: "page-head" }, `page ${page.page} `, page.certainty === null ? null : certaintyBadge(page.certainty),
      unsure ? " check what is marked on the page" : null);
    const error = page.error ? h("p", { class: "error" }, page.error) : null;
    const blocks = page.blocks.length ? page.blocks.map((block) => this.#block(block, page)) : h("pre", { tabindex: 0 }, page.markdown);
    return h("div", { class: "page" }, head, error, blocks);
  }

  #block(block, page) {
    const level = block.certainty === null ? "" : certaintyWords(block.certainty).level;
    const content = blockContent(block);
    if (!block.box || !page.width) return h("div", { class: `block ${level}` }, content);
    const place = () => this.#place(block, page);
    const words = block.certainty === null ? "" : `, ${certaintyWords(block.certainty).words}`;
    const show = h("button", { type: "button", class: "locate", "aria-label": `Show on the page: ${block.text.slice(0, 40)}${words}`, onclick: place, onfocus: place }, "⌖");
    return h("div", { class: `block ${level}`, onpointerenter: (event) => { if (event.pointerType === "mouse") place(); } }, content, show);
  }

  #place(block, page) {
    const own = this.doc.pages.find((each) => each.page === page.page) ?? this.doc.pages[0];
    if (allPages().includes(own)) showPage(own);
    this.stage.show(own);
    this.stage.mark(block.box.map((side, i) => side / (i % 2 ? page.height : page.width)));
    const sure = block.certainty === null ? "" : `: ${certaintyWords(block.certainty).words}, ${percent(block.certainty)}`;
    this.stage.say(h("strong", {}, block.kind), sure);
  }
}

async function read(stage) {
  showError(at("read-error"), chosenPages().length ? "" : "There is no page to read: drop a file, or take the sample receipt.");
  if (!chosenPages().length) return;
  running = new AbortController();
  at("read-stop").hidden = false;
  at("read-send").hidden = true;
  const readings = chosenDocuments().map((doc) => new Reading(doc, stage));
  at("readings").replaceChildren(...readings.map((reading) => reading.element));
  announce("Reading");
  for (const reading of readings) await reading.fetch(running.signal);
  running = null;
  at("read-stop").hidden = true;
  at("read-send").hidden = false;
}

/** Listen to the form. */
export function listenToReading(stage) {
  at("read-form").addEventListener("submit", (event) => {
    event.preventDefault();
    if (!running) read(stage);
  });
  at("read-stop").addEventListener("click", () => running?.abort());
  addEventListener("pagehide", () => running?.abort());
}
