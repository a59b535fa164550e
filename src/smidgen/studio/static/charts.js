/** Small charts as SVG: lines against steps, intervals, reliability, and a meter. */

import { count, figure, fill, h } from "./dom.js";

const WIDEST = 900;
const LEFT = 46;
const RIGHT = 12;
const TOP = 10;
const BOTTOM = 26;

/** A chart that is drawn again whenever its place gets another width. @param {(width: number) => any[]} draw */
function chart(draw) {
  const place = h("figure", { class: "chart" });
  let drawn = 0;
  new ResizeObserver(([{ contentRect }]) => {
    const width = Math.round(Math.min(WIDEST, contentRect.width));
    if (!width || width === drawn) return;
    drawn = width;
    fill(place, draw(width));
  }).observe(place);
  return place;
}

/**
 * Lines against a number, such as the loss against the step, with a legend and a readout that follows the pointer or
 * the arrow keys.
 * @param {string} title
 * @param {Array<{name: string, points: Array<[number, number]>, dots?: boolean}>} series
 * @param {{height?: number, across?: string, least?: number, most?: number}} [options] - the axis goes from `least` to `most`, or farther.
 */
export function lineChart(title, series, options = {}) {
  return chart((width) => lines(width, title, series, options));
}

/** @param {number} width @param {string} title @param {any[]} series @param {any} options */
function lines(width, title, series, { height = 220, across = "step", least = Infinity, most = 0 }) {
  const drawn = series.filter((each) => each.points.length).map((each) => ({ ...each, points: thinned(each.points, width) }));
  const all = drawn.flatMap((each) => each.points);
  const [x0, x1] = [Math.min(least, ...all.map(([x]) => x)), Math.max(most, ...all.map(([x]) => x))];
  const [y0, y1] = around(all.map(([, y]) => y));
  const x = (/** @type {number} */ value) => LEFT + ((value - x0) / (x1 - x0 || 1)) * (width - LEFT - RIGHT);
  const y = (/** @type {number} */ value) => height - BOTTOM - ((value - y0) / (y1 - y0 || 1)) * (height - TOP - BOTTOM);
  const cursor = h("svg:line", { class: "cursor", y1: TOP, y2: height - BOTTOM, visibility: "hidden" });
  const marks = h("svg:g", {});
  const readout = h("output", { class: "readout" });
  const latest = drawn.map((each) => `${each.name} ${figure(each.points[each.points.length - 1][1])}`).join(", ");
  let read = -1;
  const step = (/** @type {KeyboardEvent} */ event) => {
    const by = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!by) return;
    event.preventDefault();
    const { points } = drawn[0];
    read = read < 0 ? points.length - 1 : Math.max(0, Math.min(points.length - 1, read + by));
    show(points[read][0]);
  };
  const move = (/** @type {PointerEvent} */ event) => {
    const box = svg.getBoundingClientRect();
    show(x0 + ((((event.clientX - box.left) / box.width) * width - LEFT) / (width - LEFT - RIGHT)) * (x1 - x0));
  };
  const show = (/** @type {number} */ at) => {
    const near = drawn.map((each) => each.points.reduce((a, b) => (Math.abs(b[0] - at) < Math.abs(a[0] - at) ? b : a)));
    const place = near[0][0];
    cursor.setAttribute("x1", x(place));
    cursor.setAttribute("x2", x(place));
    cursor.setAttribute("visibility", "visible");
    marks.replaceChildren(...near.map(([px, py], i) => h("svg:circle", { class: `dot s${i}`, cx: x(px), cy: y(py), r: 4 })));
    readout.textContent = `${across} ${figure(place).replace(/\.000$/, "")}: ${near.map(([, py], i) => `${drawn[i].name} ${figure(py)}`).join(", ")}`;
  };
  const leave = () => {
    cursor.setAttribute("visibility", "hidden");
    marks.replaceChildren();
    readout.textContent = "";
    read = -1;
  };
  const svg = h(
    "svg:svg",
    { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `${title}: ${latest}`, tabindex: "0", onpointermove: move, onpointerleave: leave, onkeydown: step, onblur: leave },
    ticks(y0, y1, 4).map((value) => [
      h("svg:line", { class: "grid", x1: LEFT, x2: width - RIGHT, y1: y(value), y2: y(value) }),
      h("svg:text", { class: "tick", x: LEFT - 7, y: y(value) + 4, "text-anchor": "end" }, short(value)),
    ]),
    ticks(x0, x1, width < 480 ? 4 : 6, true)
      .filter((value) => x(value) < width - 62)
      .map((value) => h("svg:text", { class: "tick", x: x(value), y: height - 7, "text-anchor": "middle" }, short(value))),
    h("svg:text", { class: "tick", x: width - RIGHT, y: height - 7, "text-anchor": "end" }, `${across} ${count(x1)}`),
    drawn.toReversed().map((each) => [drawn.indexOf(each), each]).map(([i, each]) => [
      each.points.length > 1 ? h("svg:polyline", { class: `line s${i}`, points: each.points.map(([px, py]) => `${x(px).toFixed(1)},${y(py).toFixed(1)}`).join(" ") }) : null,
      each.dots || each.points.length === 1 ? each.points.map(([px, py]) => h("svg:circle", { class: `dot s${i}`, cx: x(px), cy: y(py), r: 3 })) : null,
    ]),
    cursor,
    marks,
  );
  const legend = h("p", { class: "legend" }, drawn.map((each, i) => h("span", { class: `s${i}` }, each.name)), readout);
  return [h("figcaption", {}, title), svg, legend];
}

/**
 * Figures with their intervals on an axis from 0 to 1, one a row.
 * @param {string} title
 * @param {Array<{name: string, value: number, low?: number, high?: number}>} rows
 * @param {{centre?: number, note?: string}} [options] - `centre` draws a line where there would be no bias.
 */
