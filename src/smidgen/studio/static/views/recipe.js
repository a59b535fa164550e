/** Step 2: the settings as a form and as TOML, with what they take beside them. */

import { get, post } from "../api.js";
import { announce, choice, field, fill, h, later, named, notice, waiting } from "../dom.js";
import { markFaults, recipeForm } from "../form.js";
import { maskRows } from "../mask.js";
import { planOf } from "../plan.js";
import { keep, state } from "../state.js";
import { TASKS } from "../tasks.js";

/** @type {any} */
let known = null;
const READY = "this page";

/** @param {HTMLElement} main */
export async function recipeView(main) {
  known ??= await get("/api/schema");
  const files = state.overview.rows.map((/** @type {any} */ file) => file.path);
  const form = h("div", { class: "form" });
  const text = h("textarea", { id: "toml", spellcheck: "false", rows: "18", oninput: changeText });
  const fault = h("div", { role: "status", "aria-live": "polite" });
  const plan = h("div", {}, waiting("Reading the recipe …"));
  const rows = h("div", {});
  const replace = h("input", { type: "checkbox", id: "replace" });
  const started = h("div", {});
  const button = h("button", { class: "primary", onclick: run }, "Start the run");
  let stop = new AbortController();
  let asked = 0;
  let stale = false; // the form shows another recipe or method than the last one that was asked for
  /** @type {any} */
  let now = { values: {}, toml: "" };

  const readText = later(500, () => read({ toml: text.value }));
  const foresee = later(700, async () => {
    stop.abort();
    const mine = (stop = new AbortController());
    fill(plan, waiting("Working out memory and time …"));
    try {
      const found = await post("/api/recipe/plan", { toml: now.toml }, mine.signal);
      if (!mine.signal.aborted) fill(plan, planOf(found));
    } catch (error) {
      if (!mine.signal.aborted) fill(plan, notice("error", error.message));
    }
  });

  /** Take a recipe as values or as text, and show it as the other. @param {any} given */
  async function read(given) {
    const mine = ++asked;
    stale ||= !given.values || Boolean(given.rebuild); // and stays so if this reply is overtaken
    try {
      const found = await post("/api/recipe", given);
      if (mine !== asked) return;
      now = found;
      keep({ toml: found.toml });
      if (!given.toml) text.value = found.toml;
      if (stale) build();
      stale = false;
      fill(fault, found.error ? notice("error", found.error) : null);
      markFaults(form, found.error);
      button.disabled = Boolean(found.error);
      if (found.error) fill(plan, h("p", { class: "about" }, "Known once the recipe is right."));
      else foresee();
    } catch (error) {
      if (mine !== asked) return;
      fill(fault, notice("error", error.message));
      button.disabled = true;
    }
  }

  const readForm = later(250, (values) => read({ values }));

  /** Take the form; nothing is started before it was read. @param {any} values */
  function change(values) {
    button.disabled = true;
    readForm(values);
  }

  /** Take the text, likewise. */
  function changeText() {
    button.disabled = true;
    readText();
  }

  /** Build the form of the method that the recipe has. */
  function build() {
    const values = structuredClone(now.values);
    const method = values.train?.method ?? "sft";
    const schema = known.methods[method] ?? known.methods.sft;
    const methods = /** @type {Array<[string, string]>} */ (Object.entries(known.methods).map(([name, each]) => [name, `${name}: ${firstSentence(each.properties.train.description)}`]));
    const choose = (/** @type {string} */ name) => read({ values: withMethod(values, name), rebuild: true });
    const rebuild = () => {
      button.disabled = true;
      read({ values, rebuild: true });
    };
    fill(
      form,
      h("datalist", { id: "row-files" }, ["world", ...files].map((value) => h("option", { value }))),
      h("datalist", { id: "task-names" }, TASKS.filter(([id]) => id).map(([value]) => h("option", { value }))),
      h("div", { class: "fields wide" }, field("How it is trained", choice(methods, method, choose))),
      recipeForm({ schema, values, files, onchange: change, rebuild }),
    );
  }

  /** Save the recipe and start its run. */
  async function run() {
    button.disabled = true;
    fill(started, waiting("Starting …"));
    try {
      const mine = state.recipeFile && state.recipeFile === `${now.name}.toml` ? state.recipeFile : undefined;
      const found = await post("/api/recipe/run", { toml: text.value, replace: replace.checked || Boolean(mine) });
      keep({ run: found.name, recipeFile: found.file });
      announce(`The run ${found.name} was started`);
      location.hash = `#run/${encodeURIComponent(found.name)}`;
    } catch (error) {
      fill(started, notice("error", error.message));
      button.disabled = false;
    }
  }

  /** Show the rows of the recipe, exactly as it trains on them. */
  async function look() {
    fill(rows, waiting("Rendering rows as the recipe trains on them …"));
    const found = await post("/api/recipe/show", { toml: text.value }).catch((error) => ({ error: error.message }));
    fill(rows, found.result ? maskRows(found.result) : notice("error", found.error));
  }

  fill(
    main,
    h("p", { class: "lead" }, "One file holds everything that makes a specialist. Change it here or as text; both are the same."),
    h("div", { class: "fields" }, field("Start from", starters())),
    h(
      "div",
      { class: "columns" },
      form,
      h(
        "aside",
        { class: "beside", "aria-label": "What it takes" },
        h("h2", {}, "What it takes"),
        h("div", { "aria-live": "polite" }, plan),
        fault,
        button,
        h("label", { class: "switch" }, replace, "Replace a recipe file that has the same name"),
        started,
        h("h2", {}, h("label", { for: "toml" }, "As TOML")),
        text,
        h("button", { onclick: look }, "Show its rows as trained"),
        rows,
      ),
    ),
  );

  /** A select of recipes to start from. */
  function starters() {
    const own = state.overview.recipes.map((/** @type {any} */ file) => [`file:${file.path}`, file.path]);
    const ready = Object.entries(known.starters).map(([id, each]) => [`starter:${id}`, each.title]);
    const last = state.toml ? [["", `The recipe of ${READY}`]] : [];
    return choice(/** @type {any} */ ([...last, ...ready, ...own]), wanted() || !state.toml ? `starter:${usual()}` : "", begin);
  }

  /** Begin with another recipe. @param {string} name */
  async function begin(name) {
    if (name.startsWith("file:")) {
      const file = name.slice(5);
      keep({ recipeFile: file });
      const found = await get(`/api/recipe?file=${encodeURIComponent(file)}`).catch((error) => fill(fault, notice("error", error.message)));
      if (found?.toml) await read({ toml: (text.value = found.toml) });
      return;
    }
    keep({ recipeFile: undefined });
    const starter = name.slice("starter:".length) || "judge";
    await read({ values: filled(known.starters[starter].recipe), rebuild: true });
  }

  if (state.toml && !wanted()) await read({ toml: (text.value = state.toml) });
  else await begin(`starter:${usual()}`);
  if (wanted()) history.replaceState(null, "", "#recipe");
  return () => stop.abort();
}

/** The starter that the address names. */
function wanted() {
  return known.starters[named()] ? named() : "";
}

/** The starter that the address names, or else one that fits what is there. */
function usual() {
  return wanted() || (state.file ? "judge" : "critic");
}

/** A starter with the chosen file as its rows. @param {any} recipe */
function filled(recipe) {
  const values = structuredClone(recipe);
  if (values.data.train === "") {
    values.data.train = state.file ?? "world";
    values.data.test = state.file ?? "world";
    if (state.file) Object.assign(values.data, { train_splits: ["train"], test_splits: ["test"] });
    if (!state.file) Object.assign(values.data, { train_limit: 200, test_limit: 40 });
    if (state.task === "judge" && state.template) values.settings = { template: state.template };
  }
  return values;
}

/** Keep the settings that another method knows, too. @param {any} values @param {string} method */
function withMethod(values, method) {
  const schema = known.methods[method];
  const train = Object.fromEntries(Object.entries(values.train ?? {}).filter(([key]) => key in schema.$defs[schema.properties.train.$ref.split("/").pop()].properties));
  return { ...values, train: { ...train, method } };
}

/** @param {string} text */
function firstSentence(text) {
  return text.split(/[.:;(]/)[0].trim().toLowerCase();
}
