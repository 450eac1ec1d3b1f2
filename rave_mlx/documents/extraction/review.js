"use strict";
const cards = [...document.querySelectorAll("article")];
const kept = `rave-mlx review ${location.pathname}`;
const answers = read();

function read() {
  // Some browsers keep nothing for files; then what is done lasts as long as the page is open.
  try { return JSON.parse(localStorage.getItem(kept)) || {}; } catch { return {}; }
}

function keep() {
  try { localStorage.setItem(kept, JSON.stringify(answers)); } catch { /* as above */ }
}

const name = (card) => `${card.parentElement.dataset.file}\n${card.parentElement.dataset.sha256}\n${card.dataset.field}`;
const input = (card) => card.querySelector("input");

function show(card) {
  const answer = answers[name(card)];
  card.classList.toggle("done", answer !== undefined);
  card.classList.toggle("changed", answer !== undefined && !same(card, answer.value));
  if (answer !== undefined) input(card).value = answer.value ?? "";
}

function same(card, value) {
  return card.dataset.null === "true" ? value === null : value === card.dataset.value;
}

function count() {
  const done = cards.filter((card) => card.classList.contains("done"));
  const changed = cards.filter((card) => card.classList.contains("changed"));
  const failed = document.querySelectorAll(".error").length;
  document.getElementById("state").textContent =
    `${done.length} of ${cards.length} looked at, ${changed.length} corrected` +
    (failed ? `; ${failed} document${failed > 1 ? "s" : ""} with errors` : "");
  for (const section of document.querySelectorAll("section")) {
    const own = [...section.querySelectorAll("article")];
    section.classList.toggle("done", own.length > 0 && own.every((card) => card.classList.contains("done")));
  }
}

function settle(card, value) {
  answers[name(card)] = { value };
  keep();
  show(card);
  count();
  const next = cards.slice(cards.indexOf(card) + 1).find((other) => !other.classList.contains("done"));
  if (next) {
    input(next).focus({ preventScroll: true });
    next.scrollIntoView({ block: "nearest" });
  } else document.getElementById("save").focus();
}

function typed(card) {
  const text = input(card).value.trim();
  return text === "" ? null : text;
}

/* A value as the schema wants it, where it can be told: numbers and truth values are no texts in JSON. */
function asJson(card, value) {
  if (value === null) return null;
  if (["number", "integer"].includes(card.dataset.kind) && /^-?\d+(\.\d+)?$/.test(value)) return Number(value);
  if (card.dataset.kind === "boolean" && /^(true|false)$/.test(value)) return value === "true";
  return value;
}

function save(file, rows) {
  const text = rows.map((row) => JSON.stringify(row) + "\n").join("");
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], { type: "application/jsonl" }));
  link.download = file;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

function corrections() {
  return cards.filter((card) => answers[name(card)]).map((card) => {
    const { value } = answers[name(card)];
    const { file, sha256 } = card.parentElement.dataset;
    const was = card.dataset.null === "true" ? null : asJson(card, card.dataset.value);
    return { file, sha256, field: card.dataset.field, value: asJson(card, value), was, changed: !same(card, value) };
  });
}

function trainingRows() {
  return cards.filter((card) => answers[name(card)] && card.querySelector("figure img")).map((card) => {
    const { value } = answers[name(card)];
    const printed = same(card, value) && card.dataset.raw ? card.dataset.raw : value;
    return { image: card.querySelector("figure img").src, question: card.dataset.question, answer: printed ?? "not found" };
  });
}

for (const card of cards) {
  show(card);
  card.querySelector(".right").addEventListener("click", () => settle(card, typed(card)));
  card.querySelector(".none").addEventListener("click", () => { input(card).value = ""; settle(card, null); });
  input(card).addEventListener("keydown", (event) => {
    if (event.key === "Enter") { event.preventDefault(); settle(card, typed(card)); }
    if (event.key === "Escape") {
      input(card).value = card.dataset.value;
      delete answers[name(card)];
      keep();
      show(card);
      count();
    }
  });
}
for (const crop of document.querySelectorAll(".crop")) {
  // On a narrow screen a crop is wider than it: what is marked is brought into view, with what stands before it.
  const mark = crop.querySelector("i");
  crop.scrollLeft = mark.offsetLeft + mark.offsetWidth + 16 - crop.clientWidth;
}
document.getElementById("open-only").addEventListener("change", (event) =>
  document.body.classList.toggle("hide-done", event.target.checked));
document.getElementById("found-only").addEventListener("change", (event) =>
  document.body.classList.toggle("hide-missing", event.target.checked));
document.getElementById("save").addEventListener("click", () => save("corrections.jsonl", corrections()));
document.getElementById("save-rows").addEventListener("click", () => save("train.jsonl", trainingRows()));
count();
