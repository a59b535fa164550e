/** @param {HTMLElement} main */
export function reportView(main) { main.append("later"); }
