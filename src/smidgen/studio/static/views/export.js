/** @param {HTMLElement} main */
export function exportView(main) { main.append("later"); }
