import type { Clock, Timer } from '../../common/clock.js';
import { memoryProblem, processesProblem } from './problems.js';
import { type ProcessEntry, readMemory, readProcesses, readShareBytes, withDescendants } from './process-table.js';
import type { Bounds } from './sandbox/bounds.js';
import type { Tracked } from './strays.js';

const FIRST_MS = 250;
const EVERY_MS = 1000;
/** Sampling takes at most a fiftieth of the time, however many processes the machine has. */
const DUTY = 50;

/** A running attempt, as the sampler sees it. */
export interface Sampled {
  readonly pid: number;
  readonly tracked: Tracked;
  /** Part of the tree, but not the task's. */
  readonly keepers: ReadonlySet<number>;
  readonly bounds: Bounds;
  peakMemoryBytes: number | undefined;
  /** Processes and threads at a time. */
  peakProcesses: number;
  /** It uses more than it may. */
  exceeded(problem: string): void;
}

/**
 * Looks at all running trees together, one reading of /proc a second: how large they are, and who belongs to them. A
 * tree's size is the sum of its members' largest resident sizes, so shared pages count once per process; an attempt
 * shorter than the first sample has none.
 *
 * One that uses more than it may is told so. What counts there is what it uses now, with shared pages split among those
 * that share them: workers forked from one large process are not as large as each of them looks.
 */
export class Sampler {
  readonly #clock: Clock;
  readonly #watched = new Set<Sampled>();
  #timer: Timer | undefined;

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  /** @param ageMs since it began */
  add(sampled: Sampled, ageMs: number): void {
    this.#watched.add(sampled);
    const waitMs = Math.max(0, FIRST_MS - ageMs);
    this.#timer ??= this.#clock.after(waitMs, () => this.#sample(), { background: true });
  }

  remove(sampled: Sampled): void {
    this.#watched.delete(sampled);
    if (this.#watched.size > 0) return;
    this.#timer?.cancel();
    this.#timer = undefined;
  }

  #sample(): void {
    const startedMs = this.#clock.monotonicMs();
    this.#look(this.#watched);
    const tookMs = this.#clock.monotonicMs() - startedMs;
    this.#timer = this.#clock.after(Math.max(EVERY_MS, tookMs * DUTY), () => this.#sample(), { background: true });
  }

  /** A last look at one that is about to be stopped. */
  sampleNow(sampled: Sampled): void {
    this.#look([sampled]);
  }

  #look(trees: Iterable<Sampled>): void {
    const table = readProcesses();
    for (const sampled of trees) {
      const roots = new Set(
        table.filter((entry) => sampled.tracked.get(entry.pid) === entry.startTicks).map((entry) => entry.pid),
      );
      roots.add(sampled.pid);
      sampled.tracked.clear();
      const tree = withDescendants(table, roots);
      for (const entry of tree) sampled.tracked.set(entry.pid, entry.startTicks);
      measure(
        sampled,
        tree.filter((entry) => !entry.zombie && !sampled.keepers.has(entry.pid)),
      );
    }
  }
}

function measure(sampled: Sampled, tree: readonly ProcessEntry[]): void {
  let [peakBytes, residentBytes, processes] = [0, 0, 0];
  for (const { pid, threads } of tree) {
    const memory = readMemory(pid);
    peakBytes += memory?.peakBytes ?? 0;
    residentBytes += memory?.residentBytes ?? 0;
    processes += threads;
  }
  if (peakBytes > 0) sampled.peakMemoryBytes = Math.max(sampled.peakMemoryBytes ?? 0, peakBytes);
  sampled.peakProcesses = Math.max(sampled.peakProcesses, processes);
  const { bounds } = sampled;
  if (bounds.processes > 0 && processes > bounds.processes)
    return sampled.exceeded(processesProblem(processes, bounds.processes));
  if (bounds.memoryBytes === 0 || residentBytes <= bounds.memoryBytes) return;
  let sharedOut = 0;
  for (const { pid } of tree) sharedOut += readShareBytes(pid) ?? readMemory(pid)?.residentBytes ?? 0;
  if (sharedOut > bounds.memoryBytes) sampled.exceeded(memoryProblem(sharedOut, bounds.memoryBytes));
}
