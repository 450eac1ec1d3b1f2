/* What the server offers (models, adapters, attention policies, visual tokens), and what is chosen of it. */

import { getJSON, useKey } from "./api.js";
import { at, h, showError, whole } from "./dom.js";

let offered = { models: [], limits: {}, api_key: false };
const CUSTOM = "custom …";

export const limits = () => offered.limits;
export const needsKey = () => offered.api_key;

const baseOf = (id) => id.split(":")[0];

function chosenModel() {
  const adapter = at("adapter").value;
  return adapter ? `${at("model").value}:${adapter}` : at("model").value;
}

const modelRow = () => offered.models.find((model) => model.id === chosenModel()) ?? offered.models[0];

function policyOf(name) {
  const value = at(name).value;
  return value === CUSTOM ? at(`${name}-custom`).value.trim() : value;
}

/** The attention policy that the model has where none is chosen. */
export const ownAttention = () => modelRow()?.attention ?? "";

/** What is chosen: the second policy is null where nothing is compared, empty values are the model's own. */
export function chosen() {
  const attention = policyOf("attention") || null, compare = policyOf("compare") || null;
  const tokens = at("image-tokens").valueAsNumber;
  return { model: chosenModel(), attention, compare, image_tokens: Number.isFinite(tokens) ? tokens : null };
}

/** Ask the server what there is; its answer fills the settings. */
export async function loadSettings() {
  try {
    offered = await getJSON("/v1/settings");
  } catch (error) {
    showError(at("settings-error"), error);
    return;
  }
  const bases = [...new Set(offered.models.map((model) => baseOf(model.id)))];
  at("model").replaceChildren(...bases.map((id) => new Option(id, id)));
  at("key-field").hidden = !offered.api_key;
  if (offered.api_key) at("settings").open = true;
  fillAdapters();
}

function fillAdapters() {
  const own = offered.models.filter((model) => baseOf(model.id) === at("model").value);
  const adapters = own.filter((model) => model.id.includes(":")).map((model) => model.id.slice(baseOf(model.id).length + 1));
  const plain = own.some((model) => !model.id.includes(":"));
  at("adapter").replaceChildren(...(plain ? [new Option("none", "")] : []), ...adapters.map((name) => new Option(name, name)));
  at("adapter-field").hidden = adapters.length === 0;
  fillPolicies();
}

function fillPolicies() {
  const model = modelRow();
  const names = (model?.policies ?? []).map((policy) => policy.name);
  const kept = [at("attention").value, at("compare").value];
  const options = () => [...names.map((name) => new Option(name, name)), new Option(CUSTOM, CUSTOM)];
  at("attention").replaceChildren(new Option("default", ""), ...options());
  at("compare").replaceChildren(new Option("nothing", ""), ...options());
  ["attention", "compare"].forEach((id, i) => { if ([CUSTOM, ...names].includes(kept[i])) at(id).value = kept[i]; });
  const tokens = model?.image_tokens;
  at("image-tokens").placeholder = tokens?.default ? whole(tokens.default) : "default";
  if (tokens?.most) at("image-tokens").max = tokens.most;
  describe();
}

function describe() {
  const policies = modelRow()?.policies ?? [];
  const names = [at("attention").value || ownAttention(), at("compare").value];
  const about = names.map((name) => policies.find((policy) => policy.name === name)).filter((policy) => policy?.summary)
    .map((policy) => h("p", {}, h("strong", {}, policy.name), `: ${policy.summary}`));
  at("policy-about").replaceChildren(...about);
  for (const id of ["attention", "compare"]) at(`${id}-custom-field`).hidden = at(id).value !== CUSTOM;
  const { attention, compare, image_tokens: tokens } = chosen();
  at("settings-summary").textContent = [
    chosenModel(), compare ? `${attention ?? ownAttention()} against ${compare}` : attention,
    tokens ? `${whole(tokens)} visual tokens` : null,
  ].filter(Boolean).join(" · ");
}

/** Listen to the controls. */
export function listenToSettings() {
  at("model").addEventListener("change", fillAdapters);
  at("adapter").addEventListener("change", fillPolicies);
  for (const id of ["attention", "compare", "attention-custom", "compare-custom", "image-tokens"]) {
    at(id).addEventListener("input", describe);
  }
  at("key").addEventListener("input", () => useKey(at("key").value));
}
