/**
 * Whose work is placed next.
 *
 * 1. Priority: nothing of a lower priority is offered before everything of a higher one is placed or finds no place.
 * 2. Weighted fair share: of the submitters with waiting work, the one that holds the fewest tasks for its weight.
 * 3. Order of arrival: a submitter's oldest job gets OLDEST_TURNS of every OLDEST_TURNS + 1 tasks. The remaining one goes
 *    to the other job with the least work waiting, so that a small job need not wait behind a million tasks of its own
 *    submitter. Two large jobs therefore still finish one after the other, mostly.
 *
 * A turn is as long as it takes until another would be due, so that one job alone costs one turn. Where a turn begins in
 * the cycle of rule 3 is drawn, because a plan may place a single task.
 *
 * A job costs a few array elements and, where its submitter has others, a place in a heap that is made when rule 3 first
 * needs it: most plans place little and look at few of the jobs.
 */
import { Heap, type Meter } from './heap.js';
import type { WorkView } from './types.js';

export const OLDEST_TURNS = 3;

export interface Turn {
  /** Position among the works that were given. */
  index: number;
  work: WorkView;
  /** Tasks it may place before it is somebody else's turn; at least 1. */
  upTo: number;
}

interface Submitter {
  name: string;
  held: number;
  weight: number;
  /** Positions of its works, in order of arrival. */
  works: number[];
  /** The first of them that is open. */
  oldest: number;
  /** Places in `works`, those with the least waiting first; closed ones are dropped when they surface. */
  smallest: Heap | undefined;
  /** Tasks placed, from a drawn start. */
  cycle: number;
}

export interface FairInput {
  works: readonly WorkView[];
  heldBySubmitter: ReadonlyMap<string, number>;
  weights: ReadonlyMap<string, number> | undefined;
  random: () => number;
  meter: Meter;
}

/** Hands out turns: `next`, place something, then `placed`, until `next` has nothing more. */
export class FairOrder {
  readonly #input: FairInput;
  /** Positions of works by rising priority, each level in order of arrival. */
  readonly #levels: number[][];
  readonly #held: Map<string, number>;
  /** By position: what waits of it, 0 once nothing more of it is to be offered. */
  readonly #waiting: Float64Array;
  #submitters: Submitter[] = [];
  #heap: Heap;
  #current: { submitter: number; place: number } | undefined;

  constructor(input: FairInput) {
    this.#input = input;
    this.#held = new Map(input.heldBySubmitter);
    this.#heap = new Heap(input.meter);
    this.#waiting = Float64Array.from(input.works, (work) => work.fresh + work.returned.length);
    this.#levels = levelsOf(input.works, this.#waiting);
  }

