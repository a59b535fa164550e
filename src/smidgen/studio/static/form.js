/** The form of a recipe, made of its JSON schema: names, kinds, bounds, defaults and descriptions are the code's own. */

import { choice, field, h, newId, words } from "./dom.js";

/** The fields that are shown at once; the others of a table are one click away. */
const FIRST = new Set([
  "name", "description", "task", "model.base", "data.train", "data.test", "data.train_limit", "data.test_limit",
  "data.validation_limit", "train.epochs", "train.steps", "train.batch_size", "train.max_length", "train.learning_rate",
  "train.lora.rank", "train.lora.alpha", "train.checkpoint_every", "train.validate_every", "evaluate.max_tokens", "evaluate.attacked", "quantize.bits",
  "export.formats", "teacher.model",
]); // prettier-ignore
const OPEN = new Set(["", "model", "data", "train", "train.lora"]);
const NOT_A_FIELD = new Set(["method", "settings", "tasks", "track"]);

/**
 * @typedef {{schema: any, values: any, files: string[], onchange: (values: any) => void, rebuild: () => void}} Form
 */

/** All tables of a recipe. @param {Form} form */
export function recipeForm(form) {
  return tableOf(form, form.schema, [], "The specialist");
}

/** Mark the fields that a sentence of faults names. @param {HTMLElement} form @param {string | null} error */
export function markFaults(form, error) {
  for (const input of /** @type {NodeListOf<HTMLElement>} */ (form.querySelectorAll("[data-path]"))) {
    if (error?.includes(`'${input.dataset.path}'`)) input.setAttribute("aria-invalid", "true");
    else input.removeAttribute("aria-invalid");
  }
}

/** One table: its first fields, the others, and the tables in it. @param {Form} form @param {any} section @param {string[]} path @param {string} title */
function tableOf(form, section, path, title) {
  const entries = Object.entries(section.properties ?? {}).filter(([key]) => !NOT_A_FIELD.has(key));
  const plain = entries.filter(([, schema]) => !inner(form.schema, schema));
  const first = plain.filter(([key]) => FIRST.has([...path, key].join(".")));
  const others = plain.filter(([key]) => !FIRST.has([...path, key].join(".")));
  const fields = (/** @type {any[]} */ chosen) => h("div", { class: "fields" }, chosen.map(([key, schema]) => one(form, [...path, key], schema, section)));
  const more = others.length && first.length ? h("details", { class: "more" }, h("summary", {}, `${others.length} more settings of ${title.toLowerCase()}`), fields(others)) : null;
  const tables = entries.filter(([, schema]) => inner(form.schema, schema)).map(([key, schema]) => nested(form, [...path, key], schema));
  const own = [first.length ? fields(first) : fields(others), path.length ? null : settings(form), more];
  if (!path.length) return [h("section", { class: "panel", "aria-label": title }, h("h2", {}, title), own), tables];
  return [own, tables];
}

/** A table in a table: always there, or switched on. @param {Form} form @param {string[]} path @param {any} schema */
function nested(form, path, schema) {
  const key = path.join(".");
  const section = inner(form.schema, schema);
  const optional = Boolean(schema.anyOf) || schema.default === null;
  const there = at(form.values, path) !== undefined;
  const id = newId("table");
  const title = `[${key}]`;
  const about = h("p", { class: "about" }, plainText(schema.description ?? section.description));
  if (optional && !there)
    return h(
      "section",
      { class: "panel off" },
      h("label", { class: "switch" }, h("input", { type: "checkbox", id, onchange: () => set(form, path, {}, true) }), h("code", {}, title)),
      about,
    );
  const off = optional
    ? h("label", { class: "switch" }, h("input", { type: "checkbox", id, checked: true, onchange: () => set(form, path, undefined, true) }), "Use this table")
    : h("code", {}, title);
  return h("details", { class: "panel", open: OPEN.has(key) || (optional && there) }, h("summary", {}, optional ? h("code", {}, title) : off), about, optional ? off : null, tableOf(form, section, path, title));
}

/** One field. @param {Form} form @param {string[]} path @param {any} schema @param {any} section */
function one(form, path, schema, section) {
  const key = path[path.length - 1];
  const kind = plainKind(schema);
  const value = at(form.values, path);
  const help = [plainText(schema.description).replace(/\.$/, ""), ...bounds(kind)].filter(Boolean).join("; ");
  const required = (section.required ?? []).includes(key);
  const put = (/** @type {any} */ given) => set(form, path, given);
  const input = inputOf(form, key, kind, value, schema.default, put);
  if (!input) return null;
  if (required) input.setAttribute("aria-required", "true");
  input.dataset.path = path.join(".");
  return field(words(key), input, help);
}

