/** The invariants of the design over a history: what `npm run sim` and the tests with real processes both assert. */
import type { History } from './events.js';
import { cleanedUp, neverTwiceAtOnce, withinSlots } from './processes.js';
import { nothingForgotten } from './outbox.js';
import { progress } from './progress.js';
import { boundedCounts, oneEnd, oneResult, onlyCurrent, ownResult } from './results.js';

export interface Violation {
  invariant: 'I1' | 'I2' | 'I3' | 'I4' | 'I5' | 'I6' | 'I7' | 'I8' | 'outbox';
  /** What happened, to whom, when. */
  message: string;
  atMs: number | undefined;
}

export interface CheckOptions {
  /** The longer of the two leases, for I6. Default 15 s. */
  leaseMs?: number;
  /** What progress may take beyond two leases: round trips, a turn of a loop. Default 5 s. */
  slackMs?: number;
  /** How long a machine may take after it woke until its `stop` attempts are dead. Default 2 s. */
  wakeGraceMs?: number;
}

export const CHECK_DEFAULTS = { leaseMs: 15_000, slackMs: 5000, wakeGraceMs: 2000 } as const;

export type Invariant = (history: History, options: Required<CheckOptions>) => Violation[];

/** In the order of their numbers; and that what an agent has kept is not forgotten. */
export const INVARIANTS: readonly Invariant[] = [
  oneEnd,
  oneResult,
  onlyCurrent,
  ownResult,
  boundedCounts,
  cleanedUp,
  progress,
  withinSlots,
  neverTwiceAtOnce,
  nothingForgotten,
];

/** Empty when the history keeps every promise. */
export function check(history: History, options: CheckOptions = {}): Violation[] {
  const whole = { ...CHECK_DEFAULTS, ...options };
  return INVARIANTS.flatMap((invariant) => invariant(history, whole));
}

export const violationText = ({ invariant, message, atMs }: Violation): string =>
  `${invariant}${atMs === undefined ? '' : ` at ${(atMs / 1000).toFixed(3)} s`}: ${message}`;
