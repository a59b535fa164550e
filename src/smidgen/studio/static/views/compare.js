/** @param {HTMLElement} main */
export function compareView(main) { main.append("later"); }
