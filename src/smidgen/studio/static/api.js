/** Requests to the studio's server. A refusal carries the sentence of the command line. */

/** A refusal: its message is a sentence for the user. */
export class Refused extends Error {
  /** @param {string} message @param {boolean} [lost] - nothing answered, and a later request may succeed. */
  constructor(message, lost = false) {
    super(message);
    this.lost = lost;
  }
}

/**
 * @param {string} path
 * @param {RequestInit} [options]
 * @returns {Promise<Response>} an answer that is no refusal.
 */
async function answered(path, options = {}) {
  let answer;
  try {
    answer = await fetch(path, { credentials: "same-origin", ...options });
  } catch (error) {
    if (options.signal?.aborted) throw error;
    throw new Refused("The studio does not answer; see whether it still runs in the terminal.", true);
  }
  if (answer.ok) return answer;
  const found = await answer.json().catch(() => ({}));
  throw new Refused(found.error ?? `The studio answered with status ${answer.status}.`);
}

/**
 * @param {string} path
 * @param {RequestInit} [options]
 * @returns {Promise<any>} the answer's JSON.
 */
async function request(path, options = {}) {
  return (await answered(path, options)).json();
}

/** @param {string} path @param {AbortSignal} [signal] */
export const get = (path, signal) => request(path, { signal });

/** @param {string} path @param {object} [body] @param {AbortSignal} [signal] */
export const post = (path, body = {}, signal = undefined) => request(path, posted(body, signal));

/** @param {object} body @param {AbortSignal} [signal] @returns {RequestInit} */
const posted = (body, signal) => ({ method: "POST", body: JSON.stringify(body), headers: { "content-type": "application/json" }, signal });

/** Copy a file into the workspace. @param {File} file */
export const upload = (file) => request(`/api/files/${encodeURIComponent(file.name)}`, { method: "PUT", body: file });

/**
 * Follow events until they end. They come from the start each time, so a lost connection is not taken up again.
 * @param {string} path
 * @param {(event: any) => void} onevent
 * @param {() => void} [onend]
 * @returns {() => void} ends it.
 */
export function follow(path, onevent, onend = () => {}) {
  const source = new EventSource(path);
  source.onmessage = (message) => onevent(JSON.parse(message.data));
  const end = () => {
    source.close();
    onend();
  };
  source.addEventListener("end", end);
  source.onerror = end;
  return () => source.close();
}

/**
 * Start a command and follow what it prints.
 * @param {string} kind
 * @param {object} given
 * @param {(event: any) => void} onevent - `{output, lines}` as it prints, and its summary at the end.
 * @param {AbortSignal} signal - stops it.
 * @returns {Promise<any>} its summary once it has ended.
 */
export async function command(kind, given, onevent, signal) {
  return watch(await post(`/api/commands/${kind}`, given), onevent, signal);
}

/**
 * Follow what a command prints, from its start.
 * @param {any} job
 * @param {(event: any) => void} onevent
 * @param {AbortSignal} signal - stops it.
 * @returns {Promise<any>} its summary once it has ended.
 */
export function watch(job, onevent, signal) {
  const stop = () => post(`/api/jobs/${job.id}/stop`).catch(() => {}); // without an answer, following ends, too
  if (signal.aborted) stop();
  signal.addEventListener("abort", stop);
  return new Promise((resolve, reject) => {
    let ended = job;
    follow(
      `/api/jobs/${job.id}/events`,
      (event) => {
        if (event.state) ended = event;
        onevent(event);
      },
      () => {
        signal.removeEventListener("abort", stop);
        if (ended.state === "running") reject(new Refused("The connection to the studio was lost; ask again.", true));
        else resolve(ended);
      },
    );
  });
}

/**
 * Ask a model that stays loaded.
 * @param {string} kind - `chat` or `judge`.
 * @param {object} given
 * @param {(event: any) => void} onevent - `{state}` when it changes, and `{answer}` with what the model's server sends.
 * @param {AbortSignal} signal - stops the answer.
 * @returns {Promise<{state: "done" | "failed" | "stopped", error?: string}>} how it ended.
 */
export async function ask(kind, given, onevent, signal) {
  /** @type {any} */
  let end = null;
  try {
    const answer = await answered(`/api/questions/${kind}`, posted(given, signal));
    const reader = /** @type {ReadableStream<Uint8Array>} */ (answer.body).pipeThrough(new TextDecoderStream()).getReader();
    const lines = splitter((line) => {
      if (!line.startsWith("data: ")) return;
      const event = JSON.parse(line.slice("data: ".length));
      if (event.state === "done" || event.state === "failed") end = event;
      else onevent(event);
    });
    for (let piece = await reader.read(); !piece.done; piece = await reader.read()) lines(piece.value);
    if (end) return end;
  } catch (error) {
    if (end) return end; // it was stopped when it had ended
    if (signal.aborted) return { state: "stopped" };
    if (error instanceof Refused) return { state: "failed", error: error.message };
  }
  return { state: "failed", error: "The connection to the studio was lost; ask again." };
}

/** Cut pieces of a stream into lines. @param {(line: string) => void} online */
export function splitter(online) {
  let rest = "";
  return (/** @type {string} */ piece) => {
    const lines = (rest + piece).split(/\r?\n/);
    rest = lines.pop() ?? "";
    for (const line of lines) if (line.trim()) online(line);
  };
}