export function intervalChart(title, rows, options = {}) {
  return chart((width) => intervals(width, title, rows, options));
}

/** @param {number} width @param {string} title @param {any[]} rows @param {any} options */
function intervals(width, title, rows, { centre = undefined, note = "" }) {
  const left = width < 480 ? 122 : 150;
  const height = rows.length * 30 + 34;
  const x = (/** @type {number} */ value) => left + value * (width - left - 26);
  return [
    h("figcaption", {}, title),
    h(
      "svg:svg",
      { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `${title}: ${rows.map((row) => `${row.name} ${percent(row.value)}`).join(", ")}` },
      [0, 0.25, 0.5, 0.75, 1].map((value) => [
        h("svg:line", { class: value === centre ? "centre" : "grid", x1: x(value), x2: x(value), y1: 6, y2: height - 24 }),
        h("svg:text", { class: "tick", x: x(value), y: height - 7, "text-anchor": "middle" }, percent(value)),
      ]),
      rows.map((row, i) => {
        const at = 22 + i * 30;
        const known = typeof row.low === "number" && typeof row.high === "number";
        return h(
          "svg:g",
          {},
          h("svg:title", {}, `${row.name}: ${percent(row.value)}${known ? ` (${percent(row.low)} to ${percent(row.high)})` : ", without an interval"}`),
          h("svg:text", { class: "name", x: left - 14, y: at + 4, "text-anchor": "end" }, row.name),
          known ? h("svg:line", { class: "span s0", x1: x(row.low), x2: x(row.high), y1: at, y2: at }) : null,
          h("svg:circle", { class: "dot s0", cx: x(row.value), cy: at, r: 5 }),
        );
      }),
    ),
    note ? h("p", { class: "legend" }, note) : null,
  ];
}

/**
 * How often a judge that is this sure is right: on the diagonal it is as sure as it should be.
 * @param {string} title
 * @param {Array<{predicted: number, observed: number, n: number}>} bins
 * @param {string} note
 */
export function reliabilityChart(title, bins, note) {
  const side = 320;
  const x = (/** @type {number} */ value) => 46 + value * (side - 64);
  const y = (/** @type {number} */ value) => side - 40 - value * (side - 58);
  const largest = Math.max(...bins.map((bin) => bin.n));
  return h(
    "figure",
    { class: "chart square" },
    h("figcaption", {}, title),
    h(
      "svg:svg",
      { viewBox: `0 0 ${side} ${side}`, role: "img", "aria-label": `${title}: ${note}` },
      [0, 0.5, 1].map((value) => [
        h("svg:line", { class: "grid", x1: x(0), x2: x(1), y1: y(value), y2: y(value) }),
        h("svg:text", { class: "tick", x: 38, y: y(value) + 4, "text-anchor": "end" }, percent(value)),
        h("svg:text", { class: "tick", x: x(value), y: side - 22, "text-anchor": "middle" }, percent(value)),
      ]),
      h("svg:line", { class: "centre", x1: x(0), y1: y(0), x2: x(1), y2: y(1) }),
      h("svg:text", { class: "tick", x: x(0.5), y: side - 5, "text-anchor": "middle" }, "predicted"),
      h("svg:text", { class: "tick", x: 0, y: 8 }, "observed"),
      bins.map((bin) =>
        h(
          "svg:circle",
          { class: "dot s0", cx: x(bin.predicted), cy: y(bin.observed), r: 3 + 8 * Math.sqrt(bin.n / largest) },
          h("svg:title", {}, `predicted ${percent(bin.predicted)}, observed ${percent(bin.observed)}, ${bin.n} judgements`),
        ),
      ),
    ),
    h("p", { class: "legend" }, note),
  );
}

/** A share as a bar. @param {number} share @param {string} label */
export function meter(share, label) {
  const filled = Math.max(0.01, Math.min(1, share));
  return h(
    "svg:svg",
    { class: `meter ${share > 1 ? "over" : ""}`, viewBox: "0 0 100 3", preserveAspectRatio: "none", role: "img", "aria-label": label },
    h("svg:rect", { class: "track", width: 100, height: 3 }),
    h("svg:rect", { class: "filled", width: 100 * filled, height: 3 }),
  );
}

/** At most so many points as can be told apart; the last one stays. @param {Array<[number, number]>} points @param {number} most */
function thinned(points, most) {
  const every = Math.ceil(points.length / most);
  return points.filter((_, i) => i % every === 0 || i === points.length - 1);
}

/** Lowest and highest value with some room. @param {number[]} values @returns {[number, number]} */
function around(values) {
  const [low, high] = [Math.min(...values), Math.max(...values)];
  const room = (high - low || Math.abs(high) || 1) * 0.06;
  return [low >= 0 ? Math.max(0, low - room) : low - room, high + room];
}

/** Round numbers between two. @param {number} from @param {number} to @param {number} about @param {boolean} [whole] */
function ticks(from, to, about, whole = false) {
  const rough = (to - from || 1) / about;
  const power = 10 ** Math.floor(Math.log10(rough));
  let step = power * ([1, 2, 5, 10].find((each) => each * power >= rough) ?? 10);
  if (whole) step = Math.max(1, Math.round(step));
  const found = [];
  for (let value = Math.ceil(from / step) * step; value <= to + step * 1e-6; value += step) found.push(value);
  return found;
}

/** @param {number} value */
function short(value) {
  const text = Math.abs(value) >= 1000 ? `${Number((value / 1000).toFixed(1))}k` : String(Number(value.toPrecision(3)));
  return text.replace("-", "−");
}

/** @param {number} value */
function percent(value) {
  return `${Math.round(100 * value)} %`;
}
