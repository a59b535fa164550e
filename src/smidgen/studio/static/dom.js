/** Building elements, saying things to screen readers, and writing numbers. */

const SVG = "http://www.w3.org/2000/svg";

/**
 * Make an element. Text children are never read as markup.
 * @param {string} tag - name of the element; with `svg:` before it, one of SVG.
 * @param {Object<string, any>} [props] - attributes; `onclick` and the like are listeners; false and null are left out.
 * @param {...any} children - elements, texts, and lists of them.
 * @returns {any} the element.
 */
export function h(tag, props = {}, ...children) {
  const element = tag.startsWith("svg:") ? document.createElementNS(SVG, tag.slice(4)) : document.createElement(tag);
  for (const [name, value] of Object.entries(props ?? {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "value" || name === "checked" || name === "selected") element[name] = value;
    else element.setAttribute(name, value === true ? "" : String(value));
  }
  add(element, children);
  return element;
}

/** Append children, lists of them flattened, nothing for null. @param {Element} element @param {any[]} children */
export function add(element, children) {
  for (const child of children.flat(Infinity)) {
    if (child === null || child === undefined || child === false) continue;
    element.append(child instanceof Node ? child : String(child));
  }
}

/** Replace what an element contains. @param {Element} element @param {...any} children */
export function fill(element, ...children) {
  element.replaceChildren();
  add(element, children);
  return element;
}

let last = 0;
/** A new id for an element. @param {string} [stem] */
export function newId(stem = "id") {
  last += 1;
  return `${stem}-${last}`;
}

/** Say a sentence to screen readers. @param {string} sentence */
export function announce(sentence) {
  const place = document.getElementById("announcer");
  if (place) place.textContent = sentence;
}

/**
 * A labelled field.
 * @param {string} label
 * @param {HTMLElement} input - gets the id that the label is for.
 * @param {string} [help] - described under the field.
 */
export function field(label, input, help = "") {
  input.id ||= newId("field");
  const about = help ? h("small", { id: `${input.id}-help` }, help) : null;
  if (about) input.setAttribute("aria-describedby", about.id);
  return h("div", { class: "field" }, h("label", { for: input.id }, label), input, about);
}

/** A text area with its label. @param {string} label @param {string} value @param {number} rows */
export function area(label, value, rows) {
  const input = h("textarea", { rows: String(rows), value });
  return { field: field(label, input), input, value: () => input.value };
}

/**
 * A select.
 * @param {Array<[string, string]>} options - values and texts.
 * @param {string} chosen
 * @param {(value: string) => void} onchange
 */
export function choice(options, chosen, onchange) {
  const known = options.some(([value]) => value === chosen);
  return h(
    "select",
    { onchange: (event) => onchange(event.target.value) },
    options.map(([value, text], i) => h("option", { value, selected: known ? value === chosen : i === 0 }, text)),
  );
}

/** A box with a sentence of one kind: `error`, `warning`, `note` or `good`. */
export function notice(kind, ...children) {
  return h("div", { class: `notice ${kind}`, role: kind === "error" ? "alert" : null }, ...children);
}

/** What is shown while something is computed. @param {string} text */
export function waiting(text) {
  return h("p", { class: "waiting" }, h("span", { class: "pulse", "aria-hidden": "true" }), text);
}

/** How something goes on, as a colour and a word. @param {string} state - `running`, `done`, `failed` or `stopped`. @param {string} [word] */
export function stateMark(state, word = state) {
  return h("span", { class: `state ${state}` }, word);
}

/** A place without content: what is missing and what to do. */
export function empty(title, ...children) {
  return h("div", { class: "empty" }, h("h2", {}, title), ...children);
}

/** A table. @param {any[]} heads @param {any[][]} rows @param {string} caption */
export function table(heads, rows, caption) {
  return h(
    "div",
    { class: "scroll", tabindex: "0", role: "region", "aria-label": caption },
    h(
      "table",
      {},
      h("caption", { class: "hidden" }, caption),
      h("thead", {}, h("tr", {}, heads.map((head) => h("th", { scope: "col" }, head)))),
      h(
        "tbody",
        {},
        rows.map((cells) => h("tr", {}, cells.map((cell, i) => (i ? h("td", {}, cell) : h("th", { scope: "row" }, cell))))),
      ),
    ),
  );
}

/** @param {number | null | undefined} bytes */
export function size(bytes) {
  if (bytes === null || bytes === undefined) return "–";
  const units = ["bytes", "kB", "MB", "GB", "TB"];
  let value = bytes;
  let unit = 0;
  while (value >= 1000 && unit < units.length - 1) {
    value /= 1000;
    unit += 1;
  }
  return `${unit ? value.toFixed(value < 10 ? 1 : 0) : value} ${units[unit]}`;
}

/** Seconds in words: `8 s`, `3 min`, `2 h 10 min`. @param {number | null | undefined} seconds */
export function duration(seconds) {
  if (seconds === null || seconds === undefined) return "–";
  if (seconds < 90) return `${seconds < 10 ? seconds.toFixed(1) : Math.round(seconds)} s`;
  const minutes = Math.round(seconds / 60);
  return minutes < 90 ? `${minutes} min` : `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}

/** @param {number} number */
export function count(number) {
  return Number(number).toLocaleString("en");
}

/** A figure with three digits; a dash for none. @param {number | null | undefined} value */
export function figure(value) {
  if (value === null || value === undefined || Number.isNaN(value)) return "–";
  const tiny = value !== 0 && Math.abs(value) < 0.001;
  return (tiny ? value.toExponential(1) : Math.abs(value) >= 100 ? Math.round(value).toString() : value.toFixed(3)).replaceAll("-", "−");
}

/** A rate as per cent with its interval. @param {{value: number?, low?: number?, high?: number?}?} metric */
export function rate(metric) {
  if (!metric || metric.value === null || metric.value === undefined) return "–";
  const percent = (/** @type {number} */ value) => (100 * value).toFixed(1);
  const span = metric.low === null || metric.low === undefined ? "" : ` (${percent(metric.low)} to ${percent(/** @type {number} */ (metric.high))})`;
  return `${percent(metric.value)} %${span}`;
}

/** A name of the code in words. @param {string} name */
export function words(name) {
  const text = name.replaceAll("_", " ");
  return text.charAt(0).toUpperCase() + text.slice(1);
}

/** What the address names after the step, such as a run. */
export function named() {
  try {
    return decodeURIComponent(location.hash.split("/")[1] ?? "");
  } catch {
    return ""; // it was mistyped
  }
}

/** Call a function once nothing has happened for a while. @param {number} ms @param {(...given: any[]) => void} work */
export function later(ms, work) {
  let timer = 0;
  return (/** @type {any[]} */ ...given) => {
    clearTimeout(timer);
    timer = window.setTimeout(() => work(...given), ms);
  };
}
