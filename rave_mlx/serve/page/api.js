/* The server: requests, streamed answers, and its errors in words. The key lives in this module and nowhere else. */

let key = "";

export function useKey(value) {
  key = value.trim();
}

export const hasKey = () => key !== "";

/** What went wrong, for the person who reads it. */
export class ServerError extends Error {}

const headers = (more = {}) => (key ? { ...more, Authorization: `Bearer ${key}` } : more);

async function reasonOf(response) {
  let message = "";
  try {
    message = (await response.json()).error?.message ?? "";
  } catch { /* the answer was no JSON: the status has to do */ }
  if (response.status === 401) return message || "The server wants a key: type it into “API key” in the settings.";
  const wait = response.headers.get("Retry-After");
  const again = response.status === 429 && wait ? ` Try again in ${wait} seconds.` : "";
  return (message || `The server answered ${response.status} ${response.statusText}`.trim()) + again;
}

async function request(path, options) {
  let response;
  try {
    response = await fetch(path, { ...options, headers: headers(options.headers), cache: "no-store" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ServerError("The server does not answer. Is rave-mlx serve still running?");
  }
  if (!response.ok) throw new ServerError(await reasonOf(response));
  return response;
}

export async function getJSON(path) {
  return (await request(path, {})).json();
}

export function postJSON(path, body, signal) {
  return post(path, { body: JSON.stringify(body), headers: { "Content-Type": "application/json" }, signal });
}

export function postForm(path, fields, signal) {
  const form = new FormData();
  for (const [name, value, fileName] of fields) {
    if (fileName === undefined) form.append(name, value);
    else form.append(name, value, fileName);
  }
  return post(path, { body: form, signal });
}

async function post(path, options) {
  const response = await request(path, { method: "POST", ...options });
  try {
    return await response.json();
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ServerError("The server's answer broke off; ask again.");
  }
}

/** The chunks of a streamed answer as objects, until the server says that it is done. */
export async function* streamJSON(path, body, signal) {
  const options = { body: JSON.stringify(body), headers: { "Content-Type": "application/json" }, signal };
  const response = await request(path, { method: "POST", ...options });
  let ended = false;
  try {
    for await (const data of events(response.body)) {
      if (data === "[DONE]") {
        ended = true;
        break;
      }
      const chunk = JSON.parse(data);
      if (chunk.error) throw new ServerError(chunk.error.message);
      yield chunk;
    }
  } catch (error) {
    if (error.name === "AbortError" || error instanceof ServerError) throw error;
    throw new ServerError("The connection broke while the answer came; ask again.");
  }
  if (!ended) throw new ServerError("The answer broke off before its end; ask again.");
}

/** The data of server-sent events, as the HTML standard reads them: lines end with LF, CR or both; one that is cut is none. */
export async function* events(stream) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "", data = [];
  for (;;) {
    const { value, done } = await reader.read();
    rest += value ?? "";
    // A CR at the very end may be the first half of CR LF.
    const lines = rest.split(/\r\n|\n|\r(?!$)/);
    rest = lines.pop();
    for (const line of lines) {
      if (line === "data") data.push("");
      else if (line.startsWith("data:")) data.push(line.slice(line[5] === " " ? 6 : 5));
      else if (line === "" && data.length) {
        yield data.join("\n");
        data = [];
      }
    }
    if (done) return;
  }
}
