/* The conversation: questions about the chosen pages, with one answer each, or two where policies are compared. */

import { Answer, lookAt } from "./answer.js";
import { chosenPages } from "./documents.js";
import { announce, at, h, percent, showError } from "./dom.js";
import { SAMPLE_NAME, SAMPLE_QUESTIONS } from "./sample.js";
import { chosen, limits, ownAttention } from "./settings.js";

const MAX_TOKENS = 512;
let conversation = null;
let running = null;

/** A question with its answers, and the maps of these once somebody wants them. */
class Turn {
  constructor(question, pages, stage) {
    Object.assign(this, { question, pages, stage, answers: [], maps: null, asked: null });
  }

  /** Fetch the maps, once; after an error the next wish asks again. */
  async look() {
    this.asked ??= lookAt(this.answers.filter((answer) => answer.done)).catch((error) => {
      this.asked = null;
      throw error;
    });
    this.maps = await this.asked;
  }

  /** Put the maps of a token, and of its twin in the other answer, over the page on which it looked most. */
  paint(answer, index) {
    const token = this.#token(answer, index);
    if (!token) {
      this.stage.say("A second reading of the page came to another answer; there is no map for this word.");
      return;
    }
    const image = token.peak?.image ?? token.maps[0]?.image ?? 0, page = this.pages[image] ?? this.pages[0];
    const names = this.answers.map((each) => each.name);
    this.stage.show(page, names.length > 1 ? names : [""]);
    this.answers.forEach((each, view) => {
      const own = each === answer ? token : this.#same(each, answer, index) ? this.#token(each, index) : null;
      const map = own?.maps.find((one) => one.image === image);
      this.stage.heat(view, map?.png ?? null, own?.peak?.image === image ? own.peak.box : null);
    });
    this.#say(answer, index, token);
  }

  /* Answers can be compared word by word up to the first that differs: it was chosen after the same words. */
  #same(one, other, index) {
    return one.tokens.length > index && textOf(one.tokens.slice(0, index)) === textOf(other.tokens.slice(0, index));
  }

  /* The token of the reading with maps that wrote the same characters; null where it came to others. */
  #token(answer, index) {
    const run = this.maps[this.answers.filter((each) => each.done).indexOf(answer)], tokens = run?.tokens ?? [];
    const before = textOf(answer.tokens.slice(0, index)), wanted = before + answer.tokens[index].text;
    if (!textOf(tokens).startsWith(wanted)) return null;
    let length = 0;
    return tokens.find((token) => (length += token.text.length) > before.length) ?? null;
  }

  #say(answer, index, token) {
    const word = answer.tokens[index], mass = token.mass;
    const probability = word.probability ?? token.probability;
    this.stage.say(
      h("strong", {}, `“${word.text.replace("\n", "↵").slice(0, 24)}”`), ` ${percent(probability)} probable`,
      mass ? ` · ${Math.round(100 * mass.image)} % of attention on the page` : "",
      this.answers.length > 1 ? ` · ${answer.name}` : "");
  }
}

const textOf = (tokens) => tokens.map((token) => token.text).join("");
const samePages = (a, b) => a.length === b.length && a.every((page, i) => page === b[i]);

/** The messages of a conversation for one of the answers that are compared. */
function messagesFor(index, turns, question) {
  const messages = turns.flatMap((turn) => {
    const answer = turn.answers[index] ?? turn.answers[0];
    return [{ role: "user", content: turn.question }, { role: "assistant", content: answer.text }];
  });
  messages.push({ role: "user", content: question });
  const pictures = conversation.pages.map((page) => ({ type: "image_url", image_url: { url: page.url } }));
  messages[0] = { role: "user", content: [...pictures, { type: "text", text: messages[0].content }] };
  return messages;
}

