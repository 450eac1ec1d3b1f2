/* The schema builder: fields by name and type, rows of a table, or a JSON Schema that is pasted. */

import { at, h, showError } from "./dom.js";

/** What a field can be, as people say it, and as JSON Schema does. */
const KINDS = {
  text: { label: "text", schema: () => ({ type: "string" }) },
  number: { label: "number", schema: () => ({ type: "number" }) },
  integer: { label: "whole number", schema: () => ({ type: "integer" }) },
  date: { label: "date", schema: () => ({ type: "string", format: "date" }) },
  boolean: { label: "yes or no", schema: () => ({ type: "boolean" }) },
  choice: { label: "one of …", schema: (row) => ({ type: "string", enum: choicesOf(row) }) },
  texts: { label: "list of texts", schema: () => ({ type: "array", items: { type: "string" } }) },
  rows: { label: "table rows", schema: (row) => ({ type: "array", items: objectOf(rowsIn(row.querySelector(".columns"))) }) },
};

const rowsIn = (list) => [...list.children];
const nameOf = (row) => row.querySelector(".name").value.trim();
const choicesOf = (row) => row.querySelector(".choices").value.split(",").map((text) => text.trim()).filter(Boolean);

function field(label, className, placeholder) {
  const input = h("input", { type: "text", class: className, placeholder, autocomplete: "off", spellcheck: "false" });
  return h("label", {}, h("span", {}, label), input);
}

/** One field of the form; columns of a table have no tables of their own. */
function fieldRow({ name = "", kind = "text", description = "", choices = [], columns = [] } = {}, nested = false) {
  const kinds = Object.entries(KINDS).filter(([key]) => !nested || !["rows", "texts"].includes(key));
  const select = h("select", { class: "kind", onchange: () => showParts(row) },
    kinds.map(([key, { label }]) => new Option(label, key)));
  const list = h("ul", { class: "columns", "aria-label": "Columns" });
  const addColumn = h("button", { type: "button", class: "quiet", onclick: () => append(list, {}, true) }, "Add column");
  const row = h("li", { class: "field" },
    h("div", { class: "field-line" },
      field(nested ? "Column" : "Field", "name", nested ? "price" : "total"),
      h("label", {}, h("span", {}, "Type"), select),
      field("Description", "description", "optional"),
      h("button", { type: "button", class: "quiet remove", onclick: () => removeRow(row) }, "Remove")),
    h("div", { class: "choice-part" }, field("Choices, separated by commas", "choices", "paid, open")),
    nested ? null : h("div", { class: "rows-part" }, list, addColumn));
  row.querySelector(".name").value = name;
  row.querySelector(".description").value = description;
  row.querySelector(".choices").value = choices.join(", ");
  row.querySelector(".name").addEventListener("input", () => labelRemove(row));
  select.value = kind;
  columns.forEach((column) => list.append(fieldRow(column, true)));
  labelRemove(row);
  showParts(row);
  return row;
}

function labelRemove(row) {
  row.querySelector(".field-line .remove").setAttribute("aria-label", `Remove ${nameOf(row) || "this field"}`);
}

function showParts(row) {
  const kind = row.querySelector(".kind").value, table = row.querySelector(".rows-part");
  row.querySelector(".choice-part").hidden = kind !== "choice";
  if (!table) return;
  table.hidden = kind !== "rows";
  const list = table.querySelector(".columns");
  if (kind === "rows" && !list.childElementCount) list.append(fieldRow({}, true));
}

function append(list, content, nested) {
  const row = fieldRow(content, nested);
  list.append(row);
  row.querySelector(".name").focus();
}

function removeRow(row) {
  const list = row.parentElement, next = row.nextElementSibling ?? row.previousElementSibling;
  row.remove();
  (next?.querySelector(".name") ?? list.parentElement.querySelector("button")).focus();
}

function objectOf(rows) {
  const properties = {};
  for (const row of rows) {
    const name = nameOf(row), kind = row.querySelector(".kind").value;
    if (!name) {
      row.querySelector(".name").focus();
      throw new Error("A field has no name.");
    }
    if (Object.hasOwn(properties, name)) throw new Error(`There are two fields “${name}”.`);
    if (kind === "choice" && !choicesOf(row).length) throw new Error(`“${name}” has no choices.`);
    const description = row.querySelector(".description").value.trim();
    properties[name] = { ...KINDS[kind].schema(row), ...(description ? { description } : {}) };
  }
  if (!Object.keys(properties).length) throw new Error("There is no field; add one.");
  return { type: "object", properties };
}

/* The form for a property, or null where it says more than a form can show. */
function formOf(name, schema, nested) {
  const { type, format, description = "", items, enum: choices, properties, ...more } = schema;
  if (Object.keys(more).some((key) => key !== "title") || typeof type !== "string" || properties) return null;
  const base = { name, description };
  if (type === "array") {
    if (nested || !items) return null;
    if (items.type === "string" && Object.keys(items).length === 1) return { ...base, kind: "texts" };
    const columns = formsOf(items, true);
    return columns && { ...base, kind: "rows", columns };
  }
  if (choices) return type === "string" && choices.every((one) => !one.includes?.(",")) ? { ...base, kind: "choice", choices } : null;
  if (format) return type === "string" && format === "date" ? { ...base, kind: "date" } : null;
  const kind = { string: "text", number: "number", integer: "integer", boolean: "boolean" }[type];
  return kind ? { ...base, kind } : null;
}

function formsOf(schema, nested = false) {
  if (schema?.type !== "object" || typeof schema.properties !== "object") return null;
  const allowed = ["type", "properties", "required", "title", "$schema", "additionalProperties"];
  if (Object.keys(schema).some((key) => !allowed.includes(key))) return null;
  const forms = Object.entries(schema.properties).map(([name, each]) => formOf(name, each, nested));
  return forms.includes(null) ? null : forms;
}

const byForm = () => at("by-form").checked;

/** The schema that is asked for; an error says what is wrong with the form or the text. */
export function readSchema() {
  if (byForm()) return objectOf(rowsIn(at("fields")));
  try {
    return JSON.parse(at("schema-text").value);
  } catch (error) {
    throw new Error(`The schema is no JSON: ${error.message}.`);
  }
}

function showMode() {
  at("form-part").hidden = !byForm();
  at("json-part").hidden = byForm();
}

/* What stands in the form is shown as JSON, and the other way round where a form can show it. */
function switchMode() {
  showError(at("schema-error"), "");
  try {
    if (!byForm()) at("schema-text").value = JSON.stringify(objectOf(rowsIn(at("fields"))), null, 2);
    else if (at("schema-text").value.trim()) {
      const forms = formsOf(JSON.parse(at("schema-text").value));
      if (!forms) throw new Error("This schema says more than the form can show; it stays as JSON.");
      at("fields").replaceChildren(...forms.map((form) => fieldRow(form)));
    }
  } catch (error) {
    if (byForm()) at("by-json").checked = true;
    showError(at("schema-error"), error);
  }
  showMode();
}

/** Draw the form with a first field. */
export function listenToSchema() {
  at("fields").replaceChildren(fieldRow({ name: "total", kind: "number" }), fieldRow({ name: "date", kind: "date" }));
  at("add-field").addEventListener("click", () => append(at("fields"), {}, false));
  for (const id of ["by-form", "by-json"]) at(id).addEventListener("change", switchMode);
  showMode();
}
