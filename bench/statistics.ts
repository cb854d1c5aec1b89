/** The few figures that a row of a report is made of. */

/** The middle value; of an even number of values the mean of the two in the middle. @throws when there is none */
export function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  const half = sorted.length / 2;
  const [low, high] = [sorted[Math.ceil(half) - 1], sorted[Math.floor(half)]];
  if (low === undefined || high === undefined) throw new Error('the median of nothing');
  return (low + high) / 2;
}

/**
 * The smallest value that is not exceeded by `percent` of all (the nearest rank, so it was really measured).
 * @throws when there is no value, or `percent` is not above 0 and at most 100
 */
export function percentile(values: readonly number[], percent: number): number {
  const sorted = [...values].sort((a, b) => a - b);
  const found = sorted[Math.ceil((percent / 100) * sorted.length) - 1];
  if (found === undefined) throw new Error(`no percentile ${percent} of ${values.length} values`);
  return found;
}
