/**
 * A lower bound for the makespan of any schedule, of an all-knowing one too: it is given every task's size, every machine's
 * real speed, when it was down, and when each job came. With slots of speed v and tasks of size p (time at speed 1), the
 * bound is the largest of these, each of which every schedule must respect:
 *
 *   work      for each release time r: what is released at r or later cannot begin before r, so the machines, whatever they
 *             do, need until T with  ∫[r, T] Σ v(slot, up at t) dt ≥ Σ p(released ≥ r).
 *   largest   for each k below the number of slots: the k largest tasks run on at most k slots at a time, so
 *             T ≥ (Σ k largest p) / (Σ k fastest v).
 *   whole     a task runs on one slot from its beginning to its end: by T a slot of speed v has ended at most
 *             ⌊T·v / p_min⌋ tasks of size p_min or more; so Σ ⌊T·v / p_min⌋ ≥ n.
 *
 * The first two are the optimum of preemptive scheduling on uniform machines (Horvath, Lam, Sethi: A level algorithm for
 * preemptive scheduling, J. ACM 24, 1977), here with release times and downtime relaxed to their sum over machines; the
 * third is the optimum for equal tasks (Q | p_j = p | C_max), applied to the smallest size. Nothing is added for attempts
 * that a failure cut short, for messages, or for starting tasks: the bound is below what anybody could reach.
 */
import type { BenchJob, BenchNode, Outcome } from './makespan-mesh.js';

export function lowerBoundMs(nodes: readonly BenchNode[], jobs: readonly BenchJob[], down: Outcome['down']): number {
  return Math.max(workBound(nodes, jobs, down), largestBound(nodes, jobs), wholeBound(nodes, jobs));
}

/** By when the machines can have worked off so much since `fromMs`. */
function workedOffBy(nodes: readonly BenchNode[], down: Outcome['down'], fromMs: number, workMs: number): number {
  const changes = nodes.flatMap(({ slots, speed }, at) =>
    (down[at] ?? []).flatMap(({ fromMs: began, toMs }) => [
      { atMs: began, by: -slots * speed },
      { atMs: toMs, by: slots * speed },
    ]),
  );
  changes.sort((a, b) => a.atMs - b.atMs);
  let rate = nodes.reduce((sum, { slots, speed }) => sum + slots * speed, 0);
  let nowMs = fromMs;
  let left = workMs;
  for (const { atMs, by } of changes) {
    if (atMs > nowMs) {
      if (rate * (atMs - nowMs) >= left) break;
      left -= rate * (atMs - nowMs);
      nowMs = atMs;
    }
    rate += by;
  }
  return nowMs + left / rate;
}

function workBound(nodes: readonly BenchNode[], jobs: readonly BenchJob[], down: Outcome['down']): number {
  const releases = [...new Set(jobs.map(({ atMs }) => atMs))];
  return Math.max(
    ...releases.map((fromMs) => {
      const work = jobs.filter(({ atMs }) => atMs >= fromMs).flatMap(({ sizesMs }) => sizesMs);
      return workedOffBy(
        nodes,
        down,
        fromMs,
        work.reduce((sum, size) => sum + size, 0),
      );
    }),
  );
}

const speedsOf = (nodes: readonly BenchNode[]): number[] =>
  nodes.flatMap(({ slots, speed }) => Array.from({ length: slots }, () => speed)).sort((a, b) => b - a);

function largestBound(nodes: readonly BenchNode[], jobs: readonly BenchJob[]): number {
  const sizes = jobs.flatMap(({ sizesMs }) => sizesMs).sort((a, b) => b - a);
  let bound = 0;
  let work = 0;
  let rate = 0;
  speedsOf(nodes).forEach((speed, at) => {
    work += sizes[at] ?? 0;
    rate += speed;
    bound = Math.max(bound, work / rate);
  });
  return bound;
}

function wholeBound(nodes: readonly BenchNode[], jobs: readonly BenchJob[]): number {
  const sizes = jobs.flatMap(({ sizesMs }) => sizesMs);
  const least = sizes.reduce((a, b) => Math.min(a, b), Infinity);
  const speeds = speedsOf(nodes);
  const done = (atMs: number) => speeds.reduce((sum, speed) => sum + Math.floor((atMs * speed) / least + 1e-9), 0);
  let low = 0;
  let high = (sizes.length * least) / (speeds[0] as number);
  while (high - low > high * 1e-6) {
    const middle = (low + high) / 2;
    if (done(middle) >= sizes.length) high = middle;
    else low = middle;
  }
  return low;
}
