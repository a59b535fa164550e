/** @param {HTMLElement} main */
export function playView(main) { main.append("later"); }
