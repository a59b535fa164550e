/** Step 7: what a run has made, as files for other programs; each is verified by the command that writes it. */

import { command, get, watch } from "../api.js";
import { announce, choice, count, empty, field, figure, fill, h, named, notice, size, waiting, words } from "../dom.js";
import { starter } from "../starter.js";
import { keep, state } from "../state.js";

const FORMATS = [
  ["gguf-q8", "GGUF, 8 bits", "For llama.cpp, Ollama and LM Studio. Small, and nearly exact.", false],
  ["gguf-f16", "GGUF, 16 bits", "For the same programs, twice the size.", false],
  ["peft", "PEFT adapter", "For transformers and vLLM, beside the base model. Nothing is rounded.", true],
  ["mlx", "mlx-lm adapter", "For mlx-lm, beside the base model.", true],
  ["fused", "Merged model", "One folder with the adapter in the weights: mlx-lm, transformers and vLLM.", true],
];

/** @param {HTMLElement} main */
export async function exportView(main) {
  const runs = state.overview.runs.filter((/** @type {any} */ run) => run.best);
  if (!runs.length) {
    main.append(empty("Nothing to export yet", h("p", {}, "A ", h("a", { href: "#run" }, "run"), " keeps its best weights as soon as it has trained.")));
    return;
  }
  const run = runs.find((/** @type {any} */ each) => each.name === (named() || state.run)) ?? runs[0];
  keep({ run: run.name });
  const going = (await get("/api/jobs")).filter((/** @type {any} */ job) => job.kind === "export" && job.state === "running");
  main.append(
    h("p", { class: "lead" }, "Each export is written as a new folder here, and read back before it counts."),
    h("div", { class: "fields" }, field("Run", choice(runs.map((/** @type {any} */ each) => [each.name, each.name]), run.name, (name) => (location.hash = `#export/${encodeURIComponent(name)}`)))),
    h("div", { class: "options" }, FORMATS.filter(([, , , adapter]) => run.adapter || !adapter).map((format) => option(run, format, going))),
  );
}

/** @param {any} run @param {any[]} format @param {any[]} going - the exports that are being written. */
function option(run, [format, title, about], going) {
  const place = h("div", { "aria-live": "polite" });
  const { buttons, run: start } = starter("Export", (signal) => show((onevent) => command("export", { run: run.name, format }, onevent, signal)), { primary: false, about: title });

  /** @param {(onevent: (event: any) => void) => Promise<any>} write */
  async function show(write) {
    fill(place, waiting("Writing and verifying …"));
    let printed = "";
    try {
      const job = await write((event) => (printed += event.output ?? ""));
      fill(place, job.state === "stopped" ? notice("note", "Stopped; nothing was written.") : job.error ? notice("error", job.error) : written(JSON.parse(printed)));
      announce(job.state === "stopped" ? `${title}: stopped` : job.error ?? `${title} was written`);
    } catch (error) {
      fill(place, notice("error", error.message));
    }
  }

  const mine = going.find((job) => job.subject === `${run.name} as ${format}`);
  if (mine) start((signal) => show((onevent) => watch(mine, onevent, signal)));
  return h("section", { class: "option" }, h("div", {}, h("h2", {}, title), h("p", {}, about)), h("div", { class: "actions" }, buttons), place);
}

const SHOWN = ["format", "dtype", "bytes", "parameters", "rank", "drift"];

/** What the command says of what it wrote. @param {any} found */
function written(found) {
  const facts = SHOWN.filter((name) => ["number", "string"].includes(typeof found[name])).map((name) => {
    const value = found[name];
    const text = typeof value === "string" ? value : name === "bytes" ? size(value) : Number.isInteger(value) ? count(value) : figure(value);
    return h("div", {}, h("dt", {}, name === "bytes" ? "Size" : words(name)), h("dd", {}, text));
  });
  return notice("good", h("b", {}, String(found.out ?? found.path ?? "written")), h("dl", {}, facts));
}
