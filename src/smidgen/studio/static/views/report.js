/** Step 4: the report of a run in a frame that may do nothing, and plots of its evidence. */

import { get } from "../api.js";
import { choice, empty, field, fill, h, named, notice, waiting } from "../dom.js";
import { evidence } from "../evidence.js";
import { keep, state } from "../state.js";
import { tabs } from "../tabs.js";

/** @param {HTMLElement} main */
export async function reportView(main) {
  const runs = state.overview.runs.filter((/** @type {any} */ run) => run.report).map((/** @type {any} */ run) => run.name);
  const name = runs.includes(named()) ? named() : runs.includes(state.run) ? state.run : runs[0];
  if (!name) {
    main.append(empty("No report yet", h("p", {}, "A ", h("a", { href: "#run" }, "run"), " writes one at its end: what the model could do before and after, with intervals.")));
    return;
  }
  keep({ run: name });
  const report = get(`/api/runs/${encodeURIComponent(name)}/report.json`);
  const picked = choice(runs.map((/** @type {string} */ run) => [run, run]), name, (run) => (location.hash = `#report/${encodeURIComponent(run)}`));
  const [bar, panel] = tabs("Report", [
    ["report", "Report", (place) => fill(place, h("iframe", { src: `/api/runs/${encodeURIComponent(name)}/report.html`, sandbox: "", title: `Report of ${name}`, referrerpolicy: "no-referrer" }))],
    [
      "evidence",
      "Evidence",
      async (place) => {
        fill(place, waiting("Reading the report …"));
        await report.then((found) => fill(place, evidence(found))).catch((error) => fill(place, notice("error", error.message)));
      },
    ],
  ]);
  main.append(h("div", { class: "fields" }, field("Run", picked)), bar, panel);
  await report.catch(() => {});
}
