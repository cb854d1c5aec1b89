/**
 * Which of very many jobs a plan looks at. Jobs of one submitter, priority and kind are told apart by their order alone,
 * and a plan places a bounded number of tasks, so of ten thousand such jobs it needs those whose turn it can be: the
 * oldest, until they have as many tasks as a plan may place, and those with the least waiting (fair.ts, rule 3). A job
 * with blocked nodes may be passed by for want of a place and stands in nobody's way: it is looked at beside the others.
 *
 * Up to ALL_MAX jobs are all looked at. Beyond, one pass and no sort; a plan costs what the list costs.
 */
export interface Waiter<T> {
  arrival: (job: T) => number;
  /** Tasks. */
  waiting: (job: T) => number;
  isBlocked: (job: T) => boolean;
}

const ALL_MAX = 256;
/** Tasks that the oldest together should have; a plan places fewer, but for meshes of a hundred nodes and more. */
const TASKS = 20_000;
const OLDEST_MAX = 4096;
const SMALLEST = 64;

export function shortlist<T>(jobs: ReadonlySet<T>, { arrival, waiting, isBlocked }: Waiter<T>): Iterable<T> {
  if (jobs.size <= ALL_MAX) return jobs;
  const open: T[] = [];
  const chosen = new Set<T>();
  let tasks = 0;
  for (const job of jobs) {
    tasks += waiting(job);
    if (isBlocked(job)) chosen.add(job);
    else open.push(job);
  }
  const oldest = Math.min(OLDEST_MAX, Math.max(ALL_MAX, Math.ceil((TASKS * jobs.size) / Math.max(1, tasks))));
  for (const job of lowest(open, oldest, arrival)) chosen.add(job);
  for (const job of lowest(open, SMALLEST, waiting)) chosen.add(job);
  return chosen;
}

/**
 * The `count` items, at least one, with the lowest keys, in no order. A heap of those found so far, the highest on top: nearly all of a
 * list that comes in order, as jobs do, are passed by with one comparison.
 */
export function lowest<T>(items: readonly T[], count: number, keyOf: (item: T) => number): T[] {
  const heap = items.slice(0, count);
  const sink = (from: number): void => {
    for (let at = from; ; ) {
      const left = 2 * at + 1;
      if (left >= heap.length) return;
      const right = left + 1;
      const child = right < heap.length && keyOf(heap[right] as T) > keyOf(heap[left] as T) ? right : left;
      if (keyOf(heap[child] as T) <= keyOf(heap[at] as T)) return;
      [heap[at], heap[child]] = [heap[child] as T, heap[at] as T];
      at = child;
    }
  };
  for (let at = (heap.length >> 1) - 1; at >= 0; at--) sink(at);
  for (let at = count; at < items.length; at++) {
    const item = items[at] as T;
    if (keyOf(item) >= keyOf(heap[0] as T)) continue;
    heap[0] = item;
    sink(0);
  }
  return heap;
}
