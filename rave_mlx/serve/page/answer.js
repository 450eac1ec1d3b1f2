/* One answer: it streams in token by token, says how sure it is, and shows on the page where each token looked. */

import { postJSON, streamJSON } from "./api.js";
import { chatCommand } from "./copy.js";
import { announce, certaintyBadge, certaintyWords, copyText, h, percent, seconds, showError, whole } from "./dom.js";

/** How often what has come is read out, in milliseconds. */
const SPOKEN_EVERY = 3000;
/** For how many tokens the server draws maps. */
const MOST_LOOKED = 512;
const NAMES = { " ": "space", "\n": "new line", "\t": "tab" };

/** The words of a chunk with the probability of each; several at once where they do not line up with the text. */
export function tokensOf(choice) {
  const text = choice.delta?.content ?? "", parts = choice.logprobs?.content ?? [];
  if (parts.map((part) => part.token).join("") === text) {
    return parts.map((part) => ({ text: part.token, probability: Math.exp(part.logprob) }));
  }
  const least = parts.length ? Math.exp(Math.min(...parts.map((part) => part.logprob))) : null;
  return text ? [{ text, probability: least }] : [];
}

/* The answer whose map is on the page: only one at a time is marked. */
let current = null;

export class Answer {
  /**
   * @param turn the question it belongs to  @param body the request
   * @param policy its attention policy; empty where the model's own has no name here
   */
  constructor(turn, body, policy) {
    const name = policy || "default attention";
    Object.assign(this, { turn, body, policy, name, text: "", tokens: [], rave: null, done: false, pinned: -1, at: 0 });
    this.list = h("div", {
      class: "tokens", role: "listbox", "aria-label": `Words of the answer, ${name}; arrow keys move`,
      "aria-orientation": "horizontal", onkeydown: (event) => this.#key(event), onpointerleave: () => this.#leave(),
      onfocusout: (event) => { if (!this.list.contains(event.relatedTarget)) this.#leave(); },
    });
    this.badge = h("span", { class: "badge" });
    this.advice = h("p", { class: "advice", hidden: true });
    this.stats = h("p", { class: "stats muted" });
    this.error = h("p", { class: "error", role: "alert", hidden: true });
    this.actions = h("div", { class: "actions", hidden: true },
      this.#button("Copy JSON", () => this.#json()), this.#button("Copy curl", () => chatCommand(this.body, turn.pages)));
    this.element = h("article", { class: "answer", "aria-label": `Answer, ${name}`, "aria-busy": "true" },
      h("header", {}, h("span", { class: "policy" }, name), this.badge),
      this.list, this.advice, this.error, this.stats, this.actions);
  }

  #button(label, text) {
    return h("button", { type: "button", class: "quiet", onclick: (event) => copyText(text(), event.currentTarget) }, label);
  }

  /** Ask, and show what comes; an abort keeps what has come. */
  async stream(signal) {
    let spoken = 0, last = Date.now(), finish = null;
    const began = Date.now();
    const clock = setInterval(() => {
      if (!this.text) this.stats.textContent = `Reading … ${Math.round((Date.now() - began) / 1000)} s`;
    }, 1000);
    try {
      for await (const chunk of streamJSON("/v1/chat/completions", this.body, signal)) {
        const choice = chunk.choices?.[0];
        this.rave = chunk.rave ?? this.rave;
        if (!choice) continue;
        finish = choice.finish_reason ?? finish;
        tokensOf(choice).forEach((token) => this.#add(token));
        if (this.text) this.stats.textContent = "";
        // Whole words only: a number that is said in two parts is another number.
        const words = this.text.search(/\s\S*$/);
        if (Date.now() - last > SPOKEN_EVERY && words > spoken) {
          announce(this.text.slice(spoken, words));
          [spoken, last] = [words, Date.now()];
        }
      }
      this.done = true;
      this.#finish(finish, spoken);
    } catch (error) {
      this.stats.textContent = error.name === "AbortError" ? "Stopped." : "";
      if (error.name !== "AbortError") showError(this.error, error);
    }
    clearInterval(clock);
    this.element.setAttribute("aria-busy", "false");
    this.actions.hidden = !this.text;
  }

  #add(token) {
    const index = this.tokens.push(token) - 1;
    this.text += token.text;
    const level = token.probability === null ? "" : certaintyWords(token.probability).level;
    const sure = token.probability === null ? "" : `, ${percent(token.probability)}`;
    const blank = /^\s*$/.test(token.text);
    this.list.append(h("span", {
      role: "option", class: `token ${level}`, tabindex: index === 0 ? 0 : -1, "aria-selected": "false",
      "aria-label": `${blank ? NAMES[token.text] ?? "nothing" : token.text}${sure}`,
      onpointerenter: (event) => { if (event.pointerType === "mouse") this.show(index); },
      onfocus: () => this.show(index), onclick: () => this.#pin(index),
    }, token.text));
  }

  #finish(reason, spoken) {
    const { rave } = this;
    if (!this.text) this.list.before(h("p", { class: "muted" }, "The model answered nothing."));
    const certainty = rave?.certainty;
    if (typeof certainty === "number") {
      const { level, words } = certaintyWords(certainty);
      this.badge.replaceChildren(certaintyBadge(certainty));
      this.advice.hidden = level === "sure";
      this.advice.textContent = `The model is ${words}: check this on the page.`;
      announce(`${this.text.slice(spoken)}. ${words}, ${percent(certainty)}`);
    } else announce(this.text.slice(spoken));
    const cut = reason === "length" ? `cut at ${whole(this.tokens.length)} tokens` : null;
    this.stats.textContent = [cut, ...(rave ? statistics(rave) : [])].filter(Boolean).join(" · ");
  }

