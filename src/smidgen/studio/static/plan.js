/** What a recipe takes: memory against what there is, time, and both for every stage. */

import { meter } from "./charts.js";
import { count, duration, h, notice, size, table } from "./dom.js";

/** @param {any} found - the answer to a plan. */
export function planOf(found) {
  const plan = found.result;
  if (!plan) return notice("error", found.error);
  const peak = Math.max(...plan.stages.map((/** @type {any} */ stage) => stage.peak_bytes));
  const unread = plan.notes.find((/** @type {string} */ note) => note.startsWith("the rows cannot be read"));
  const facts = [
    ["Time", unread ? "–" : duration(plan.seconds)],
    ["Memory", `${size(peak)} of ${size(plan.available_bytes)}`],
    ["Disk", size(plan.disk_bytes)],
    ["Trained", `${count(plan.trained_parameters)} of ${count(plan.parameters)} parameters`],
  ];
  const rows = plan.stages.map((/** @type {any} */ stage) => [stage.name, stage.seconds === null ? "–" : duration(stage.seconds), size(stage.peak_bytes)]);
  return h(
    "div",
    { class: "plan" },
    found.error ? notice("error", found.error) : null,
    unread ? notice("warning", unread) : null,
    h("dl", {}, facts.map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value)))),
    meter(peak / plan.available_bytes, `${size(peak)} of ${size(plan.available_bytes)} memory`),
    h("details", {}, h("summary", {}, "By stage"), table(["Stage", "Time", "Memory"], rows, "Time and memory of every stage")),
    plan.notes?.length ? h("details", {}, h("summary", {}, "Notes"), h("ul", {}, plan.notes.map((/** @type {string} */ note) => h("li", {}, note)))) : null,
  );
}
