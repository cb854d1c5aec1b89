/** What both sides of a session know about runs of plain results (`SucceededRun`, mesh/v1/agent.proto). */

/** Characters of a result that may be part of a run: one text may stand for thousands of tasks. Longer ones travel alone. */
export const RUN_RESULT_CHARS_MAX = 1024;

/** What the task at this place returned, as JSON: one value is that of all. */
export const resultAt = ({ resultsJson }: { resultsJson: readonly string[] }, place: number): string =>
  (resultsJson.length === 1 ? resultsJson[0] : resultsJson[place]) ?? '';