  #json() {
    const { rave } = this;
    const tokens = this.tokens.map(({ text, probability }) => ({ text, probability }));
    return JSON.stringify({
      question: this.turn.question, pages: this.turn.pages.map((page) => page.title), model: this.body.model,
      attention: this.name, answer: this.text, certainty: rave?.certainty ?? null, tokens, rave,
    }, null, 2);
  }

  /** Show on the page where a token looked; the maps are asked for when they are wanted first. */
  async show(index) {
    if (!this.done) return;
    if (current !== this) current?.forget();
    current = this;
    this.wanted = index;
    [...this.list.children].forEach((span, i) => span.classList.toggle("shown", i === index));
    if (!this.turn.maps) {
      this.turn.stage.clear();
      this.turn.stage.say("Looking up where the model looked …");
    }
    try {
      await this.turn.look();
    } catch (error) {
      this.turn.stage.say("");
      showError(this.error, `Where it looked cannot be shown: ${error.message}`);
      return;
    }
    showError(this.error, "");
    if (this.wanted === index) this.turn.paint(this, index);
  }

  #pin(index) {
    this.pinned = this.pinned === index ? -1 : index;
    this.#select(index);
    this.show(index);
  }

  #select(index) {
    [...this.list.children].forEach((span, i) => {
      span.tabIndex = i === index ? 0 : -1;
      span.setAttribute("aria-selected", String(i === this.pinned));
    });
    this.at = index;
  }

  /** Take the marks away: another answer is looked at. */
  forget() {
    [this.wanted, this.pinned] = [-1, -1];
    for (const span of this.list.children) {
      span.classList.remove("shown");
      span.setAttribute("aria-selected", "false");
    }
  }

  #leave() {
    if (this.list.querySelector(":focus-visible")) {
      this.show(this.at);
      return;
    }
    if (this.pinned >= 0) {
      this.show(this.pinned);
      return;
    }
    this.forget();
    this.turn.stage.clear();
  }

  #key(event) {
    const last = this.tokens.length - 1;
    const to = { ArrowLeft: this.at - 1, ArrowRight: this.at + 1, Home: 0, End: last }[event.key];
    if (to !== undefined) {
      event.preventDefault();
      const index = Math.max(0, Math.min(last, to));
      this.#select(index);
      this.list.children[index].focus();
    } else if (event.key === "Enter" || event.key === " ") {
      event.preventDefault();
      this.#pin(this.at);
    } else if (event.key === "Escape") {
      this.forget();
      this.turn.stage.clear();
    }
  }
}

function statistics(rave) {
  const reused = rave.prompt_tokens_reused;
  return [
    rave.visual_tokens ? `${whole(rave.visual_tokens)} visual tokens` : null,
    rave.prefill_seconds === undefined ? null : `read in ${seconds(rave.prefill_seconds)}`,
    reused ? `${whole(reused)} tokens reused` : null,
    rave.tokens_per_second ? `${whole(rave.tokens_per_second)} tokens/s` : null,
  ];
}

/** The maps of a turn's answers, a run for each. */
export async function lookAt(answers) {
  const [{ body }] = answers, { model, messages, image_tokens: tokens } = body;
  const compare = answers.map((answer) => answer.policy);
  const found = await postJSON("/v1/look", {
    model, messages, max_tokens: Math.min(MOST_LOOKED, Math.max(...answers.map((answer) => answer.tokens.length)) + 1),
    ...(compare.every(Boolean) ? { compare } : {}), ...(tokens ? { image_tokens: tokens } : {}),
  });
  return found.runs.slice(-answers.length);
}
