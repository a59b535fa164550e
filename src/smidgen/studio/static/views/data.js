/** Step 1: choose or drop a file of rows, see what is wrong with it, and what of a row is learned. */

import { get, post, upload } from "../api.js";
import { announce, choice, count, empty, field, fill, h, newId, notice, size, table, waiting } from "../dom.js";
import { maskRows } from "../mask.js";
import { keep, state } from "../state.js";
import { TASKS } from "../tasks.js";

const TEMPLATES = /** @type {Array<[string, string]>} */ ([
  ["verdict", "verdict: only the verdict; needs labels"],
  ["scores", "scores: two scores; needs scores"],
  ["rubric", "rubric: criteria, analysis, scores; needs written judgements"],
]);

let asking = new AbortController();

/** @param {HTMLElement} main */
export function dataView(main) {
  const found = h("section", { class: "found" });
  const list = h("div", {});
  const problem = h("div", {});
  const input = h("input", {
    type: "file",
    id: newId("drop"),
    accept: ".jsonl,.json,.csv,.tsv,.parquet",
    multiple: true,
    onchange: () => take([...(input.files ?? [])]),
  });
  const drop = h(
    "div",
    { class: "drop" },
    h("label", { for: input.id }, h("b", {}, "Drop a file of rows here"), " or choose one: JSONL, JSON, CSV, TSV or Parquet."),
    input,
    h("small", {}, "It is copied into this folder and goes nowhere else."),
  );
  for (const name of ["dragenter", "dragover"]) drop.addEventListener(name, (event) => over(event, true));
  for (const name of ["dragleave", "drop"]) drop.addEventListener(name, (event) => over(event, false));
  drop.addEventListener("drop", (event) => take([...(event.dataTransfer?.files ?? [])]));

  /** @param {DragEvent} event @param {boolean} is */
  function over(event, is) {
    event.preventDefault();
    drop.classList.toggle("over", is);
  }

  /** Copy files one after the other, and choose the last. @param {File[]} given */
  async function take(given) {
    fill(problem);
    for (const file of given) {
      const status = waiting(`Copying ${file.name} …`);
      problem.append(status);
      try {
        const { path } = await upload(file);
        status.remove();
        keep({ overview: await get("/api/workspace"), task: "" });
        announce(`${path} was copied into the folder`);
        choose(path);
      } catch (error) {
        status.replaceWith(notice("error", error.message));
      }
    }
    input.value = "";
  }

  /** @param {string} path */
  function choose(path) {
    keep({ file: path });
    files();
    look(found, choose);
  }

  /** The files of the workspace as radio buttons. */
  function files() {
    const rows = state.overview.rows;
    const name = newId("files");
    fill(
      list,
      rows.length
        ? h(
            "fieldset",
            { class: "files" },
            h("legend", {}, "Files in this folder"),
            rows.map((/** @type {any} */ file) =>
              h(
                "label",
                {},
                h("input", { type: "radio", name, checked: file.path === state.file, onchange: () => choose(file.path) }),
                h("span", {}, file.path),
                h("small", {}, size(file.bytes)),
              ),
            ),
          )
        : empty("No file of rows yet", h("p", {}, "Drop one above. Or ", h("a", { href: "#recipe" }, "start with generated rows"), ", which need no file.")),
    );
  }

  fill(main, h("p", { class: "lead" }, "What the model learns from, one example a row."), drop, problem, list, found);
  files();
  if (state.file && state.overview.rows.some((/** @type {any} */ file) => file.path === state.file)) look(found, choose);
  return () => asking.abort();
}

