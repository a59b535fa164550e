/** A button that starts what takes a while, and beside it one that stops it. */

import { announce, h } from "./dom.js";

/**
 * @param {string} label
 * @param {(signal: AbortSignal) => Promise<void>} work - ends soon after the signal.
 * @param {{primary?: boolean, about?: string}} [how] - what it is about, where several say the same.
 * @returns {{buttons: any[], run: (other?: (signal: AbortSignal) => Promise<void>) => Promise<void>, stop: () => void}}
 */
export function starter(label, work, { primary = true, about = "" } = {}) {
  const start = h("button", { class: primary ? "primary" : null, "aria-label": about ? `${label} ${about}` : null, onclick: () => run() }, label);
  const end = h("button", { hidden: true, "aria-label": about ? `Stop ${about}` : null, onclick: stop }, "Stop");
  let going = new AbortController();

  async function run(other = work) {
    going = new AbortController();
    end.textContent = "Stop";
    end.hidden = false;
    if (document.activeElement === start) end.focus();
    start.disabled = true;
    try {
      await other(going.signal);
    } finally {
      const isFocused = document.activeElement === end;
      start.disabled = false;
      end.hidden = true;
      if (isFocused) start.focus();
    }
  }

  function stop() {
    if (going.signal.aborted || end.hidden) return;
    end.textContent = "Stopping …";
    announce("Stopping");
    going.abort();
  }

  return { buttons: [start, end], run, stop };
}
