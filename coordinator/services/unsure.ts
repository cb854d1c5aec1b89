/** A statement that nobody heard of any more may still be under way on the server for so long. */
export const UNSURE_MS = 5 * 60_000;