/** The control of a kind of value. @returns {any} */
function inputOf(/** @type {Form} */ form, /** @type {string} */ key, /** @type {any} */ kind, /** @type {any} */ value, /** @type {any} */ standard, /** @type {(given: any) => void} */ put) {
  const shown = standard === null || standard === undefined ? "" : String(standard);
  if (kind.enum) {
    const options = /** @type {Array<[string, string]>} */ ([["", standard === null || standard === undefined ? "not set" : `${shown} (default)`], ...kind.enum.map((/** @type {any} */ each) => [String(each), String(each)])]);
    const number = kind.enum.every((/** @type {any} */ each) => typeof each === "number");
    return choice(options, value === undefined ? "" : String(value), (given) => put(given === "" ? undefined : number ? Number(given) : given));
  }
  if (kind.type === "boolean") {
    const options = /** @type {Array<[string, string]>} */ ([["", `${standard ? "yes" : "no"} (default)`], ["true", "yes"], ["false", "no"]]);
    return choice(options, value === undefined ? "" : String(value), (given) => put(given === "" ? undefined : given === "true"));
  }
  if (kind.type === "integer" || kind.type === "number") {
    const read = (/** @type {any} */ event) => put(event.target.value === "" ? undefined : Number(event.target.value));
    return h("input", { type: "number", step: kind.type === "integer" ? "1" : "any", inputmode: "decimal", value: value ?? "", placeholder: shown, oninput: read });
  }
  if (kind.type === "array") {
    if (kind.items?.$ref || kind.items?.type === "array") return null; // tables are written as TOML
    const number = ["integer", "number"].includes(kind.items?.type ?? kind.prefixItems?.[0]?.type);
    const read = (/** @type {any} */ event) => {
      const parts = event.target.value.split(",").map((/** @type {string} */ part) => part.trim()).filter(Boolean);
      put(parts.length ? (number ? parts.map(Number) : parts) : undefined);
    };
    return h("input", { type: "text", value: (value ?? []).join(", "), placeholder: (standard ?? []).join(", "), oninput: read });
  }
  if (kind.type !== "string") return null;
  const list = { train: "row-files", test: "row-files", task: "task-names" }[key];
  return h("input", { type: "text", value: value ?? "", placeholder: shown, list, spellcheck: "false", autocomplete: "off", oninput: (/** @type {any} */ event) => put(event.target.value === "" ? undefined : event.target.value) });
}

/** The settings of the task that the recipe has; further ones are written as TOML. @param {Form} form */
function settings(form) {
  const given = Object.entries(form.values.settings ?? {}).filter(([, value]) => typeof value === "string");
  if (!given.length) return null;
  return h(
    "fieldset",
    { class: "fields" },
    h("legend", {}, "Settings of the task"),
    given.map(([key, value]) =>
      field(key, h("input", { type: "text", value, spellcheck: "false", oninput: (/** @type {any} */ event) => set(form, ["settings", key], event.target.value || undefined) })),
    ),
  );
}

/** The table that a field holds, or null for a plain value. @param {any} whole @param {any} schema */
function inner(whole, schema) {
  const ref = schema.$ref ?? schema.allOf?.[0]?.$ref ?? schema.anyOf?.find((/** @type {any} */ each) => each.$ref)?.$ref;
  return ref ? whole.$defs[ref.split("/").pop()] : null;
}

/** The kind of a plain value that may be left out. @param {any} schema */
function plainKind(schema) {
  if (!schema.anyOf) return schema.const === undefined ? schema : { ...schema, enum: [schema.const] };
  return schema.anyOf.find((/** @type {any} */ each) => each.type !== "null") ?? {};
}

/** A description without its marks for code. @param {string | undefined} text */
function plainText(text) {
  return (text ?? "").replaceAll("`", "");
}

/** Bounds in words. @param {any} kind @returns {string[]} */
function bounds(kind) {
  const parts = [];
  if (kind.exclusiveMinimum !== undefined) parts.push(`more than ${kind.exclusiveMinimum}`);
  if (kind.minimum !== undefined) parts.push(`at least ${kind.minimum}`);
  if (kind.exclusiveMaximum !== undefined) parts.push(`less than ${kind.exclusiveMaximum}`);
  if (kind.maximum !== undefined) parts.push(`at most ${kind.maximum}`);
  return parts;
}

/** @param {any} values @param {string[]} path */
function at(values, path) {
  return path.reduce((table, key) => table?.[key], values);
}

/** Change a value, making and removing tables on the way. @param {Form} form @param {string[]} path @param {any} value @param {boolean} [rebuild] */
function set(form, path, value, rebuild = false) {
  let table = form.values;
  for (const key of path.slice(0, -1)) table = table[key] ??= {};
  if (value === undefined) delete table[path[path.length - 1]];
  else table[path[path.length - 1]] = value;
  if (rebuild) form.rebuild();
  else form.onchange(form.values);
}
