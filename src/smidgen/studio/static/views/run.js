/** Step 3: a run while it goes on: its stages, its curves and what it says; stopping and going on. */

import { follow, get, post } from "../api.js";
import { lineChart } from "../charts.js";
import { announce, choice, duration, empty, field, figure, fill, h, named, notice, stateMark, words } from "../dom.js";
import { keep, state } from "../state.js";

/** @param {HTMLElement} main */
export async function runView(main) {
  const runs = state.overview.runs.map((/** @type {any} */ run) => run.name);
  const name = named() || (state.run && runs.includes(state.run) ? state.run : runs[0]) || state.run;
  if (!name) {
    fill(main, empty("Nothing has run yet", h("p", {}, "Choose the settings in the ", h("a", { href: "#recipe" }, "recipe"), ", and start it there.")));
    return;
  }
  keep({ run: name });
  const shown = { state: h("span", {}), action: h("div", { class: "actions" }), fault: h("div", {}), stages: h("ol", { class: "stages" }), charts: h("div", { class: "charts" }), log: h("pre", { tabindex: "0", "aria-label": "What the run says" }), said: h("details", { class: "log" }) };
  const all = runs.includes(name) ? runs : [name, ...runs];
  fill(
    main,
    h("div", { class: "fields" }, field("Run", choice(all.map((/** @type {string} */ run) => [run, run]), name, (run) => (location.hash = `#run/${encodeURIComponent(run)}`)))),
    h("div", { class: "bar" }, h("h2", {}, name), shown.state, shown.action),
    shown.fault,
    h("div", { class: "columns narrow" }, shown.charts, h("section", { "aria-label": "Stages" }, h("h2", {}, "Stages"), shown.stages)),
    fill(shown.said, h("summary", {}, "What it says"), shown.log),
  );
  const view = new RunView(name, shown);
  const turned = () => view.turn();
  document.addEventListener("visibilitychange", turned);
  shown.said.addEventListener("toggle", () => view.listen());
  await view.begin();
  return () => {
    document.removeEventListener("visibilitychange", turned);
    view.end();
  };
}

class RunView {
  /** @param {string} name @param {any} shown */
  constructor(name, shown) {
    this.name = name;
    this.shown = shown;
    /** @type {{events: any[], metrics: any[]}} */
    this.rows = { events: [], metrics: [] };
    this.stopFollowing = () => {};
    this.stopJob = () => {};
    this.ended = false;
    this.drawing = 0;
    this.how = "running";
  }

  /** Show what there is, and follow what comes. */
  async begin() {
    await this.look();
    if (this.ended) return;
    this.rows = { events: [], metrics: [] };
    this.draw();
    this.stopFollowing();
    this.stopFollowing = follow(`/api/runs/${encodeURIComponent(this.name)}/events`, (event) => this.take(event), () => this.finish());
  }

  end() {
    this.ended = true;
    this.stopFollowing();
    this.stopJob();
  }

  /** A page that is not seen follows nothing: a browser has six connections for all its pages together. */
  turn() {
    if (!document.hidden) {
      if (this.how === "running") this.begin().catch(() => this.finish());
      return;
    }
    this.stopFollowing();
    this.unlisten();
  }

  /** The state of the run, and what can be done with it. */
  async look() {
    const run = await get(`/api/runs/${encodeURIComponent(this.name)}`);
    if (this.ended) return;
    const { state: how, job } = run;
    this.how = how;
    fill(this.shown.state, stateMark(how, job?.stopping && how === "running" ? "stopping" : how));
    this.shown.state.dataset.state = how;
    const actions = [];
    const foreign = how === "running" && job?.state !== "running";
    if (how === "running") actions.push(h("button", { disabled: !foreign && job.stopping, onclick: () => this.stop() }, "Stop"));
    if (how === "stopped" || how === "failed") actions.push(h("button", { class: "primary", onclick: () => this.resume() }, how === "failed" ? "Try again" : "Resume"));
    if (how === "failed") actions.push(h("a", { class: "button plain", href: "#recipe" }, "Change the recipe"));
    if (run.report) actions.push(h("a", { class: how === "done" ? "button" : "button plain", href: `#report/${encodeURIComponent(this.name)}` }, "Report"));
    fill(this.shown.action, actions);
    fill(
      this.shown.fault,
      how === "failed" ? notice("error", job?.error ?? "The run failed.") : null,
      how === "stopped" ? notice("note", "Stopped. It goes on from its last checkpoint.") : null,
      foreign ? notice("note", "This run was started elsewhere; what it says is shown there.") : null,
    );
    this.job = job;
    this.shown.said.hidden = !job;
    this.listen();
    return how;
  }

  /** What the command says, once somebody wants to know. */
  listen() {
    const { said, log } = this.shown;
    if (!this.job || !said.open || this.heard === this.job.id) return;
    this.unlisten();
    this.heard = this.job.id;
    log.textContent = `$ ${this.job.command}\n`;
    this.stopJob = follow(`/api/jobs/${this.job.id}/events`, (event) => {
      for (const line of event.lines ?? []) log.append(`${line}\n`);
    });
  }

  unlisten() {
    this.heard = "";
    this.stopJob();
  }

