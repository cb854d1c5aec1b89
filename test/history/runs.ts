import type { AttemptBegan, History } from './events.js';

/** One attempt's work on one node, from its beginning to its end. */
export interface Run {
  job: string;
  index: number;
  generation: number;
  node: string;
  beganMs: number;
  /** Infinity when no end was seen. */
  endedMs: number;
}

export const taskKey = ({ job, index }: { job: string; index: number }): string => `${job}.${index}`;

export const attemptText = (run: { job: string; index: number; generation: number; node: string }): string =>
  `${run.job}.${run.index} generation ${run.generation} on ${run.node}`;

const keyOf = (event: Pick<AttemptBegan, 'job' | 'index' | 'generation' | 'node'>): string =>
  `${event.job}.${event.index}.${event.generation}@${event.node}`;

/** Everything that ran, in the order in which it began. One attempt may begin again after its agent restarted. */
export function runsOf(history: History): Run[] {
  const runs: Run[] = [];
  const open = new Map<string, Run[]>();
  for (const event of history) {
    if (event.kind === 'attempt-began') {
      const { job, index, generation, node, atMs } = event;
      const run: Run = { job, index, generation, node, beganMs: atMs, endedMs: Number.POSITIVE_INFINITY };
      runs.push(run);
      const list = open.get(keyOf(event));
      if (list) list.push(run);
      else open.set(keyOf(event), [run]);
    } else if (event.kind === 'attempt-ended') {
      const run = open.get(keyOf(event))?.shift();
      if (run) run.endedMs = event.atMs;
    }
  }
  return runs;
}

export interface Interval {
  fromMs: number;
  toMs: number;
}

const STILL: ReadonlySet<string> = new Set(['node-asleep', 'node-killed']);
const BACK: ReadonlySet<string> = new Set(['node-awake', 'node-started']);

/** When nobody on a node could end its tasks: it stood still, or its agent was dead. */
export function helpless(history: History, graceMs: number): Map<string, Interval[]> {
  const found = new Map<string, Interval[]>();
  for (const event of history) {
    if (!STILL.has(event.kind) && !BACK.has(event.kind)) continue;
    const { node, atMs } = event as { node: string; atMs: number };
    let list = found.get(node);
    if (!list) found.set(node, (list = []));
    const last = list.at(-1);
    if (STILL.has(event.kind)) list.push({ fromMs: atMs, toMs: Number.POSITIVE_INFINITY });
    else if (last && atMs < last.toMs) last.toMs = atMs + graceMs;
  }
  return found;
}

/** What is left of an interval without the others. */
export function without(whole: Interval, holes: readonly Interval[]): Interval[] {
  let parts = [whole];
  for (const hole of holes)
    parts = parts.flatMap(({ fromMs, toMs }) =>
      [
        { fromMs, toMs: Math.min(toMs, hole.fromMs) },
        { fromMs: Math.max(fromMs, hole.toMs), toMs },
      ].filter((part) => part.fromMs < part.toMs),
    );
  return parts;
}
