/** What the steps hand on to each other; kept for this tab, so that reloading the page loses nothing. */

const KEY = "smidgen-studio";
const kept = JSON.parse(sessionStorage.getItem(KEY) ?? "{}");

/** @type {{file?: string, task?: string, template?: string, toml?: string, recipeFile?: string, run?: string, talker?: string, talks?: Object<string, any[]>, overview?: any}} */
export const state = kept;

/** Change what is kept. @param {object} changes */
export function keep(changes) {
  Object.assign(state, changes);
  const { overview, ...plain } = state;
  try {
    sessionStorage.setItem(KEY, JSON.stringify(plain));
  } catch {
    const { talks, ...short } = plain; // the browser keeps no more: what was said goes with the page
    sessionStorage.setItem(KEY, JSON.stringify(short));
  }
}
