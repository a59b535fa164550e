/** The page: steps on the left, one view at a time, chosen by the address after `#`. */

import { get } from "./api.js";
import { announce, fill, h, notice, waiting } from "./dom.js";
import { keep, state } from "./state.js";
import { compareView } from "./views/compare.js";
import { dataView } from "./views/data.js";
import { exportView } from "./views/export.js";
import { playView } from "./views/play.js";
import { recipeView } from "./views/recipe.js";
import { reportView } from "./views/report.js";
import { runView } from "./views/run.js";

/** @type {Array<[string, string, string, (main: HTMLElement) => any]>} */
const STEPS = [
  ["data", "Data", "Rows and what is wrong with them", dataView],
  ["recipe", "Recipe", "Settings, memory and time", recipeView],
  ["run", "Run", "Curves while it trains", runView],
  ["report", "Report", "What it can do, with intervals", reportView],
  ["compare", "Compare", "What became right or wrong", compareView],
  ["play", "Try it", "Judge, route and chat", playView],
  ["export", "Export", "Files for other programs", exportView],
];

let leave = () => {};
let shown = 0;

/** Show the view of the address. */
async function show() {
  const name = location.hash.slice(1).split("/")[0] || "data";
  const [id, title, , view] = STEPS.find(([step]) => step === name) ?? STEPS[0];
  const main = /** @type {HTMLElement} */ (document.getElementById("main"));
  const mine = ++shown;
  leave();
  leave = () => {};
  for (const link of document.querySelectorAll("#steps a")) {
    if (link.getAttribute("href") === `#${id}`) link.setAttribute("aria-current", "step");
    else link.removeAttribute("aria-current");
  }
  document.title = `${title} – smidgen studio`;
  const heading = h("h1", { tabindex: "-1" }, title);
  const place = h("div", {}, h("div", { class: "late" }, waiting("Looking into the folder …")));
  fill(main, heading, place);
  if (mine > 1) heading.focus();
  announce(title);
  try {
    const overview = await get("/api/workspace");
    if (mine !== shown) return;
    const still = overview.rows.some((/** @type {any} */ file) => file.path === state.file);
    keep({ overview, file: still ? state.file : undefined });
    fill(/** @type {Element} */ (document.getElementById("place")), overview.name);
    const ended = await view(fill(place));
    if (mine === shown) leave = ended ?? (() => {});
    else ended?.();
  } catch (error) {
    if (mine !== shown) return;
    place.querySelector(".late")?.remove();
    place.append(notice("error", error.message));
  }
}

const steps = /** @type {Element} */ (document.getElementById("steps"));
fill(
  steps,
  STEPS.map(([id, title, about]) => h("li", {}, h("a", { href: `#${id}` }, h("b", {}, title), h("span", {}, about)))),
);
window.addEventListener("hashchange", show);
document.querySelector(".skip")?.addEventListener("click", (event) => {
  event.preventDefault();
  document.getElementById("main")?.focus();
});
if (state) show();
