/** Rows as they are trained on: what is learned, what is only read, and what is cut off. */

import { h, notice } from "./dom.js";

const ABOUT = { learned: "learned", context: "read, not learned", cut: "cut off" };

/** @param {Array<{id: string, parts: Array<[string, string]>, tokens: Object<string, number>, fault: string}>} rows */
export function maskRows(rows) {
  const key = h(
    "p",
    { class: "key" },
    Object.entries(ABOUT).map(([kind, text]) => h("span", { class: `part ${kind}` }, text)),
  );
  return h("div", { class: "mask" }, key, rows.map(maskRow));
}

/** @param {{id: string, parts: Array<[string, string]>, tokens: Object<string, number>, fault: string}} row */
function maskRow(row) {
  if (row.fault) return notice("error", h("b", {}, `Row ${row.id}: `), row.fault);
  const tokens = Object.entries(row.tokens).filter(([, number]) => number);
  const tags = { learned: "mark", cut: "del", context: "span" };
  const text = h(
    "pre",
    { tabindex: "0", "aria-label": `Row ${row.id}` },
    row.parts.map(([kind, part]) => h(tags[kind] ?? "span", { class: `part ${kind}` }, part)),
  );
  requestAnimationFrame(() => showLearned(text));
  const caption = `Row ${row.id}: ${tokens.map(([kind, number]) => `${number} tokens ${ABOUT[kind]}`).join(", ")}`;
  return h("figure", {}, h("figcaption", {}, caption), text);
}

/** Scroll a long row to the first part that is learned. @param {HTMLElement} text */
function showLearned(text) {
  const learned = text.querySelector("mark");
  if (learned) text.scrollTop = learned.offsetTop - text.offsetTop - text.clientHeight / 2;
}
