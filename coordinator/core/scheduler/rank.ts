/**
 * How good a node is for one more task; lower is better.
 *
 *   score = α·rtt + β·load + γ·queue + δ·(1 − reliability) + ε·speed − newcomer
 *
 * Each term before its weight is in [0, 1] and is about the same thing: the share of a slot's time that work there would
 * lose. That makes them comparable, and weights of one the natural start.
 *
 * rtt          rtt / (rtt + taskMs): of the time from sending a task to having its result, the share spent on the way.
 *              20 ms do not matter to a render and matter to a no-op. With an unknown task time, a second is assumed.
 * load         busy share of the whole machine at the last heartbeat, plus what this plan placed since. A busy machine
 *              runs a task slower, but cores that are idle are not slowed by those that are not, hence half the weight.
 * queue        queued / (queued + finished in one pipeline delay): a queue as long as what the node finishes while a
 *              message travels costs one half, one many times as long costs nearly all.
 * reliability  1 − the exponentially weighted share of attempts the node did not spoil: the share of work done twice.
 * speed        pace / (pace + 1): one half for a node where tasks take as long as usual, a ninth for one that is eight times
 *              as fast, eight ninths for one that is as much slower. What it is about is the time a task takes there, so
 *              the full weight makes an idle slow node wait until the fast ones are busy.
 * newcomer     at most NEWCOMER_BOOST, shrinking to nothing over its first NEWCOMER_ATTEMPTS, so that a node that looks
 *              a little worse than others is tried before it is judged. Bounded, so that a hopeless one is not.
 */
import type { Coefficients, NodeView } from './types.js';

export const COEFFICIENTS_DEFAULT: Coefficients = { rtt: 1, load: 0.5, queue: 1, reliability: 1, speed: 1 };
export const NEWCOMER_BOOST = 0.1;
export const NEWCOMER_ATTEMPTS = 20;
/** Stands in for a task time that is not known yet. */
export const TASK_MS_UNKNOWN = 1000;

/** What the score depends on: the node at this moment of the plan, and the work. */
export interface Standing {
  rttMs: number;
  load: number;
  queued: number;
  /** Tasks of this work that the node finishes in one pipeline delay; see prefill.ts. */
  finishedPerDelay: number;
  reliability: number;
  finished: number;
  /** At the usual pace. */
  taskMs: number | undefined;
  pace: number;
}

export function scoreOf(standing: Standing, weights: Coefficients): number {
  return (
    weights.rtt * rttTerm(standing) +
    weights.load * unit(standing.load) +
    weights.queue * queueTerm(standing) +
    weights.reliability * (1 - unit(standing.reliability)) +
    weights.speed * speedTerm(standing) -
    newcomerBoost(standing)
  );
}

/** The same, term by term with the weights applied, as `mesh why` shows it. */
export function termsOf(standing: Standing, weights: Coefficients): Record<string, number> {
  const boost = newcomerBoost(standing);
  return {
    rtt: weights.rtt * rttTerm(standing),
    load: weights.load * unit(standing.load),
    queue: weights.queue * queueTerm(standing),
    reliability: weights.reliability * (1 - unit(standing.reliability)),
    speed: weights.speed * speedTerm(standing),
    ...(boost > 0 ? { newcomer: -boost } : {}),
  };
}

function rttTerm({ rttMs, pace, taskMs = TASK_MS_UNKNOWN }: Standing): number {
  return rttMs > 0 ? rttMs / (rttMs + taskMs * pace) : 0;
}

function speedTerm({ pace }: Standing): number {
  return pace / (pace + 1);
}

function queueTerm({ queued, finishedPerDelay }: Standing): number {
  return queued > 0 ? queued / (queued + Math.max(1, finishedPerDelay)) : 0;
}

const newcomerBoost = ({ finished }: Pick<NodeView, 'finished'>): number =>
  NEWCOMER_BOOST * Math.max(0, 1 - finished / NEWCOMER_ATTEMPTS);

/** Into [0, 1]; what is not a number counts as the worst. */
const unit = (value: number): number => (value >= 0 ? Math.min(value, 1) : value < 0 ? 0 : 1);
