/* Documents that were dropped, pasted or picked: their pages, which of them are asked about. Kept in memory only. */

import { postForm } from "./api.js";
import { announce, at, h, plural, showError } from "./dom.js";

/** Kinds of pictures that browsers and models both read; all others go through the server, which draws them. */
const PICTURES = new Set(["image/png", "image/jpeg", "image/webp", "image/gif"]);
/** A longer document starts with its first page chosen: every page takes visual tokens. */
const CHOSEN = 4;

export const documents = [];
let listener = () => {};
let shown = null;
let serial = 0;

/** Be told when documents, chosen pages or the page that is shown change. */
export function onDocuments(call) {
  listener = call;
}

export const allPages = () => documents.flatMap((doc) => doc.pages);
export const chosenPages = () => allPages().filter((page) => page.chosen);
export const shownPage = () => shown;

/** Show a page on the stage. */
export function showPage(page) {
  shown = page;
  changed();
}

function changed() {
  if (!allPages().includes(shown)) shown = chosenPages()[0] ?? allPages()[0] ?? null;
  draw();
  listener();
}

const dataURL = (blob) => new Promise((resolve, reject) => {
  const reader = new FileReader();
  reader.addEventListener("load", () => resolve(reader.result));
  reader.addEventListener("error", () => reject(reader.error));
  reader.readAsDataURL(blob);
});

async function localPage(file) {
  const url = await dataURL(file), image = new Image();
  image.src = url;
  await image.decode();
  const [width, height] = [image.naturalWidth, image.naturalHeight];
  return [{ page: 1, width, height, url, size: [width, height] }];
}

async function drawnPages(file) {
  const answer = await postForm("/v1/pages", [["file", file, file.name]]);
  return answer.pages.map((page) => ({ ...page, url: page.image, size: page.size ?? [page.width, page.height] }));
}

async function pagesOf(file) {
  if (PICTURES.has(file.type)) {
    try {
      return await localPage(file);
    } catch { /* a picture that this browser cannot show: the server says what is wrong with it */ }
  }
  return drawnPages(file);
}

/** Add files, one after the other; what cannot be read is said by name. */
export async function addFiles(files) {
  const failed = [];
  showError(at("documents-error"), "");
  for (const file of files) {
    const name = file.name || `pasted-${serial + 1}.png`;
    at("documents-state").textContent = `Opening ${name} …`;
    try {
      const pages = await pagesOf(new File([file], name, { type: file.type }));
      const doc = { id: ++serial, name, file };
      doc.pages = pages.map((page) => ({
        ...page, doc, chosen: pages.length <= CHOSEN || page.page === 1,
        title: pages.length > 1 ? `${name}, page ${page.page}` : name,
      }));
      documents.push(doc);
      shown = doc.pages[0];
    } catch (error) {
      failed.push(`${name}: ${error.message}`);
    }
  }
  at("documents-state").textContent = "";
  showError(at("documents-error"), failed.join("\n"));
  if (files.length > failed.length) announce(`${plural(files.length - failed.length, "document")} added`);
  changed();
}

function remove(doc) {
  documents.splice(documents.indexOf(doc), 1);
  announce(`${doc.name} removed`);
  changed();
  (document.querySelector("#documents .remove") ?? at("pick")).focus();
}

function choose(pages, on) {
  for (const page of pages) page.chosen = on;
  changed();
}

function thumbnail(page) {
  const attributes = {
    type: "button", class: "thumb", title: page.title, "aria-pressed": String(page === shown), "data-page": page.page,
    onclick: () => { showPage(page); focusThumb(page); },
  };
  const image = h("img", { src: page.url, alt: `Show ${page.title}`, loading: "lazy" });
  const box = h("input", {
    type: "checkbox", checked: page.chosen, onchange: (event) => {
      choose([page], event.target.checked);
      focusThumb(page, "input");
    },
  });
  const label = h("label", { class: "check" }, box, h("span", { class: "sr" }, "ask about "), `page ${page.page}`);
  return h("li", { "data-title": page.title }, h("button", attributes, image), label);
}

/* The list is drawn anew after every change: bring the focus back to where it was. */
function focusThumb(page, what = "button") {
  const item = [...document.querySelectorAll("#documents li")].find((each) => each.dataset.title === page.title);
  item?.querySelector(what).focus({ preventScroll: true });
}

function documentElement(doc, several) {
  const small = (text, call) => h("button", { type: "button", class: "quiet", onclick: call }, text);
  const count = doc.pages.filter((page) => page.chosen).length;
  const head = h("div", { class: "doc-head" },
    h("h2", { class: "name", title: doc.name }, doc.name),
    doc.pages.length > 1 ? h("span", { class: "muted" }, `${count} of ${plural(doc.pages.length, "page")} chosen`) : null,
    doc.pages.length > 2 ? [small("All", () => choose(doc.pages, true)), small("None", () => choose(doc.pages, false))] : null,
    h("button", { type: "button", class: "quiet remove", "aria-label": `Remove ${doc.name}`, onclick: () => remove(doc) },
      "Remove"));
  return h("section", { class: "doc", "aria-label": doc.name },
    head, several ? h("ul", { class: "thumbs" }, doc.pages.map(thumbnail)) : null);
}

function draw() {
  const several = allPages().length > 1;
  at("documents").replaceChildren(...documents.map((doc) => documentElement(doc, several)));
  document.body.classList.toggle("empty", documents.length === 0);
}

/** Listen for files: picked with the button, dropped anywhere, pasted. */
export function listenForFiles() {
  const body = document.body, input = at("file");
  at("pick").addEventListener("click", () => input.click());
  at("more").addEventListener("click", () => input.click());
  input.addEventListener("change", async () => {
    const files = [...input.files];
    input.value = "";
    await addFiles(files);
  });
  let depth = 0;
  const carriesFiles = (event) => [...(event.dataTransfer?.types ?? [])].includes("Files");
  addEventListener("dragenter", (event) => { if (carriesFiles(event)) body.classList.toggle("dropping", ++depth > 0); });
  addEventListener("dragleave", (event) => { if (carriesFiles(event)) body.classList.toggle("dropping", --depth > 0); });
  addEventListener("dragover", (event) => { if (carriesFiles(event)) event.preventDefault(); });
  addEventListener("drop", (event) => {
    if (!carriesFiles(event)) return;
    event.preventDefault();
    depth = 0;
    body.classList.remove("dropping");
    addFiles([...event.dataTransfer.files]);
  });
  addEventListener("paste", (event) => {
    const files = [...(event.clipboardData?.files ?? [])];
    if (!files.length) return;
    event.preventDefault();
    addFiles(files);
  });
}
