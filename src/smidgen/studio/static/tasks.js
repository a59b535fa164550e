/** The tasks that read rows, and how each says what it reads. */

/** Names, and what is shown of them; without a name the columns decide. @type {Array<[string, string]>} */
export const TASKS = [
  ["", "Recognise it from the columns"],
  ["judge", "judge: which of two answers is better"],
  ["intent", "intent: a text and its label"],
  ["answers", "answers: a question and its answer"],
  ["math", "math: problems with a number as answer"],
  ["choice", "choice: questions with options"],
  ["preference", "preference: chosen and rejected answers"],
  ["chat", "chat: conversations"],
  ["code", "code: programs with tests"],
  ["memorize", "memorize: what is worth keeping"],
  ["arbitrate", "arbitrate: what becomes of memories"],
  ["classify", "classify: which intent is meant"],
];
