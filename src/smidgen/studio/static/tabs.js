/** Tabs that are reached with the arrow keys, as the ARIA authoring practices have them. */

import { fill, h, newId } from "./dom.js";

/**
 * @param {string} label
 * @param {Array<[string, string, (panel: HTMLElement) => void]>} tabs - id, title, and what fills the panel.
 * @param {string} [chosen]
 */
export function tabs(label, tabs, chosen = tabs[0][0]) {
  const panel = h("div", { role: "tabpanel", id: newId("panel"), tabindex: "0" });
  const buttons = tabs.map(([id, title], i) =>
    h("button", { role: "tab", id: newId("tab"), "aria-controls": panel.id, onclick: () => show(id), onkeydown: (/** @type {KeyboardEvent} */ event) => move(event, i) }, title),
  );

  /** @param {string} id */
  function show(id) {
    tabs.forEach(([each], i) => {
      buttons[i].setAttribute("aria-selected", String(each === id));
      buttons[i].tabIndex = each === id ? 0 : -1;
      if (each === id) panel.setAttribute("aria-labelledby", buttons[i].id);
    });
    fill(panel);
    tabs.find(([each]) => each === id)?.[2](panel);
  }

  /** @param {KeyboardEvent} event @param {number} from */
  function move(event, from) {
    const by = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!by) return;
    const to = (from + by + tabs.length) % tabs.length;
    buttons[to].focus();
    show(tabs[to][0]);
  }

  show(chosen);
  return [h("div", { class: "tabs", role: "tablist", "aria-label": label }, buttons), panel];
}
