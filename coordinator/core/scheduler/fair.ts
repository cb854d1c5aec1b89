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

interface Claim {
  index: number;
  /** Among its submitter's claims. */
  position: number;
  work: WorkView;
  waiting: number;
  open: boolean;
}

interface Submitter {
  held: number;
  weight: number;
  /** In order of arrival. */
  claims: Claim[];
  /** First open claim. */
  oldest: number;
  /** Positions in `claims`, those with the least waiting first; closed ones are dropped when they surface. */
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
  readonly #levels: Claim[][];
  readonly #held: Map<string, number>;
  #submitters: Submitter[] = [];
  #heap: Heap;
  #current: { submitter: number; claim: Claim } | undefined;

  constructor(input: FairInput) {
    this.#input = input;
    this.#held = new Map(input.heldBySubmitter);
    this.#heap = new Heap(input.meter);
    this.#levels = levelsOf(input.works);
  }

  next(): Turn | undefined {
    while (this.#heap.size === 0) {
      const level = this.#levels.pop();
      if (!level) return undefined;
      this.#open(level);
    }
    const at = this.#heap.pop() as number;
    const submitter = this.#submitters[at] as Submitter;
    const { claim, upTo } = choose(submitter);
    const rival = this.#heap.peek();
    const share = rival === undefined ? Infinity : untilEqual(submitter, this.#submitters[rival] as Submitter);
    this.#current = { submitter: at, claim };
    return { index: claim.index, work: claim.work, upTo: Math.min(claim.waiting, upTo, share) };
  }

  /** Says what became of the turn. `more` is false when the work finds no place for any further task in this plan. */
  placed(count: number, more: boolean): void {
    if (!this.#current) return;
    const { submitter: at, claim } = this.#current;
    this.#current = undefined;
    const submitter = this.#submitters[at] as Submitter;
    claim.waiting -= count;
    submitter.held += count;
    submitter.cycle += count;
    if (!more || claim.waiting <= 0) claim.open = false;
    else if (submitter.claims[submitter.oldest] !== claim) submitter.smallest?.push(claim.position, claim.waiting);
    while (submitter.oldest < submitter.claims.length && !submitter.claims[submitter.oldest]?.open) submitter.oldest++;
    this.#held.set(claim.work.submitter, submitter.held);
    if (submitter.oldest < submitter.claims.length) this.#heap.push(at, submitter.held / submitter.weight);
  }

  #open(level: Claim[]): void {
    const { weights, random, meter } = this.#input;
    const byName = new Map<string, Submitter>();
    for (const claim of level) {
      const name = claim.work.submitter;
      let submitter = byName.get(name);
      if (!submitter) {
        const weight = Math.max(weights?.get(name) ?? 1, Number.EPSILON);
        submitter = { held: this.#held.get(name) ?? 0, weight, claims: [], oldest: 0, smallest: undefined, cycle: 0 };
        byName.set(name, submitter);
      }
      claim.position = submitter.claims.push(claim) - 1;
    }
    this.#submitters = [...byName.values()];
    this.#submitters.forEach((submitter, at) => {
      if (submitter.claims.length > 1) {
        const smallest = new Heap(meter);
        submitter.claims.forEach((claim, position) => smallest.push(position, claim.waiting));
        submitter.smallest = smallest;
        submitter.cycle = Math.floor(random() * (OLDEST_TURNS + 1));
      }
      this.#heap.push(at, submitter.held / submitter.weight);
    });
  }
}

/** Claims with waiting work by rising priority, each level in order of arrival. */
function levelsOf(works: readonly WorkView[]): Claim[][] {
  const claims: Claim[] = [];
  works.forEach((work, index) => {
    const waiting = work.fresh + work.returned.length;
    if (waiting > 0) claims.push({ index, position: 0, work, waiting, open: true });
  });
  claims.sort((a, b) => a.work.priority - b.work.priority || a.work.arrival - b.work.arrival);
  const levels: Claim[][] = [];
  for (const claim of claims) {
    const level = levels.at(-1);
    if (level?.[0]?.work.priority === claim.work.priority) level.push(claim);
    else levels.push([claim]);
  }
  return levels;
}

/** Rule 3. The claim is taken off `smallest`; `placed` puts it back. */
function choose(submitter: Submitter): { claim: Claim; upTo: number } {
  const oldest = submitter.claims[submitter.oldest] as Claim;
  const { smallest } = submitter;
  if (!smallest) return { claim: oldest, upTo: Infinity };
  for (;;) {
    const position = smallest.peek();
    if (position === undefined) return { claim: oldest, upTo: Infinity };
    const other = submitter.claims[position] as Claim;
    if (!other.open || other === oldest) {
      smallest.pop();
      continue;
    }
    const into = submitter.cycle % (OLDEST_TURNS + 1);
    if (into < OLDEST_TURNS) return { claim: oldest, upTo: OLDEST_TURNS - into };
    smallest.pop();
    return { claim: other, upTo: 1 };
  }
}

/** Tasks until `submitter` holds more for its weight than `rival`; at least one. */
function untilEqual(submitter: Submitter, rival: Submitter): number {
  return Math.max(1, Math.floor((rival.held / rival.weight) * submitter.weight - submitter.held) + 1);
}
