/* Small helpers for elements, numbers and spoken messages. Text always arrives as text, never as HTML. */

export const at = (id) => document.getElementById(id);

/** An element with attributes, listeners (`onclick`) and children; `null` and `false` attributes are left out. */
export function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "value") element.value = value;
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return element;
}

/** A share in words: rounded down, so that nothing looks surer than it is. */
export function percent(share) {
  const hundred = 100 * share;
  if (hundred >= 99 && hundred < 100) return `${(Math.floor(hundred * 10 + 1e-9) / 10).toFixed(1)} %`;
  return hundred > 0 && hundred < 10 ? `${hundred.toFixed(1)} %` : `${Math.floor(hundred + 1e-9)} %`;
}

export const whole = (number) => Math.round(number).toLocaleString("en");
export const seconds = (number) => `${number < 10 ? number.toFixed(2) : number.toFixed(0)} s`;
export const plural = (count, word) => `${whole(count)} ${word}${count === 1 ? "" : "s"}`;

/** From which certainty on an answer counts as sure. */
export const SURE = 0.9;

/** How a certainty is named: a class for colours, and words that do not need them. */
export function certaintyWords(certainty) {
  if (certainty >= SURE) return { level: "sure", words: "sure" };
  return certainty >= 0.5 ? { level: "unsure", words: "unsure" } : { level: "doubtful", words: "very unsure" };
}

export function certaintyBadge(certainty) {
  const { level, words } = certaintyWords(certainty);
  const title = "The probability that the model gave to the least likely token";
  return h("span", { class: `certainty ${level}`, title }, `${words} · ${percent(certainty)}`);
}

/** Say something to people who do not see the page. */
export function announce(text) {
  at("announcer").textContent = text;
}

/** Put an error where it happened, and say it; an empty text takes it away. */
export function showError(place, error) {
  const text = typeof error === "string" ? error : error.message;
  place.textContent = text;
  place.hidden = !text;
}

/** Copy a text, also where the browser has no clipboard for pages without TLS; the button says that it is done. */
export async function copyText(text, button) {
  const label = button.textContent;
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    const area = h("textarea", { class: "sr", value: text, "aria-hidden": "true" });
    document.body.append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
    button.focus();
  }
  button.textContent = "Copied";
  announce("Copied");
  setTimeout(() => { button.textContent = label; }, 1500);
}

/** Save a text as a file of the person's own. */
export function saveText(name, text, type) {
  const link = h("a", { href: URL.createObjectURL(new Blob([text], { type })), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}