  /** @param {{file: "events" | "metrics", restart: boolean, rows: any[]}} event */
  take(event) {
    if (event.restart) this.rows[event.file] = [];
    for (const row of event.rows) this.rows[event.file].push(row);
    cancelAnimationFrame(this.drawing);
    this.drawing = requestAnimationFrame(() => this.draw());
  }

  /** The run has ended, or was never going on. */
  async finish() {
    if (this.ended) return;
    this.draw();
    try {
      const how = await this.look();
      if (how === "running") setTimeout(() => this.ended || this.begin().catch(() => this.finish()), 2000); // the connection was lost
      else announce(`The run ${this.name} is ${how}`);
    } catch (error) {
      fill(this.shown.fault, notice("error", error.message));
      if (error.lost) setTimeout(() => this.finish(), 3000);
    }
  }

  async stop() {
    try {
      await post(`/api/runs/${encodeURIComponent(this.name)}/stop`);
      announce("Stopping after the step that is being made");
      await this.look();
    } catch (error) {
      fill(this.shown.fault, notice("error", error.message));
    }
  }

  async resume() {
    try {
      await post(`/api/runs/${encodeURIComponent(this.name)}/resume`);
      announce(`The run ${this.name} goes on`);
    } catch (error) {
      announce(error.message); // another page may have begun it
    }
    await this.begin().catch((error) => fill(this.shown.fault, notice("error", error.message)));
  }

  draw() {
    const { events, metrics } = this.rows;
    fill(this.shown.stages, events.length ? stagesOf(events) : h("li", {}, this.how === "running" ? "Reading the recipe and the rows …" : "None was begun."));
    const total = Math.max(0, ...events.filter((event) => event.stage === "train" && event.total).map((event) => event.total));
    const charts = curves(metrics, total);
    const none = this.how === "running" ? "Curves appear with the first step of the training." : "No step of a training was made.";
    const results = resultsOf(events);
    fill(
      this.shown.charts,
      charts.length ? charts : h("p", { class: "about" }, none),
      results.length ? h("dl", { class: "results" }, results.map(([stage, value]) => h("div", {}, h("dt", {}, stage), h("dd", {}, value)))) : null,
    );
  }
}

/** The stages with their last step and duration. @param {any[]} events */
function stagesOf(events) {
  const stages = new Map();
  for (const event of events) {
    const stage = stages.get(event.stage) ?? {};
    if (event.kind === "stage") Object.assign(stage, { state: event.state, seconds: event.seconds });
    if (event.kind === "step") Object.assign(stage, { step: event.step, total: event.total });
    if (event.kind === "message") stage.text = event.text;
    stages.set(event.stage, stage);
  }
  return [...stages].map(([name, stage]) =>
    h(
      "li",
      { class: stage.state },
      h("b", {}, words(name)),
      h("span", {}, stage.state === "finished" ? duration(stage.seconds) : stage.state === "skipped" ? "done before" : stage.total ? `${stage.step} of ${stage.total}` : stage.step ? `${stage.step}` : "…"),
      stage.text && !stage.text.startsWith("report:") ? h("small", {}, stage.text) : null,
    ),
  );
}

/** Curves of the training: loss, rewards, and the task's metric. @param {any[]} rows @param {number} most */
function curves(rows, most) {
  const points = (/** @type {(row: any) => any} */ value) => rows.map((row) => [row.step, value(row)]).filter(([, y]) => typeof y === "number");
  const charts = [];
  const axis = { most, least: rows[0]?.step };
  const loss = [
    { name: "training loss", points: points((row) => row.loss) },
    { name: "validation loss", points: points((row) => row.validation_loss), dots: true },
  ];
  if (loss[0].points.length) charts.push(lineChart("Loss", loss, axis));
  const rewards = rewardsOf(rows).map(([key, name]) => ({ name, points: points((row) => row.metrics?.[key]) }));
  if (rewards.some((each) => each.points.length)) charts.push(lineChart("Reward", rewards, axis));
  const metric = [{ name: "on validation rows", points: points((row) => row.metric), dots: true }];
  if (metric[0].points.length) charts.push(lineChart("Metric of the task", metric, axis));
  return charts;
}

/** The total reward, and its parts where they say more than the total: keys and names. @param {any[]} rows @returns {Array<[string, string]>} */
function rewardsOf(rows) {
  const keys = [...new Set(rows.flatMap((row) => Object.keys(row.metrics ?? {})))];
  const parts = keys.flatMap((key) => key.match(/^rewards\/(.+)\/mean$/) ?? []).filter((_, i) => i % 2);
  const differs = parts.filter((name) => rows.some((row) => row.metrics?.[`rewards/${name}/mean`] !== row.metrics?.reward));
  const total = keys.includes("reward") ? [/** @type {[string, string]} */ (["reward", "reward"])] : [];
  return [...total, ...differs.slice(0, 3).map((name) => /** @type {[string, string]} */ ([`rewards/${name}/mean`, name.replaceAll("_", " ")]))];
}

/** The first metric of every evaluated stage. @param {any[]} events */
function resultsOf(events) {
  return events
    .filter((event) => event.kind === "metric" && Object.keys(event.metrics).length)
    .map((event) => {
      const [name, value] = Object.entries(event.metrics)[0];
      return [`${words(event.stage)}: ${name.replaceAll("_", " ")}`, figure(value)];
    });
}
