/** What a report says of a judge's faults: position bias, calibration, and resistance to manipulation. */

import { intervalChart, reliabilityChart } from "./charts.js";
import { count, empty, h, rate, table, words } from "./dom.js";

const NOT_EVALUATIONS = new Set(["comparisons"]);

/** The evaluations of a report, in its order. @param {any} report @returns {Array<[string, any]>} */
export function evaluationsOf(report) {
  return Object.entries(report).filter(([name, value]) => !NOT_EVALUATIONS.has(name) && value?.metrics && value?.n !== undefined);
}

/** Plots and tables of everything that a report knows beyond its scores. @param {any} report */
export function evidence(report) {
  const found = evaluationsOf(report);
  const parts = [scores(found), position(found), calibration(found), ...attacks(report)].filter(Boolean);
  return parts.length ? h("div", { class: "charts" }, parts) : empty("No further evidence", h("p", {}, "This report has no evaluations."));
}

/** @param {Array<[string, any]>} found */
function scores(found) {
  const name = Object.keys(found[0]?.[1].metrics ?? {})[0];
  if (!name) return null;
  const rows = found.map(([stage, each]) => ({ name: words(stage), ...each.metrics[name] })).filter((row) => typeof row.value === "number" && row.value >= 0 && row.value <= 1);
  return rows.length ? intervalChart(words(name), rows, { note: `${count(found[0][1].n)} judgements each; the line is the 95 % interval.` }) : null;
}

/** @param {Array<[string, any]>} found */
function position(found) {
  const rows = found
    .map(([stage, each]) => ({ name: words(stage), ...each.metrics.prefer_first_rate }))
    .filter((row) => typeof row.value === "number" && typeof row.low === "number");
  return rows.length ? intervalChart("Position bias: how often the answer shown first is preferred", rows, { centre: 0.5, note: "Without bias it is 50 %, the dashed line." }) : null;
}

/** @param {Array<[string, any]>} found */
function calibration(found) {
  const charts = found
    .filter(([, each]) => each.calibration?.bins?.length)
    .map(([stage, each]) => {
      const { bins, ece, n } = each.calibration;
      return reliabilityChart(`Calibration: ${words(stage).toLowerCase()}`, bins, `Expected calibration error ${ece.toFixed(3)} over ${count(n)} judgements; circles on the dashed line would be right.`);
    });
  return charts.length ? h("div", { class: "options" }, charts) : null;
}

/** Tables of flips by family of manipulations. @param {any} report */
function attacks(report) {
  return evaluationsOf(report)
    .filter(([, each]) => each.attacks?.families)
    .map(([stage, each]) => {
      const rows = [...Object.entries(each.attacks.groups ?? {}), ...Object.entries(each.attacks.families)].map(([name, facts]) => [
        words(name),
        rate(facts.flips),
        rate(facts.benign_flips),
        rate(facts.unparsed),
        rate(facts.mended),
      ]);
      return h("section", {}, h("h2", {}, `Manipulated answers: ${words(stage).toLowerCase()}`), h("p", { class: "about" }, "A flip is a right judgement that becomes wrong when the worse answer is manipulated; the benign edit is the control."), table(["Family", "Flips", "Benign edit", "Unparsed", "Mended"], rows, "Flips by family of manipulations"));
    });
}
