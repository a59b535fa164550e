/** Step 5: two evaluations of the same rows: their metrics, and row by row what became right or wrong. */

import { get, post } from "../api.js";
import { announce, choice, count, empty, field, figure, fill, h, notice, table, waiting, words } from "../dom.js";
import { state } from "../state.js";
import { tabs } from "../tabs.js";

/** @type {Array<[string, string]>} */
const CHANGES = [
  ["worse", "Became wrong"],
  ["better", "Became right"],
  ["wrong", "Wrong in both"],
  ["right", "Right in both"],
];

/** @param {HTMLElement} main */
export async function compareView(main) {
  const places = state.overview.runs.flatMap((/** @type {any} */ run) => run.evaluations.map((/** @type {string} */ each) => `${run.name}/${each}`));
  fill(main, h("p", { class: "lead" }, "Two evaluations of the same rows, side by side."));
  if (places.length < 2) {
    main.append(empty("Nothing to compare yet", h("p", {}, "A finished ", h("a", { href: "#run" }, "run"), " has several evaluations; two runs on the same rows can be compared, too.")));
    return;
  }
  const mine = places.filter((/** @type {string} */ place) => place.startsWith(`${state.run}/`));
  const pick = (/** @type {string} */ ending, /** @type {number} */ otherwise) => mine.find((/** @type {string} */ place) => place.endsWith(`/${ending}`)) ?? places.find((/** @type {string} */ place) => place.endsWith(`/${ending}`)) ?? places[otherwise];
  const chosen = { first: pick("before", 0), second: pick("after", 1) };
  const metrics = h("div", {});
  const rows = h("div", {});
  const options = places.map((/** @type {string} */ place) => [place, place]);
  const select = (/** @type {"first" | "second"} */ key, /** @type {string} */ label) =>
    field(label, choice(options, chosen[key], (place) => {
      chosen[key] = place;
      show();
    }));
  main.append(h("div", { class: "fields" }, select("first", "First"), select("second", "Second")), rows, h("h2", { class: "next" }, "Metrics"), metrics);

  let asking = new AbortController();

  /** Compare what is chosen. */
  async function show() {
    const { first, second } = chosen;
    asking.abort();
    const { signal } = (asking = new AbortController());
    const query = (/** @type {string} */ change, skip = 0) => get(`/api/compare?${new URLSearchParams({ first, second, change, skip: String(skip) })}`, signal);
    fill(rows, waiting("Comparing row by row …"));
    fill(metrics, waiting("Working out intervals …"));
    try {
      const { counts } = await query("worse");
      fill(rows, ...tabs("Rows", CHANGES.map(([change, title]) => [change, `${title} (${count(counts[change])})`, (panel) => page(panel, query, change)]), counts.worse ? "worse" : counts.better ? "better" : "wrong"));
    } catch (error) {
      if (!signal.aborted) fill(rows, notice("error", error.message));
    }
    const found = await post("/api/commands/compare", { first, second }, signal).catch((error) => ({ error: error.message }));
    if (signal.aborted) return;
    fill(metrics, found.result ? metricsOf(found.result) : notice("error", found.error));
    announce(found.error ?? "The metrics were compared");
  }

  show();
  return () => asking.abort();
}

/** A page of rows, and the next ones on request. @param {HTMLElement} panel @param {(change: string, skip?: number) => Promise<any>} query @param {string} change @param {number} [skip] */
async function page(panel, query, change, skip = 0) {
  const place = h("div", {}, waiting("Reading rows …"));
  panel.append(place);
  const found = await query(change, skip).catch((error) => ({ error: error.message }));
  if (found.error) return void fill(place, notice("error", found.error));
  if (!found.total) return void fill(place, h("p", { class: "about" }, "No row."));
  const next = skip + found.rows.length;
  const more = h("button", { onclick: () => more.replaceWith() ?? page(panel, query, change, next) }, "Show more rows");
  fill(place, found.rows.map(card), next < found.total ? more : null);
}

/** One row with both answers. @param {any} row */
function card(row) {
  const facts = [row.subset, row.order ? `shown ${row.order}` : null, row.gold !== null && row.gold !== undefined ? `right: ${row.gold}` : null].filter(Boolean);
  return h(
    "article",
    { class: "card" },
    h("header", {}, h("b", {}, row.id), facts.map((fact) => h("span", {}, fact))),
    h("details", {}, h("summary", {}, brief(row.prompt)), h("pre", { tabindex: "0", "aria-label": "Prompt" }, row.prompt.map((/** @type {any} */ message) => message.content).join("\n\n"))),
    h("div", { class: "pair" }, row.answers.map((/** @type {any} */ answer, /** @type {number} */ i) => said(answer, i))),
  );
}

/** @param {any} answer @param {number} i */
function said(answer, i) {
  const right = (answer.score ?? 0) >= 1;
  const verdict = answer.parsed === false ? "unreadable" : answer.answer === null || answer.answer === undefined ? "no answer" : String(answer.answer);
  return h("div", { class: "said" }, h("h3", {}, i ? "Second" : "First", h("small", {}, h("span", { class: right ? "right" : "wrong" }, right ? "right" : "wrong"), ` · ${verdict}`)), h("pre", { tabindex: "0", "aria-label": i ? "Second answer" : "First answer" }, answer.text));
}

/** The beginning of a prompt, without its headings. @param {any[]} prompt */
function brief(prompt) {
  const text = prompt.map((message) => message.content).join(" ").replace(/#### [^#]+ ####|\[The [^\]]+\]/g, " ").replace(/\s+/g, " ").trim();
  return text.length > 130 ? `${text.slice(0, 130)} …` : text || "Prompt";
}

/** @param {any} result */
function metricsOf(result) {
  const rows = Object.entries(result.metrics).map(([name, each]) => {
    const { value, low, high } = Object.fromEntries(Object.entries(each.difference).map(([key, number]) => [key, typeof number === "number" ? 0 - number : number]));
    return [words(name), figure(each.first.value), figure(each.second.value), `${figure(value)} (${figure(high)} to ${figure(low)})`, each.p_value === null ? "–" : figure(each.p_value)];
  });
  return table(["Metric", "First", "Second", "Second − first, 95 % interval", "McNemar p"], rows, "Metrics of both evaluations");
}
