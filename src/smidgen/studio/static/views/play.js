/** Step 6: try a model: judge a pair in both orders, route a text into a store, or talk with base and specialist. */

import { ask, command, post } from "../api.js";
import { announce, area, choice, field, figure, fill, h, notice, table, waiting } from "../dom.js";
import { starter } from "../starter.js";
import { state } from "../state.js";
import { tabs } from "../tabs.js";
import { chatting } from "./chat.js";

const VERDICTS = { a: "A is better", b: "B is better", tie: "neither is better", unsure: "unsure" };
const STORE = "memory.db";

/** @param {HTMLElement} main */
export function playView(main) {
  const runs = state.overview.runs.filter((/** @type {any} */ run) => run.best);
  let leave = () => {};
  /** @type {(show: (place: HTMLElement, runs: any[]) => () => void) => (place: HTMLElement) => void} */
  const opens = (show) => (place) => {
    leave(); // what nobody sees is not asked any more
    leave = show(place, runs);
  };
  fill(main, h("p", { class: "lead" }, "Judge and chat load a model once; it stays loaded until five minutes pass without a question. Route loads it each time."), ...tabs("What to try", [
    ["judge", "Judge", opens(judging)],
    ["route", "Route", opens(routing)],
    ["chat", "Chat", opens(chatting)],
  ]));
  return () => leave();
}

/** A select of the bundled model and of what runs have made. @param {any[]} runs @param {string[]} tasks */
function models(runs, tasks) {
  const own = runs.filter((run) => tasks.includes(run.task ?? "")).map((run) => run.name);
  const picked = choice([["", "smidgen:nano, untrained"], ...own.map((name) => /** @type {[string, string]} */ ([name, name]))], own.includes(state.run) ? /** @type {string} */ (state.run) : own[0] ?? "", () => {});
  return { field: field("Model", picked), run: () => picked.value };
}

/** @param {HTMLElement} place @param {any[]} runs */
function judging(place, runs) {
  const model = models(runs, ["judge"]);
  const given = {
    prompt: area("Question", "Tal Pil lived in Lonby. Then Tal Pil moved to Hestead. Where does Tal Pil live now?", 3),
    a: area("Answer A", "Tal Pil lives in Hestead now.", 3),
    b: area("Answer B", "Tal Pil lives in Lonby now.", 3),
  };
  const out = h("div", { "aria-live": "polite" });
  const orders = { ab: "A shown first", ba: "B shown first" };
  const { buttons, stop } = starter("Judge in both orders", judge);

  /** @param {AbortSignal} signal */
  async function judge(signal) {
    const texts = Object.fromEntries(Object.keys(orders).map((order) => [order, h("pre", { role: "group", tabindex: "0", "aria-label": orders[order] })]));
    const heads = Object.fromEntries(Object.entries(orders).map(([order, title]) => [order, h("h3", {}, title)]));
    const status = h("div", {}, waiting("Loading the model …"));
    const result = h("div", {});
    fill(out, result, status, h("div", { class: "pair" }, Object.keys(orders).map((order) => h("div", { class: "said", "aria-live": "off" }, heads[order], texts[order]))));
    const run = model.run();
    const template = runs.find((each) => each.name === run)?.template ?? "rubric";
    const asked = { run, template, prompt: given.prompt.value(), a: given.a.value(), b: given.b.value() };
    const end = await ask("judge", asked, (event) => {
      if (event.state === "answering") fill(status, waiting("Judging …"));
      else if (event.answer?.order) texts[event.answer.order].append(event.answer.text);
      else if (event.answer) finish(event.answer);
    }, signal);
    fill(status);
    if (end.state === "failed") fill(result, notice("error", end.error));
    if (end.state === "stopped") fill(result, notice("note", "Stopped before there was a verdict."));

    /** @param {any} found */
    function finish(found) {
      for (const said of found.said) {
        const scores = said.scores ? `, ${figure(said.scores[0])} for A and ${figure(said.scores[1])} for B` : "";
        heads[said.order].append(h("small", {}, said.verdict ? `${VERDICTS[said.verdict]}${scores}` : `no verdict: ${said.fault}`));
      }
      const both = found.said.map((/** @type {any} */ said) => said.verdict);
      const contradict = found.verdict === "tie" && both.includes("a") && both.includes("b");
      const verdict = contradict ? "the judgements contradict each other, so neither counts as better" : found.verdict ? VERDICTS[found.verdict] : "no verdict";
      fill(result, h("p", { class: "verdict" }, verdict.charAt(0).toUpperCase() + verdict.slice(1)), h("p", { class: "about" }, `${found.consistent ? "Both orders agree" : both.some(Boolean) ? "The orders do not agree" : "Neither judgement can be read"}; ${found.tokens} tokens in ${found.seconds.toFixed(1)} s.`));
      announce(verdict);
    }
  }

  fill(place, h("div", { class: "fields" }, model.field), given.prompt.field, h("div", { class: "pair" }, given.a.field, given.b.field), h("p", { class: "next actions" }, buttons), out);
  return stop;
}

/** @param {HTMLElement} place @param {any[]} runs */
function routing(place, runs) {
  const model = models(runs, ["memorize", "arbitrate", "classify", "intent", ""]);
  const text = area("Text", "My dentist moved to Hill Street 4.", 3);
  const out = h("div", { "aria-live": "polite" });
  const journal = h("div", {});
  const { buttons } = starter("Route it", route);

  /** @param {AbortSignal} signal */
  async function route(signal) {
    fill(out, waiting("Loading the model …"));
    let printed = "";
    try {
      const job = await command("route", { run: model.run(), text: text.value(), store: STORE }, (event) => (printed += event.output ?? ""), signal);
      const found = printed.trim() ? JSON.parse(printed.trim().split("\n")[0]) : null;
      const decided = found?.decisions?.map((/** @type {any} */ each) => Object.values(each).join(" ")).join(", ");
      fill(
        out,
        job.state === "stopped" ? notice("note", "Stopped. If the text is in the journal already, it is decided with the next one.") : null,
        job.error ? notice("error", job.error) : null,
        found ? h("p", { class: "verdict" }, decided || found.status) : null,
        found ? h("p", { class: "about" }, `Decided by the task ${found.task} in ${(1000 * found.seconds).toFixed(0)} ms${found.stored ? `; ${found.stored.state} as entry ${found.stored.entry} of ${STORE}` : ""}.`) : null,
      );
      await look(job.state === "stopped");
    } catch (error) {
      fill(out, notice("error", error.message));
    }
  }

  /** Show the journal of the store. @param {boolean} [maybe] - there may be none. */
  async function look(maybe = false) {
    fill(journal, waiting("Reading the journal …"));
    const found = await post("/api/commands/memory", { store: STORE }).catch((error) => ({ error: error.message }));
    if (!found.result) return void fill(journal, maybe ? null : notice("error", found.error));
    const entries = found.result.entries.slice(-12).reverse();
    fill(journal, h("h2", {}, "Journal"), h("p", { class: "about" }, `The last entries of ${STORE}, the newest first. Inputs are written before they are decided, so that none is lost.`), table(["Number", "Kind", "Time", "What"], entries.map((/** @type {any} */ entry) => [String(entry.number), entry.kind, entry.time.slice(11, 19), h("code", {}, JSON.stringify(entry.body).slice(0, 160))]), "Journal"));
  }

  fill(place, h("div", { class: "fields" }, model.field), text.field, h("p", { class: "next actions" }, buttons), out, journal);
  if (state.overview.stores.some((/** @type {any} */ file) => file.path === STORE)) look();
  return () => {}; // what was begun is decided, and stands in the journal
}