/** Check the chosen file and show its rows. @param {HTMLElement} place @param {(path: string) => void} choose */
async function look(place, choose) {
  const file = /** @type {string} */ (state.file);
  asking.abort();
  const { signal } = (asking = new AbortController());
  const findings = h("div", {}, waiting("Checking every row …"));
  const mask = h("div", {}, waiting("Rendering rows as they are trained on …"));
  const again = (/** @type {object} */ changes) => {
    keep(changes);
    look(place, choose);
  };
  const next = h("p", { class: "next" });
  fill(
    place,
    h("h2", {}, file),
    h(
      "div",
      { class: "fields wide" },
      field("Task that reads the rows", choice(TASKS, state.task ?? "", (task) => again({ task }))),
      state.task === "judge" ? field("What the judge writes", choice(TEMPLATES, state.template ?? "verdict", (template) => again({ template }))) : null,
    ),
    h("h3", {}, "Findings"),
    findings,
    h("h3", {}, "What is learned"),
    mask,
    next,
  );
  const given = { file, task: state.task ?? "", template: state.template ?? "verdict" };
  try {
    const checked = await post("/api/commands/check", given, signal);
    const task = checked.result?.reports?.[0]?.read?.[0]?.task ?? given.task;
    fill(findings, ...findingsOf(checked), heldOut(checked.result, task, file, choose));
    announce(checked.error ?? "The rows were checked");
    fill(next, h("a", { class: "button", href: `#recipe/${starterOf(task)}` }, "Go on to the recipe"));
    if (!checked.result) return void fill(mask, h("p", { class: "about" }, "Known once the rows can be read."));
    const rows = await post("/api/commands/show", { ...given, task: given.task || (task === "judge" ? "judge" : "") }, signal);
    fill(mask, rows.result ? maskRows(rows.result) : notice("error", rows.error));
  } catch (error) {
    if (signal.aborted) return;
    fill(findings, notice("error", error.message));
    fill(mask);
  }
}

/** What to do if no row is kept for the test. @param {any} result @param {string} task @param {string} file @param {(path: string) => void} choose */
function heldOut(result, task, file, choose) {
  if (!result || result.reports[0].test_rows) return null;
  const why = "No row is held out as a test row, and what a model has learned proves nothing. ";
  if (!TASKS.some(([id]) => id && id === task)) return notice("warning", why, "Add a column split with the values train and test.");
  const place = h("div", {});
  const button = h("button", { onclick: split }, "Hold out a fifth of the rows");

  async function split() {
    button.disabled = true;
    fill(place, waiting("Splitting the rows …"));
    const found = await post("/api/commands/split", { file, task }).catch((error) => ({ error: error.message }));
    if (!found.result) return void fill(place, notice("error", found.error));
    keep({ overview: await get("/api/workspace"), task });
    announce(`${found.result.out} was written`);
    choose(found.result.out);
  }

  return notice("warning", h("p", {}, why), button, place);
}

/** The recipe to start from, for what reads the rows. @param {string} task */
function starterOf(task) {
  return task === "judge" || task === "preference" ? "judge" : "labels";
}

/** What `data check` found. @param {any} checked */
function findingsOf(checked) {
  if (!checked.result) return [notice("error", checked.error)];
  return checked.result.reports.flatMap((/** @type {any} */ report) => {
    const read = report.read.map((/** @type {any} */ one) => `${count(one.rows)} rows of ${one.path}, read as ${one.format || one.task}`);
    const sums = `${count(report.train_rows)} training and ${count(report.test_rows)} test rows checked`;
    const facts = h("p", { class: "facts" }, [...read, sums].join(" · "));
    if (!report.findings.length) return [facts, notice("good", "Nothing is wrong with these rows.")];
    const rows = report.findings.map((/** @type {any} */ found) => [
      h("span", { class: `mark ${found.severity}` }, found.severity),
      found.kind,
      found.where,
      [found.message, found.ids.length ? h("small", {}, `rows ${found.ids.slice(0, 6).join(", ")}${found.ids.length > 6 ? " …" : ""}`) : null],
    ]);
    return [facts, table(["Severity", "What", "Where", "Found"], rows, "Findings"), checked.error ? notice("error", checked.error) : null];
  });
}