  next(): Turn | undefined {
    while (this.#heap.size === 0) {
      const level = this.#levels.pop();
      if (!level) return undefined;
      this.#open(level);
    }
    const at = this.#heap.pop() as number;
    const submitter = this.#submitters[at] as Submitter;
    const { place, upTo } = this.#choose(submitter);
    const rival = this.#heap.peek();
    const share = rival === undefined ? Infinity : untilEqual(submitter, this.#submitters[rival] as Submitter);
    this.#current = { submitter: at, place };
    const index = submitter.works[place] as number;
    const waiting = this.#waiting[index] as number;
    return { index, work: this.#input.works[index] as WorkView, upTo: Math.min(waiting, upTo, share) };
  }

  /** Says what became of the turn. `more` is false when the work finds no place for any further task in this plan. */
  placed(count: number, more: boolean): void {
    if (!this.#current) return;
    const { submitter: at, place } = this.#current;
    this.#current = undefined;
    const submitter = this.#submitters[at] as Submitter;
    const index = submitter.works[place] as number;
    const left = more ? (this.#waiting[index] as number) - count : 0;
    this.#waiting[index] = left;
    submitter.held += count;
    submitter.cycle += count;
    if (left > 0 && place !== submitter.oldest) submitter.smallest?.push(place, left);
    while (submitter.oldest < submitter.works.length && !this.#isOpen(submitter, submitter.oldest)) submitter.oldest++;
    this.#held.set(submitter.name, submitter.held);
    if (submitter.oldest < submitter.works.length) this.#heap.push(at, submitter.held / submitter.weight);
  }

  #isOpen(submitter: Submitter, place: number): boolean {
    return (this.#waiting[submitter.works[place] as number] as number) > 0;
  }

  #open(level: number[]): void {
    const { works, weights, random } = this.#input;
    const byName = new Map<string, Submitter>();
    let last: Submitter | undefined;
    for (const index of level) {
      const name = (works[index] as WorkView).submitter;
      let submitter = last?.name === name ? last : byName.get(name);
      if (!submitter) {
        const weight = Math.max(weights?.get(name) ?? 1, Number.EPSILON);
        const rest = { works: [], oldest: 0, smallest: undefined, cycle: 0 };
        submitter = { name, held: this.#held.get(name) ?? 0, weight, ...rest };
        byName.set(name, submitter);
      }
      submitter.works.push(index);
      last = submitter;
    }
    this.#submitters = [...byName.values()];
    this.#submitters.forEach((submitter, at) => {
      if (submitter.works.length > 1) submitter.cycle = Math.floor(random() * (OLDEST_TURNS + 1));
      this.#heap.push(at, submitter.held / submitter.weight);
    });
  }

  /** Rule 3. A work other than the oldest is taken off `smallest`; `placed` puts it back. */
  #choose(submitter: Submitter): { place: number; upTo: number } {
    const { oldest, works } = submitter;
    if (oldest === works.length - 1) return { place: oldest, upTo: Infinity };
    const into = submitter.cycle % (OLDEST_TURNS + 1);
    submitter.smallest ??= into < OLDEST_TURNS ? undefined : this.#smallestOf(submitter);
    if (into < OLDEST_TURNS) return { place: oldest, upTo: this.#isAlone(submitter) ? Infinity : OLDEST_TURNS - into };
    const { smallest } = submitter;
    for (let place = smallest?.pop(); place !== undefined; place = smallest?.pop())
      if (place !== oldest && this.#isOpen(submitter, place)) return { place, upTo: 1 };
    return { place: oldest, upTo: Infinity };
  }

  /** Whether the heap, where it was made, knows of no other work that is open. */
  #isAlone(submitter: Submitter): boolean {
    const { smallest, oldest } = submitter;
    if (!smallest) return false;
    for (let place = smallest.peek(); place !== undefined; place = smallest.peek()) {
      if (place !== oldest && this.#isOpen(submitter, place)) return false;
      smallest.pop();
    }
    return true;
  }

  #smallestOf(submitter: Submitter): Heap {
    const heap = new Heap(this.#input.meter);
    for (let place = submitter.oldest; place < submitter.works.length; place++)
      if (this.#isOpen(submitter, place)) heap.add(place, this.#waiting[submitter.works[place] as number] as number);
    heap.order();
    return heap;
  }
}

function levelsOf(works: readonly WorkView[], waiting: Float64Array): number[][] {
  const levels = new Map<number, number[]>();
  works.forEach((work, index) => {
    if ((waiting[index] as number) <= 0) return;
    const level = levels.get(work.priority);
    if (level) level.push(index);
    else levels.set(work.priority, [index]);
  });
  const arrival = (index: number) => (works[index] as WorkView).arrival;
  for (const level of levels.values())
    if (level.some((index, at) => at > 0 && arrival(level[at - 1] as number) > arrival(index)))
      level.sort((a, b) => arrival(a) - arrival(b));
  return [...levels].sort(([a], [b]) => a - b).map(([, level]) => level);
}

/** Tasks until `submitter` holds more for its weight than `rival`; at least one. */
function untilEqual(submitter: Submitter, rival: Submitter): number {
  return Math.max(1, Math.floor((rival.held / rival.weight) * submitter.weight - submitter.held) + 1);
}
