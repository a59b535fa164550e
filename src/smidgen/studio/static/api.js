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
 * @returns {Promise<any>} the answer's JSON.
 */
async function request(path, options = {}) {
  let answer;
  try {
    answer = await fetch(path, { credentials: "same-origin", ...options });
  } catch (error) {
    if (options.signal?.aborted) throw error;
    throw new Refused("The studio does not answer; see whether it still runs in the terminal.", true);
  }
  const found = await answer.json().catch(() => ({ error: `The studio answered with status ${answer.status}.` }));
  if (!answer.ok) throw new Refused(found.error ?? `The studio answered with status ${answer.status}.`);
  return found;
}

/** @param {string} path @param {AbortSignal} [signal] */
export const get = (path, signal) => request(path, { signal });

/** @param {string} path @param {object} [body] @param {AbortSignal} [signal] */
export const post = (path, body = {}, signal = undefined) =>
  request(path, { method: "POST", body: JSON.stringify(body), headers: { "content-type": "application/json" }, signal });

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
 * @param {(job: any) => void} [onstart]
 * @returns {Promise<any>} its summary once it has ended.
 */
export async function command(kind, given, onevent, onstart = () => {}) {
  const job = await post(`/api/commands/${kind}`, given);
  onstart(job);
  return new Promise((resolve, reject) => {
    let ended = job;
    follow(
      `/api/jobs/${job.id}/events`,
      (event) => {
        if (event.state) ended = event;
        onevent(event);
      },
      () => (ended.state === "running" ? reject(new Refused("The connection to the studio was lost; ask again.", true)) : resolve(ended)),
    );
  });
}
