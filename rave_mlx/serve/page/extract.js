/* Extraction: the fields of the chosen documents, how certain each is, and its place on the page. */

import { postForm } from "./api.js";
import { formCommand } from "./copy.js";
import { allPages, chosenPages, documents, showPage } from "./documents.js";
import { announce, at, certaintyBadge, certaintyWords, copyText, h, percent, plural, showError } from "./dom.js";
import { readSchema } from "./schema.js";
import { chosen } from "./settings.js";

let running = null;

/** Page numbers as the server reads them: "1-3,7"; null where all pages are meant. */
export function pageRanges(doc) {
  const numbers = doc.pages.filter((page) => page.chosen).map((page) => page.page);
  if (numbers.length === doc.pages.length) return null;
  const parts = [];
  for (const number of numbers) {
    const last = parts.at(-1);
    if (last && last[1] === number - 1) last[1] = number;
    else parts.push([number, number]);
  }
  return parts.map(([from, to]) => (from === to ? from : `${from}-${to}`)).join(",");
}

/** The fields of a form for a document: what every kind of request sends beside the file. */
export function formFields(doc, own) {
  const pages = pageRanges(doc), { model, image_tokens: tokens } = chosen();
  const fields = [...own, ...(model ? [["model", model]] : [])];
  if (tokens) fields.push(["image_tokens", String(tokens)]);
  if (pages) fields.push(["pages", pages]);
  return fields;
}

export const chosenDocuments = () => documents.filter((doc) => doc.pages.some((page) => page.chosen));

const isLeaf = (node) => node !== null && node !== undefined && typeof node === "object" && "certainty" in node && "value" in node;
const isTable = (node) => Array.isArray(node) && node.length > 0 && node.every((item) => !isLeaf(item) && !Array.isArray(item));

/** The single values of a tree with their paths, and its tables apart. */
function flatten(node, path = "") {
  if (isLeaf(node)) return { values: [[path, node]], tables: [] };
  if (isTable(node)) return { values: [], tables: [[path, node]] };
  const entries = Array.isArray(node) ? node.map((item, i) => [`${path}[${i}]`, item])
    : Object.entries(node ?? {}).map(([name, item]) => [path ? `${path}.${name}` : name, item]);
  const parts = entries.map(([name, item]) => flatten(item, name));
  return { values: parts.flatMap((part) => part.values), tables: parts.flatMap((part) => part.tables) };
}

const plain = (node) => {
  if (isLeaf(node)) return node.value;
  if (Array.isArray(node)) return node.map(plain);
  return node && Object.fromEntries(Object.entries(node).map(([name, item]) => [name, plain(item)]));
};

class Result {
  constructor(doc, stage) {
    Object.assign(this, { doc, stage, row: null });
    this.state = h("p", { class: "muted" }, "Reading …");
    this.error = h("p", { class: "error", role: "alert", hidden: true });
    this.body = h("div", { class: "result-body" });
    this.element = h("section", { class: "result", "aria-label": `Fields of ${doc.name}` },
      h("h2", { class: "name" }, doc.name), this.state, this.error, this.body);
  }

