/**
 * Which running tasks get a second attempt, and where. Pure; services/speculation.ts acts on it.
 *
 * Near the end of a job (nothing of it waits any more, at least half is done) a task is a straggler when it has run much
 * longer than its like: longer than `factor` times the 75th percentile of what completed, and than a floor below which a
 * copy would cost more than it wins. Of work whose progress nobody reports, an attempt that has run for so long may be
 * expected to need as long again (running times have heavy tails, else it would not be one), which is more than the whole
 * of a fresh one; so a copy is expected to end first wherever it starts at once. Compare Dean and Ghemawat, "MapReduce",
 * OSDI 2004, §3.6 (backup tasks), and Spark's spark.speculation.* (quantile 0.75, multiplier).
 *
 * What it costs: slots that stood idle, on at most a tenth of the job's tasks at a time. What it does not do: find tasks
 * that are slow by nature. They have one copy at a time, both attempts take long, and the first result counts.
 */
import { ruledOut } from './scheduler/feasible.js';
import type { Cost, Kind, NodeView } from './scheduler/types.js';
import { fitCount } from './room.js';
import type { JobCounts } from './job.js';
import type { TaskRef } from './task.js';

export interface SpeculationSettings {
  /** So many times the 75th percentile of completed running times make a straggler. At least 1. */
  factor: number;
  /** Nothing younger is copied, in milliseconds. */
  floorMs: number;
}

export const SPECULATION_DEFAULTS: SpeculationSettings = { factor: 2, floorMs: 5000 };

/** Of the job's tasks, as many may have a copy at a time; one may always. */
const SHARE_MAX = 0.1;
/** However large the job is. Bounds what one turn commits, and the memory of it. */
const COPIES_MAX = 1000;
/** Of the job's tasks, as many must have completed before the others can be compared with them. */
const DONE_MIN = 0.5;
const QUANTILE = 0.75;

/** Nothing of the job waits, and enough of it is done to know what is usual. Cheap: asked of every such job, every turn. */
export function nearsEnd({ total, materialised, queued, retrying, completed }: JobCounts): boolean {
  return materialised === total && queued === 0 && retrying === 0 && completed >= Math.max(1, total * DONE_MIN);
}

/** How many of the job's tasks may have a copy at the same time. */
export const copiesMax = (total: number): number => Math.min(COPIES_MAX, Math.max(1, Math.floor(total * SHARE_MAX)));

/**
 * The age from which an attempt is a straggler; undefined when nothing is known to compare with.
 * @param runTimesMs of completed tasks of the job, ascending
 */
export function stragglerAgeMs(runTimesMs: readonly number[], settings: SpeculationSettings): number | undefined {
  const usual = runTimesMs[Math.ceil(runTimesMs.length * QUANTILE) - 1];
  return usual === undefined ? undefined : Math.max(settings.floorMs, usual * settings.factor);
}

export interface RunningTask extends TaskRef {
  node: number;
  /** Since its agent started it. */
  ageMs: number;
  /** Nodes its task failed on. */
  failedNodes: readonly number[];
}

export interface CopyPlan {
  task: RunningTask;
  to: number;
}

export interface CopyWork {
  kind: Kind;
  cost: Cost;
  blockedNodes: ReadonlySet<number>;
  /** Attempts of the job that run and have no copy. */
  running: readonly RunningTask[];
  /** From this age on, `stragglerAgeMs`. */
  fromAgeMs: number;
  /** So many more may be made now. */
  copiesMax: number;
}

/** A node that is so much slower than the best that is soon free gets no copy at first: it would end too late to be of use. */
const MUCH_SLOWER = 1.5;
const SOON_MS = 2000;

/** A slot is free, or will be within SOON_MS as tasks there go, when those that wait there already have had theirs. */
const isSoonFree = ({ free, queued, turnoverPerMs = 0 }: NodeView): boolean =>
  free.slots + turnoverPerMs * SOON_MS >= queued + 1;

/** Of a success there, relative to a node of the usual pace that spoils nothing. */
const expectedTime = (node: NodeView): number => paceOf(node) / Math.max(node.reliability, 0.01);

const paceOf = ({ pace = 1 }: NodeView): number => pace;

/**
 * Where the copy may go: never to the original's node, nor where it is ruled out; and while there is another, neither to one
 * the task failed on, nor to one that is blocked or on trial. A straggler may hang for ever: a poor place is better than none.
 */
function placesFor(task: RunningTask, { blockedNodes }: CopyWork, feasible: readonly NodeView[]) {
  const isOther = ({ seq }: NodeView): boolean => seq !== task.node;
  const isGood = (node: NodeView): boolean =>
    isOther(node) && !node.onTrial && !blockedNodes.has(node.seq) && !task.failedNodes.includes(node.seq);
  return feasible.some(isGood) ? isGood : isOther;
}

/** For a faster node the straggler waits as long as a copy on this one could take without being a straggler itself. */
const hasWaited = ({ ageMs }: RunningTask, { fromAgeMs }: CopyWork, node: NodeView): boolean =>
  ageMs >= fromAgeMs * (1 + paceOf(node));

/**
 * The oldest stragglers first, each where it is likely to end first among the nodes on which it starts at once, that is,
 * where nothing waits: the fast and reliable before the idle, and what is much slower than one that is soon free only when
 * that was not free soon.
 */
export function planCopies(work: CopyWork, nodes: readonly NodeView[]): CopyPlan[] {
  const plans: CopyPlan[] = [];
  const taken = new Map<number, number>();
  const stragglers = work.running
    .filter(({ ageMs }) => ageMs >= work.fromAgeMs)
    .sort((a, b) => b.ageMs - a.ageMs)
    .slice(0, work.copiesMax);
  if (stragglers.length === 0) return plans;
  const feasible = nodes.filter((node) => !ruledOut(work.kind, work.cost, node));
  const soonFree = feasible.filter(isSoonFree);
  const able = feasible
    .filter(({ queued }) => queued === 0)
    .sort((a, b) => expectedTime(a) - expectedTime(b) || a.load - b.load || a.seq - b.seq);
  for (const task of stragglers) {
    // Its own node seems soon free, too, as tasks there mostly go: it is no place to wait for.
    const suits = placesFor(task, work, feasible);
    const best = soonFree.reduce((least, node) => (suits(node) ? Math.min(least, paceOf(node)) : least), Infinity);
    const home = able.find(
      (node) =>
        suits(node) &&
        (paceOf(node) <= best * MUCH_SLOWER || hasWaited(task, work, node)) &&
        fitCount(node.free, work.cost) > (taken.get(node.seq) ?? 0),
    );
    if (!home) continue;
    taken.set(home.seq, (taken.get(home.seq) ?? 0) + 1);
    plans.push({ task, to: home.seq });
  }
  return plans;
}
