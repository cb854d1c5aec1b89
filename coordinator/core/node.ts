/**
 * What the coordinator believes about a node, from what it hears: liveness, reliability, round trip. All times are the
 * coordinator's own monotonic clock; the agent's lease began earlier, when it sent what was answered, so it
 * ends first.
 */
import type { AttemptOutcome } from './task.js';

/**
 * HEALTHY  heard from lately. Left by: three missed heartbeats, a goodbye.
 * SUSPECT  silent for a while, or not heard from since the coordinator started: keeps its work, gets none. Left by: a
 *          heartbeat, the end of the lease.
 * OFFLINE  the lease is over; its tasks are given away. Left by: a heartbeat on a new session.
 */
export type NodeState = 'HEALTHY' | 'SUSPECT' | 'OFFLINE';

export interface LivenessSettings {
  heartbeatMs: number;
  /** So many heartbeats missed make a node SUSPECT. */
  suspectAfterMissed: number;
  /** Silence after which a node is OFFLINE. */
  leaseMs: number;
}

export const LIVENESS_DEFAULTS: LivenessSettings = { heartbeatMs: 2000, suspectAfterMissed: 3, leaseMs: 15_000 };

export interface NodeTransition {
  from: NodeState;
  to: NodeState;
  reason: string;
}

/** The state machine of one node. Every method returns the transition it caused, if any. */
export class NodeLiveness {
  readonly #settings: LivenessSettings;
  #state: NodeState;
  /** The last heartbeat, or for a node not heard from yet the start of its grace. */
  #heardMs: number;
  #everHeard: boolean;

  private constructor(settings: LivenessSettings, state: NodeState, heardMs: number, everHeard: boolean) {
    this.#settings = settings;
    this.#state = state;
    this.#heardMs = heardMs;
    this.#everHeard = everHeard;
  }

  /** A node that has just said hello. */
  static connected(settings: LivenessSettings, nowMs: number): NodeLiveness {
    return new NodeLiveness(settings, 'HEALTHY', nowMs, true);
  }

  /** A node known from the store when a coordinator starts to lead: one full lease of grace from here. */
  static recovered(settings: LivenessSettings, nowMs: number): NodeLiveness {
    return new NodeLiveness(settings, 'SUSPECT', nowMs, false);
  }

  get state(): NodeState {
    return this.#state;
  }

  /** Monotonic; undefined when it was never heard from. */
  get lastHeartbeatMs(): number | undefined {
    return this.#everHeard ? this.#heardMs : undefined;
  }

  /** A hello or a heartbeat arrived. */
  heard(nowMs: number): NodeTransition | undefined {
    this.#heardMs = Math.max(this.#heardMs, nowMs);
    this.#everHeard = true;
    return this.#set('HEALTHY', 'heartbeat received');
  }

  /** Time passed. Call it about twice per heartbeat. */
  tick(nowMs: number): NodeTransition | undefined {
    if (this.#state === 'OFFLINE') return undefined;
    const { heartbeatMs, suspectAfterMissed, leaseMs } = this.#settings;
    const silentMs = nowMs - this.#heardMs;
    const since = this.#everHeard ? 'no heartbeat' : 'not heard from since the coordinator started,';
    const silence = `${since} for ${(silentMs / 1000).toFixed(1)} s`;
    if (silentMs >= leaseMs) return this.#set('OFFLINE', silence);
    if (silentMs > heartbeatMs * suspectAfterMissed) return this.#set('SUSPECT', silence);
    return undefined;
  }

  /** How long the agent may still believe in its lease, at most: its own ends no later than this. */
  leaseLeftMs(nowMs: number): number {
    return this.#everHeard ? Math.max(0, this.#heardMs + this.#settings.leaseMs - nowMs) : this.#settings.leaseMs;
  }

  /** The agent said that it stops: its lease ends now. */
  left(reason: string): NodeTransition | undefined {
    return this.#set('OFFLINE', reason);
  }

  /**
   * The coordinator itself stood still for `stalledMs`: what the node sent meanwhile is still in the socket, so the
   * silence is not the node's. Waiting longer is always safe, because the agent's lease ends first.
   */
  excuse(stalledMs: number): void {
    this.#heardMs += Math.max(0, stalledMs);
  }

  /** When `tick` would next change something, on the same clock; undefined when only a heartbeat can. */
  nextChangeMs(): number | undefined {
    const { heartbeatMs, suspectAfterMissed, leaseMs } = this.#settings;
    if (this.#state === 'OFFLINE') return undefined;
    return this.#heardMs + (this.#state === 'HEALTHY' ? heartbeatMs * suspectAfterMissed : leaseMs);
  }

  /** The only place where the state changes. */
  #set(to: NodeState, reason: string): NodeTransition | undefined {
    const from = this.#state;
    if (from === to) return undefined;
    this.#state = to;
    return { from, to, reason };
  }
}

/** Weight of the latest attempt: about the last twenty count. */
const RELIABILITY_WEIGHT = 0.05;

/** A node nobody knows yet is trusted; the planner's newcomer boost says the rest. */
export const RELIABILITY_START = 1;

/** Whether the node spoiled the attempt; undefined for ends that say nothing about the node. */
export function spoiledByNode(outcome: AttemptOutcome): boolean | undefined {
  switch (outcome) {
    case 'node-lost':
    case 'node-fault':
      return true;
    case 'succeeded':
    case 'failed':
    case 'timed-out':
      return false;
    case 'cancelled':
    case 'shutdown':
    case 'retracted':
      return undefined;
  }
}

/**
 * Exponentially weighted share of attempts the node did not spoil, after `count` more of one kind. A lost node is one
 * event however many attempts it held: count it once, or one pulled cable would brand a machine with many slots.
 */
export function updateReliability(reliability: number, spoiled: boolean, count = 1): number {
  const target = spoiled ? 0 : 1;
  return target + (reliability - target) * (1 - RELIABILITY_WEIGHT) ** count;
}

export interface RoundTrip {
  smoothedMs: number;
  variationMs: number;
}

/** SRTT and RTTVAR of RFC 6298 §2, α = 1/8 and β = 1/4. Samples below zero (a clock that was read wrongly) are ignored. */
export function smoothRoundTrip(previous: RoundTrip | undefined, sampleMs: number): RoundTrip | undefined {
  if (!Number.isFinite(sampleMs) || sampleMs < 0) return previous;
  if (!previous) return { smoothedMs: sampleMs, variationMs: sampleMs / 2 };
  const deviation = Math.abs(previous.smoothedMs - sampleMs);
  return {
    variationMs: previous.variationMs + (deviation - previous.variationMs) / 4,
    smoothedMs: previous.smoothedMs + (sampleMs - previous.smoothedMs) / 8,
  };
}