  async fetch(schema, signal) {
    const { attention } = chosen(), own = [["schema", JSON.stringify(schema)], ...(attention ? [["attention", attention]] : [])];
    const fields = formFields(this.doc, own);
    const began = performance.now();
    try {
      const answer = await postForm("/v1/extract", [["file", this.doc.file, this.doc.name], ...fields], signal);
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
    this.state.textContent = `${plural(row.pages ?? 0, "page")} · ${took.toFixed(1)} s`;
    if (!row.fields) return;
    const { values, tables } = flatten(row.fields);
    const unsure = values.filter(([, leaf]) => doubtful(leaf)).length;
    announce(`${this.doc.name}: ${plural(values.length, "field")}, ${unsure} to check`);
    this.body.replaceChildren(
      ...(values.length ? [this.#fields(values)] : []), ...tables.map(([path, rows]) => this.#table(path, rows)),
      h("div", { class: "actions" },
        this.#button("Copy values", () => JSON.stringify(plain(row.fields), null, 2)),
        this.#button("Copy JSON", () => JSON.stringify(row, null, 2)),
        this.#button("Copy curl", () => formCommand("/v1/extract", [this.doc], fields))));
  }

  #button(label, text) {
    return h("button", { type: "button", class: "quiet", onclick: (event) => copyText(text(), event.currentTarget) }, label);
  }

  #fields(values) {
    return h("table", { class: "values" },
      h("thead", {}, h("tr", {}, ["Field", "Value", "Certainty"].map((name) => h("th", { scope: "col" }, name)))),
      h("tbody", {}, values.map(([path, leaf]) => h("tr", {},
        h("th", { scope: "row" }, path), h("td", {}, this.#value(path, leaf), remark(leaf)),
        h("td", {}, leaf.problem ? "" : certaintyBadge(leaf.certainty))))));
  }

  #table(path, rows) {
    const names = [...new Set(rows.flatMap((row) => Object.keys(row)))];
    const cell = (row, name, i) => {
      if (row[name] === undefined) return "";
      return isLeaf(row[name]) ? this.#value(`${path}[${i}].${name}`, row[name], true) : JSON.stringify(plain(row[name]));
    };
    const unsure = rows.some((row) => names.some((name) => isLeaf(row[name]) && row[name].value !== null && doubtful(row[name])));
    return h("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": path }, h("table", { class: "rows" },
      h("caption", {}, `${path} · ${plural(rows.length, "row")}${unsure ? " · check what is dashed on the page" : ""}`),
      h("thead", {}, h("tr", {}, names.map((name) => h("th", { scope: "col" }, name)))),
      h("tbody", {}, rows.map((row, i) => h("tr", {}, names.map((name) => h("td", {}, cell(row, name, i))))))));
  }

  /* A value that can be pressed where its place is known. In tables its certainty is a mark, and words for all. */
  #value(path, leaf, short = false) {
    const text = leaf.value === null ? "not found" : typeof leaf.value === "boolean" ? (leaf.value ? "yes" : "no") : String(leaf.value);
    const { level, words } = certaintyWords(leaf.certainty);
    const attributes = { class: `value ${leaf.value === null ? "missing" : ""} ${short ? level : ""}`, title: `${words}, ${percent(leaf.certainty)}` };
    const spoken = short ? h("span", { class: "sr" }, ` ${words}, ${percent(leaf.certainty)}`) : null;
    if (!leaf.box) return h("span", attributes, text, spoken);
    return h("button", {
      ...attributes, type: "button", "aria-pressed": "false", onclick: (event) => this.#place(event.currentTarget, path, leaf),
    }, text, spoken);
  }

  #place(button, path, leaf) {
    const page = this.doc.pages.find((each) => each.page === leaf.page) ?? this.doc.pages[0];
    document.querySelectorAll('.value[aria-pressed="true"]').forEach((each) => each.setAttribute("aria-pressed", "false"));
    button.setAttribute("aria-pressed", "true");
    if (allPages().includes(page)) showPage(page);
    this.stage.show(page);
    this.stage.mark(leaf.box.map((side, i) => side / page.size[i % 2]));
    this.stage.say(h("strong", {}, path), ` ${leaf.value}: ${certaintyWords(leaf.certainty).words}, ${percent(leaf.certainty)}, page ${leaf.page}`);
    announce(`${path} is marked on page ${leaf.page}`);
  }
}

const doubtful = (leaf) => leaf.problem || leaf.value === null || certaintyWords(leaf.certainty).level !== "sure";

function remark(leaf) {
  if (leaf.problem) return h("p", { class: "problem" }, leaf.raw ? `${leaf.problem}; the model wrote “${leaf.raw}”` : leaf.problem);
  if (leaf.value !== null && doubtful(leaf)) return h("p", { class: "problem" }, "check this on the page");
  return leaf.raw !== undefined ? h("p", { class: "muted" }, `printed as “${leaf.raw}”`) : null;
}

async function extract(stage) {
  showError(at("schema-error"), "");
  let schema;
  try {
    if (!chosenPages().length) throw new Error("There is no page to read: drop a file, or take the sample receipt.");
    schema = readSchema();
  } catch (error) {
    showError(at("schema-error"), error);
    return;
  }
  running = new AbortController();
  at("extract-stop").hidden = false;
  at("extract-send").hidden = true;
  const results = chosenDocuments().map((doc) => new Result(doc, stage));
  at("results").replaceChildren(...results.map((result) => result.element));
  announce("Reading");
  at("results").scrollIntoView({ block: "nearest" });
  for (const result of results) await result.fetch(schema, running.signal);
  at("results").scrollIntoView({ block: "nearest" });
  running = null;
  at("extract-stop").hidden = true;
  at("extract-send").hidden = false;
}

/** Listen to the form. */
export function listenToExtraction(stage) {
  at("extract-form").addEventListener("submit", (event) => {
    event.preventDefault();
    if (!running) extract(stage);
  });
  at("extract-stop").addEventListener("click", () => running?.abort());
  addEventListener("pagehide", () => running?.abort());
}
