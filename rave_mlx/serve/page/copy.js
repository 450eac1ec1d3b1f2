/* Requests as commands for a shell, and results as JSON: what a person takes along from the page. */

import { needsKey } from "./settings.js";

const quoted = (text) => `'${text.replaceAll("'", `'\\''`)}'`;
/* Inside of <<JSON the shell still looks at these three. */
const inHeredoc = (text) => text.replace(/[\\$`]/g, "\\$&");

function command(path, parts) {
  const key = needsKey() ? [`-H "Authorization: Bearer $RAVE_MLX_API_KEY"`] : [];
  return [`curl -sS ${quoted(location.origin + path)}`, ...key, ...parts].join(" \\\n  ");
}

/** A file in which a page can be sent as a picture, and what has to be done first to have it. */
function pictureOf(page) {
  const { name, file, pages } = page.doc, type = page.url.slice(5, page.url.indexOf(";"));
  if (pages.length === 1 && file.type === type) return { name, type, note: null };
  const picture = `${name.replace(/\.[^.]*$/, "")}-page-${page.page}.${type.slice(6)}`;
  return { name: picture, type, note: `# first save page ${page.page} of ${name} as ${picture}` };
}

/** The command for a question; pictures are read from files in the current folder. */
export function chatCommand(body, pages) {
  const pictures = pages.map(pictureOf), notes = pictures.map((picture) => picture.note).filter(Boolean);
  let number = 0;
  const text = JSON.stringify({ ...body, stream: undefined, stream_options: undefined }, (name, value) =>
    (name === "image_url" ? { url: `@picture ${number++}@` } : value), 2);
  const filled = inHeredoc(text).replace(/@picture (\d+)@/g, (_, index) => {
    const { name, type } = pictures[index];
    return `data:${type};base64,$(base64 < ${quoted(name)} | tr -d '\\n')`;
  });
  const call = command("/v1/chat/completions", ["-H 'Content-Type: application/json'", "-d @- <<JSON"]);
  return [...notes, `${call}\n${filled}\nJSON\n`].join("\n");
}

/** The command for a form with files; `fields` are pairs of name and text. */
export function formCommand(path, documents, fields) {
  const files = documents.map((doc) => `-F ${quoted(`file=@"${doc.name.replace(/["\\]/g, "\\$&")}"`)}`);
  return `${command(path, [...files, ...fields.map(([name, text]) => `--form-string ${quoted(`${name}=${text}`)}`)])}\n`;
}
