/* Requests as commands for a shell, and results as JSON: what a person takes along from the page. */

import { needsKey } from "./settings.js";

const quoted = (text) => `'${text.replaceAll("'", `'\\''`)}'`;
/* Inside of <<JSON the shell still looks at these three. */
const inHeredoc = (text) => text.replace(/[\\$`]/g, "\\$&");

function command(path, parts) {
  const key = needsKey() ? [`-H "Authorization: Bearer $RAVE_MLX_API_KEY"`] : [];
  return [`curl -sS ${quoted(location.origin + path)}`, ...key, ...parts].join(" \\\n  ");
}

/** A part of a message with a picture or a page of a document that is read from its file in the current folder. */
function fromFile({ page, doc: { file, pages } }, number) {
  const one = pages.length === 1 && file.type.startsWith("image/");
  return { type: "image_url", image_url: { url: `@file ${number}@` }, ...(one ? {} : { page }) };
}

/** The command for a question about pages of documents. */
export function chatCommand(body, pages) {
  let number = 0;
  const part = (each) => (each.type === "image_url" ? fromFile(pages[number], number++) : each);
  const messages = body.messages.map((message) =>
    (Array.isArray(message.content) ? { ...message, content: message.content.map(part) } : message));
  const text = JSON.stringify({ ...body, messages, stream: undefined, stream_options: undefined }, null, 2);
  const filled = inHeredoc(text).replace(/@file (\d+)@/g, (_, index) => {
    const { name, file } = pages[index].doc;
    return `data:${file.type || "application/octet-stream"};base64,$(base64 < ${quoted(name)} | tr -d '\\n')`;
  });
  return `${command("/v1/chat/completions", ["-H 'Content-Type: application/json'", "-d @- <<JSON"])}\n${filled}\nJSON\n`;
}

/** The command for a form with files; `fields` are pairs of name and text. */
export function formCommand(path, documents, fields) {
  const files = documents.map((doc) => `-F ${quoted(`file=@"${doc.name.replace(/["\\]/g, "\\$&")}"`)}`);
  return `${command(path, [...files, ...fields.map(([name, text]) => `--form-string ${quoted(`${name}=${text}`)}`)])}\n`;
}
