/** The task of the throughput bench: nothing. */
export const noop = () => null;
