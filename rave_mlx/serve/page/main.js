/* The page: documents on one side; questions, extraction and reading on the other. Nothing is stored anywhere. */

import { listenToQuestions, suggest } from "./ask.js";
import { addFiles, listenForFiles, onDocuments, shownPage } from "./documents.js";
import { at } from "./dom.js";
import { listenToExtraction } from "./extract.js";
import { listenToReading } from "./read.js";
import { sampleReceipt } from "./sample.js";
import { listenToSchema } from "./schema.js";
import { listenToSettings, loadSettings } from "./settings.js";
import { Stage } from "./stage.js";

const stage = new Stage(at("stage"), at("note"));
const tabs = [...document.querySelectorAll('[role="tab"]')];

function openTab(tab, focus = false) {
  for (const each of tabs) {
    const open = each === tab;
    each.setAttribute("aria-selected", String(open));
    each.tabIndex = open ? 0 : -1;
    at(each.getAttribute("aria-controls")).hidden = !open;
  }
  if (focus) tab.focus();
  stage.clear();
  stage.show(shownPage());
}

for (const tab of tabs) {
  tab.addEventListener("click", () => openTab(tab));
  tab.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!step) return;
    event.preventDefault();
    openTab(tabs[(tabs.indexOf(tab) + step + tabs.length) % tabs.length], true);
  });
}

at("opacity").addEventListener("input", () => at("stage").style.setProperty("--heat", at("opacity").valueAsNumber / 100));
at("enlarge").addEventListener("click", () => {
  const on = at("viewer").classList.toggle("large");
  at("enlarge").setAttribute("aria-pressed", String(on));
  at("enlarge").textContent = on ? "Fit" : "Enlarge";
});
at("sample").addEventListener("click", async () => {
  await addFiles([await sampleReceipt()]);
  at("question").focus({ preventScroll: true });
});
// A page that comes back from the browser's memory would still show what was on it.
addEventListener("pageshow", (event) => { if (event.persisted) location.reload(); });

onDocuments(() => {
  stage.show(shownPage());
  at("viewer").hidden = shownPage() === null;
  suggest();
});
// The page that is looked at gets the height that the list of documents leaves.
new ResizeObserver(() => at("viewer").style.setProperty("--above", `${at("stage").offsetTop}px`)).observe(at("documents"));
if (matchMedia("(min-width: 900px)").matches) at("settings").open = true;
listenForFiles();
listenToSettings();
listenToQuestions(stage);
listenToSchema();
listenToExtraction(stage);
listenToReading(stage);
openTab(tabs[0]);
await loadSettings();
