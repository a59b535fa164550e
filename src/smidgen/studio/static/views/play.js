/** Step 6: try a model: judge a pair in both orders, route a text into a store, or ask base and specialist. */

import { command, post } from "../api.js";
import { announce, choice, field, figure, fill, h, notice, table, waiting } from "../dom.js";
import { state } from "../state.js";
import { tabs } from "../tabs.js";

const VERDICTS = { a: "A is better", b: "B is better", tie: "neither is better", unsure: "unsure" };
const STORE = "memory.db";

/** @param {HTMLElement} main */
export function playView(main) {
  const runs = state.overview.runs.filter((/** @type {any} */ run) => run.best);
  fill(main, h("p", { class: "lead" }, "Every question starts a command of its own, which loads the model first."), ...tabs("What to try", [
    ["judge", "Judge", (place) => judging(place, runs)],
    ["route", "Route", (place) => routing(place, runs)],
    ["chat", "Chat", (place) => chatting(place, runs)],
  ]));
}

/** A select of the bundled model and of what runs have made. @param {any[]} runs @param {string[]} tasks */
function models(runs, tasks) {
  const own = runs.filter((run) => !tasks.length || tasks.includes(run.task ?? "")).map((run) => run.name);
  const picked = choice([["", "smidgen:nano, untrained"], ...own.map((name) => /** @type {[string, string]} */ ([name, name]))], own.includes(state.run) ? /** @type {string} */ (state.run) : own[0] ?? "", () => {});
  return { field: field("Model", picked), run: () => picked.value };
}

/** A text area with its label. @param {string} label @param {string} value @param {number} rows */
function area(label, value, rows) {
  const input = h("textarea", { rows: String(rows), value });
  return { field: field(label, input), value: () => input.value };
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
  const button = h("button", { class: "primary", onclick: ask }, "Judge in both orders");

  async function ask() {
    button.disabled = true;
    const texts = Object.fromEntries(Object.keys(orders).map((order) => [order, h("pre", { tabindex: "0", "aria-label": orders[order] })]));
    const heads = Object.fromEntries(Object.entries(orders).map(([order, title]) => [order, h("h3", {}, title)]));
    const status = h("div", {}, waiting("Loading the model …"));
    const result = h("div", {});
    fill(out, result, status, h("div", { class: "pair" }, Object.keys(orders).map((order) => h("div", { class: "said", "aria-live": "off" }, heads[order], texts[order]))));
    const run = model.run();
    const template = runs.find((each) => each.name === run)?.template ?? "rubric";
    try {
      const lines = splitter((line) => {
        fill(status);
        const event = JSON.parse(line);
        if (event.order) texts[event.order].append(event.text);
        else finish(event);
      });
      const job = await command("judge", { run, template, prompt: given.prompt.value(), a: given.a.value(), b: given.b.value() }, (event) => event.output && lines(event.output));
      fill(status);
      if (job.error) fill(result, notice("error", job.error));
    } catch (error) {
      fill(out, notice("error", error.message));
    }
    button.disabled = false;

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

  fill(place, h("div", { class: "fields" }, model.field), given.prompt.field, h("div", { class: "pair" }, given.a.field, given.b.field), h("p", { class: "next" }, button), out);
}

/** @param {HTMLElement} place @param {any[]} runs */
function routing(place, runs) {
  const model = models(runs, ["memorize", "arbitrate", "classify", "intent", ""]);
  const text = area("Text", "My dentist moved to Hill Street 4.", 3);
  const out = h("div", { "aria-live": "polite" });
  const journal = h("div", {});
  const button = h("button", { class: "primary", onclick: ask }, "Route it");

  async function ask() {
    button.disabled = true;
    fill(out, waiting("Loading the model …"));
    let printed = "";
    try {
      const job = await command("route", { run: model.run(), text: text.value(), store: STORE }, (event) => (printed += event.output ?? ""));
      const found = printed.trim() ? JSON.parse(printed.trim().split("\n")[0]) : null;
      const decided = found?.decisions?.map((/** @type {any} */ each) => Object.values(each).join(" ")).join(", ");
      fill(out, job.error ? notice("error", job.error) : null, found ? h("p", { class: "verdict" }, decided || found.status) : null, found ? h("p", { class: "about" }, `Decided by the task ${found.task} in ${(1000 * found.seconds).toFixed(0)} ms${found.stored ? `; ${found.stored.state} as entry ${found.stored.entry} of ${STORE}` : ""}.`) : null);
      await look();
    } catch (error) {
      fill(out, notice("error", error.message));
    }
    button.disabled = false;
  }

  /** Show the journal of the store. */
  async function look() {
    fill(journal, waiting("Reading the journal …"));
    const found = await post("/api/commands/memory", { store: STORE }).catch((error) => ({ error: error.message }));
    if (!found.result) return void fill(journal, notice("error", found.error));
    const entries = found.result.entries.slice(-12).reverse();
    fill(journal, h("h2", {}, "Journal"), h("p", { class: "about" }, `The last entries of ${STORE}, the newest first. Inputs are written before they are decided, so that none is lost.`), table(["Number", "Kind", "Time", "What"], entries.map((/** @type {any} */ entry) => [String(entry.number), entry.kind, entry.time.slice(11, 19), h("code", {}, JSON.stringify(entry.body).slice(0, 160))]), "Journal"));
  }

  fill(place, h("div", { class: "fields" }, model.field), text.field, h("p", { class: "next" }, button), out, journal);
  if (state.overview.stores.some((/** @type {any} */ file) => file.path === STORE)) look();
}

/** @param {HTMLElement} place @param {any[]} runs */
function chatting(place, runs) {
  const model = models(runs, []);
  const prompt = area("Message", "Tal Pil has 32 eggs and gives 17 to Kun Fu. How many eggs does Tal Pil have now?", 3);
  const out = h("div", {});
  const button = h("button", { class: "primary", onclick: ask }, "Ask both");

  async function ask() {
    button.disabled = true;
    const run = model.run();
    const sides = run ? [["The base", false], [`The specialist ${run}`, true]] : [["smidgen:nano", false]];
    const places = sides.map(([title]) => ({ head: h("h3", {}, title), text: h("pre", { tabindex: "0", "aria-label": title }) }));
    fill(out, h("div", { class: "pair" }, places.map((side) => h("div", { class: "said" }, side.head, side.text))));
    for (const side of places) fill(side.text, waiting("Loading the model …"));
    await Promise.all(
      sides.map(async ([, trained], i) => {
        let begun = false;
        try {
          const job = await command("generate", { prompt: prompt.value(), run, trained }, (event) => {
            if (!event.output) return;
            if (!begun) fill(places[i].text);
            begun = true;
            places[i].text.append(event.output);
          });
          if (!begun) fill(places[i].text);
          if (job.error) places[i].text.append(notice("error", job.error));
        } catch (error) {
          fill(places[i].text, notice("error", error.message));
        }
      }),
    );
    announce("Both have answered");
    button.disabled = false;
  }

  fill(place, h("div", { class: "fields" }, model.field), prompt.field, h("p", { class: "next" }, button), out);
}

/** Cut pieces of a stream into lines. @param {(line: string) => void} online */
function splitter(online) {
  let rest = "";
  return (/** @type {string} */ piece) => {
    const lines = (rest + piece).split("\n");
    rest = lines.pop() ?? "";
    for (const line of lines) if (line.trim()) online(line);
  };
}
