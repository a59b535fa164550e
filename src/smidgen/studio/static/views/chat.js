/** Conversations with a base model and its specialist side by side; each keeps its own history. */

import { ask } from "../api.js";
import { announce, area, choice, count, field, fill, h, notice, stateMark } from "../dom.js";
import { starter } from "../starter.js";
import { keep, state } from "../state.js";

/**
 * @typedef {{text: string, state: "loading" | "answering" | "done" | "failed" | "stopped", error?: string, about?: string}} Answer
 * @typedef {{question: string, answers: Answer[]}} Exchange - an answer of each model.
 */

const EXAMPLE = "Tal Pil has 32 eggs and gives 17 to Kun Fu. How many eggs does Tal Pil have now?";

/**
 * @param {HTMLElement} place
 * @param {any[]} runs
 * @returns {() => void} stops what is being answered.
 */
export function chatting(place, runs) {
  const own = runs.map((run) => run.name);
  let run = [state.talker, state.run].find((name) => own.includes(name)) ?? own[0] ?? "";
  const picked = choice([["", "smidgen:nano, untrained"], ...own.map((name) => /** @type {[string, string]} */ ([name, name]))], run, turn);
  const message = area("Message", "", 3);
  const talk = h("ol", { class: "talk", "aria-label": "Conversation" });
  const fault = h("div", {});
  const { buttons, stop } = starter("Ask", send);
  let begun = 0; // conversations; what an answer that is stopped late says belongs to none that came after
  const anew = h("button", { onclick: begin }, "New conversation");

  /** The models that are asked: their names, and whether they are the trained one. @returns {Array<[string, boolean]>} */
  const sides = () => (run ? [["The base", false], [`The specialist ${run}`, true]] : [["smidgen:nano", false]]);
  /** @returns {Exchange[]} */
  const exchanges = () => (state.talks ?? {})[run] ?? [];

  /** Talk with another model, or go on where the talk with it was. @param {string} to */
  function turn(to) {
    stop();
    run = to;
    keep({ talker: run });
    show();
  }

  function begin() {
    stop();
    begun += 1;
    remember(run, []);
    show();
    announce("New conversation");
    message.input.focus();
  }

  /** Keep a conversation for this tab. @param {string} name @param {Exchange[]} said */
  function remember(name, said) {
    keep({ talks: { ...state.talks, [name]: said } });
  }

  function show() {
    const said = exchanges();
    fill(talk, said.map((exchange) => shown(exchange, sides()).item));
    message.input.value = said.length ? "" : EXAMPLE;
    buttons[0].textContent = run ? "Ask both" : "Ask";
    anew.hidden = !said.length;
    fill(fault);
  }

  /** @param {AbortSignal} signal */
  async function send(signal) {
    const question = message.value();
    fill(fault, question.trim() ? null : notice("error", "The message is empty; write one."));
    if (!question.trim()) return;
    const models = sides();
    const before = exchanges();
    /** @type {Exchange} */
    const exchange = { question, answers: models.map(() => ({ text: "", state: "loading" })) };
    const [mine, number] = [run, begun];
    const view = shown(exchange, models);
    talk.append(view.item);
    message.input.value = "";
    anew.hidden = false;
    view.item.scrollIntoView({ block: "nearest" });
    announce(models.length > 1 ? "Asking both" : "Asking");
    await Promise.all(
      models.map(async ([, trained], i) => {
        const answer = exchange.answers[i];
        const messages = [...before.flatMap((each) => (counts(each.answers[i]) ? [each.question, each.answers[i].text] : [])), question];
        const end = await ask("chat", { run: mine, trained, messages }, (event) => {
          if (event.state) answer.state = event.state;
          const chunk = event.answer;
          answer.text += chunk?.choices?.[0]?.delta.content ?? "";
          if (chunk?.choices?.[0]?.finish_reason === "length") answer.about = "cut off at";
          if (chunk?.usage) answer.about = `${answer.about ?? ""} ${count(chunk.usage.completion_tokens)} tokens`.trim();
          view.update(i);
        }, signal);
        Object.assign(answer, end);
        view.update(i);
      }),
    );
    if (number !== begun) return;
    remember(mine, [...before, exchange]);
    if (mine === run && !view.item.isConnected) show(); // another conversation was looked at meanwhile
    const states = exchange.answers.map((each) => each.state);
    if (states.every((each) => each === "failed") && !message.value() && mine === run) message.input.value = question;
    announce(states.every((each) => each === "done") ? (models.length > 1 ? "Both have answered" : "It has answered") : models.map(([name], i) => `${name}: ${states[i]}`).join(", "));
  }

  show();
  fill(place, h("div", { class: "fields" }, field("Model", picked)), talk, message.field, fault, h("p", { class: "next actions" }, buttons, anew));
  return stop;
}

/** Whether an answer is part of the conversation: models are told what they said, but not half of it. @param {Answer} answer */
const counts = (answer) => answer?.state === "done" && Boolean(answer.text.trim());

/** @param {Exchange} exchange @param {Array<[string, boolean]>} models */
function shown(exchange, models) {
  const places = models.map(([title]) => ({ mark: h("small", {}), text: h("pre", { role: "group", tabindex: "0", "aria-label": title }), end: h("div", {}) }));
  /** @param {number} i */
  const update = (i) => {
    const { mark, text, end } = places[i];
    const answer = exchange.answers[i] ?? { text: "", state: "stopped" };
    const isGoing = answer.state === "loading" || answer.state === "answering";
    fill(mark, answer.state === "done" ? answer.about : stateMark(isGoing ? "running" : answer.state, answer.state === "loading" ? "loading the model" : answer.state));
    if (text.textContent !== answer.text) text.textContent = answer.text;
    text.hidden = !answer.text && !isGoing;
    if (answer.state === "failed") fill(end, notice("error", answer.error));
    else if (answer.state === "stopped") fill(end, h("p", { class: "about" }, "Stopped; it goes on without this question."));
    else if (answer.state === "done" && !answer.text.trim()) fill(end, h("p", { class: "about" }, "It said nothing; it goes on without this question."));
  };
  models.forEach((_, i) => update(i));
  const item = h(
    "li",
    {},
    h("p", { class: "asked" }, h("b", {}, "You"), " ", h("span", {}, exchange.question)),
    h("div", { class: "pair" }, models.map(([title], i) => h("div", { class: "said" }, h("h3", {}, title, places[i].mark), places[i].text, places[i].end))),
  );
  return { item, update };
}
