import type { CompletedRun, Settlement } from '../ports.js';

/** Tasks of one job with successive indexes, of one generation and on one node. */
export interface Run {
  job: number;
  generation: number;
  node: number;
  first: number;
  size: number;
  /** How many of those that are said come before its first. */
  before: number;
  /** Of each of them. */
  exitCode: number | undefined;
  /** Of each of them, unless they differ. */
  ageMs: number | undefined;
  /** What each of them returned, or nothing; undefined when they differ. */
  result: { text: string | undefined } | undefined;
  /** Many enough, small enough, and there is nothing to say of them but what a block holds. */
  block: boolean;
}

/** A block takes a statement's share of two tables however few tasks it is of. */
const BLOCK_MIN = 16;
/** Of results. Whoever reads one of them reads them all. */
const BLOCK_CHARACTERS_MAX = 256 * 1024;

const isBefore = (a: Settlement, b: Settlement): number => a.job - b.job || a.index - b.index;

/** The positions of the settlements in order of job and index. Agents finish tasks nearly in order. */
export function inOrder(items: readonly Settlement[]): number[] {
  const positions = items.map((_, position) => position);
  return positions.sort((a, b) => isBefore(items[a] as Settlement, items[b] as Settlement));
}

const isPlain = ({ output, peakMemoryBytes, finishedAgeMs }: Settlement): boolean =>
  output === undefined && peakMemoryBytes === undefined && finishedAgeMs < MAX_AGE_MS;

/** Ages in blocks are whole milliseconds in 31 bits. */
const MAX_AGE_MS = 2 ** 31 - 1;

const sameAttempt = (a: Settlement, b: Settlement): boolean => a.generation === b.generation && a.node === b.node;

/** The runs of ordered settlements. What is said twice of one attempt is said once. */
export function toRuns(ordered: readonly Settlement[]): Run[] {
  const runs: Run[] = [];
  let run: (Run & { characters: number }) | undefined;
  ordered.forEach((item, before) => {
    if (isRepeated(ordered, before)) return;
    const { job, index, generation, node, resultJson, exitCode, finishedAgeMs: ageMs } = item;
    const characters = resultJson?.length ?? 0;
    const plain = isPlain(item);
    const goesOn =
      run?.job === job &&
      run.first + run.size === index &&
      run.before + run.size === before &&
      run.generation === generation &&
      run.node === node &&
      run.exitCode === exitCode &&
      run.block === plain &&
      run.characters + characters <= BLOCK_CHARACTERS_MAX;
    if (goesOn && run) {
      run.size++;
      run.characters += characters;
      if (run.ageMs !== ageMs) run.ageMs = undefined;
      if (run.result?.text !== resultJson) run.result = undefined;
    } else {
      const same = { exitCode, ageMs, result: { text: resultJson } };
      run = { job, generation, node, first: index, size: 1, before, ...same, block: plain, characters };
      runs.push(run);
    }
  });
  for (const one of runs) one.block &&= one.size >= BLOCK_MIN;
  return runs;
}

function isRepeated(ordered: readonly Settlement[], place: number): boolean {
  const item = ordered[place] as Settlement;
  for (let other = place - 1; other >= 0; other--) {
    const earlier = ordered[other] as Settlement;
    if (earlier.job !== item.job || earlier.index !== item.index) return false;
    if (sameAttempt(earlier, item)) return true;
  }
  return false;
}

/** The same of what came as a run: several when its results are too much for one block. */
export function partsOf(run: CompletedRun, before: number): Run[] {
  const { job, node, first, runUs, resultsJson, exitCode, finishedAgeMs: ageMs } = run;
  const part = (from: number, to: number): Run => ({
    ...{ job, generation: 1, node, first: first + from, size: to - from, before: before + from, exitCode, ageMs },
    result: resultsJson.length === 1 ? { text: resultsJson[0] || undefined } : undefined,
    block: to - from >= BLOCK_MIN && ageMs < MAX_AGE_MS,
  });
  const parts: Run[] = [];
  let [from, characters] = [0, 0];
  if (resultsJson.length > 1)
    resultsJson.forEach((text, place) => {
      if (characters + text.length > BLOCK_CHARACTERS_MAX && place > from) {
        parts.push(part(from, place));
        [from, characters] = [place, 0];
      }
      characters += text.length;
    });
  parts.push(part(from, runUs.length));
  return parts;
}