function bodiesFor(question) {
  const { model, attention, compare, image_tokens: tokens } = chosen();
  const turns = conversation.turns.filter((turn) => turn.answers[0].text);
  const most = Math.min(MAX_TOKENS, limits().max_tokens ?? MAX_TOKENS);
  const second = compare && compare !== (attention ?? ownAttention()) ? [compare] : [];
  return [attention, ...second].map((policy, index) => ({
    model, messages: messagesFor(index, turns, question), max_tokens: most, temperature: 0, logprobs: true,
    ...(policy ? { attention: policy } : {}), ...(tokens ? { image_tokens: tokens } : {}),
    stream: true, stream_options: { include_usage: true },
  }));
}

function begin() {
  conversation = null;
  at("turns").replaceChildren();
  at("new").hidden = true;
  suggest();
}

async function ask(question, stage) {
  const pages = chosenPages();
  showError(at("ask-error"), pages.length ? "" : "There is no page to ask about: drop a file, or take the sample receipt.");
  if (!pages.length || !question) return;
  if (!conversation || !samePages(conversation.pages, pages)) {
    if (conversation) at("turns").append(h("li", { class: "cut" }, "Other pages: a new conversation"));
    conversation = { pages, turns: [] };
  }
  const turn = new Turn(question, pages, stage);
  turn.answers = bodiesFor(question).map((body) => new Answer(turn, body, body.attention ?? ownAttention()));
  conversation.turns.push(turn);
  at("turns").append(h("li", { class: "turn" },
    h("p", { class: "question" }, h("span", { class: "sr" }, "You asked: "), question),
    h("div", { class: turn.answers.length > 1 ? "answers two" : "answers" }, turn.answers.map((answer) => answer.element))));
  at("turns").lastElementChild.scrollIntoView({ block: "nearest" });
  await run(turn);
}

async function run(turn) {
  running = new AbortController();
  setRunning(true);
  announce("The answer is coming");
  await Promise.all(turn.answers.map((answer) => answer.stream(running.signal)));
  running = null;
  setRunning(false);
  compare(turn);
  if (!turn.answers.some((answer) => answer.text)) conversation.turns = conversation.turns.filter((each) => each !== turn);
  at("hint").hidden = !turn.answers.some((answer) => answer.done);
  at("turns").lastElementChild?.scrollIntoView({ block: "nearest" });
}

/* Two policies that agree are a reason to believe an answer, two that do not are one to look. */
function compare(turn) {
  const [one, other] = turn.answers;
  if (!other?.done || !one.done) return;
  const same = one.text.trim() === other.text.trim();
  const text = same ? "Both answers are the same." : "The answers differ: check this on the page.";
  one.element.parentElement.after(h("p", { class: same ? "muted verdict" : "advice verdict" }, text));
  announce(text);
}

function setRunning(on) {
  const focused = document.activeElement === at("stop");
  at("stop").hidden = !on;
  at("send").hidden = on;
  at("new").hidden = on || !conversation;
  if (focused) at("question").focus();
}

/** Offer questions for the sample while nothing has been asked. */
export function suggest() {
  const sample = chosenPages()[0]?.doc.name === SAMPLE_NAME && at("turns").childElementCount === 0;
  at("suggestions").replaceChildren(...(sample ? SAMPLE_QUESTIONS : []).map((question) =>
    h("button", { type: "button", class: "chip", onclick: () => { at("question").value = question; send(); } }, question)));
}

function send() {
  at("ask-form").requestSubmit();
}

/** Listen to the form, and end what runs when the page is left. */
export function listenToQuestions(stage) {
  at("ask-form").addEventListener("submit", (event) => {
    event.preventDefault();
    const question = at("question").value.trim();
    if (running || !question) return;
    if (chosenPages().length) at("question").value = "";
    at("suggestions").replaceChildren();
    ask(question, stage);
  });
  at("question").addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    send();
  });
  at("stop").addEventListener("click", () => running?.abort());
  at("new").addEventListener("click", () => { begin(); stage.clear(); at("question").focus(); });
  addEventListener("pagehide", () => running?.abort());
}
