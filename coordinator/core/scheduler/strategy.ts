/**
 * Which of the nodes that could take a task takes it. A strategy gives each candidate a key; the planner takes the
 * lowest, asks again for a node that something was placed on, and prefers free room to a place in a queue whatever the
 * strategy. `score` is for use; the others exist so that its worth can be measured.
 */
import { scoreOf, type Standing } from './rank.js';
import type { Coefficients, PlanSettings } from './types.js';

/** A node at this moment of the plan, before work whose tasks last about so long. */
export interface Candidate extends Standing {
  /** Position among the snapshot's nodes. */
  index: number;
  /** Order in which this plan last placed something here; 0 when it did not yet. */
  lastTurn: number;
}

export interface Strategy {
  /** Lower goes first. Must not fall as a node fills up, or the planner may overlook it for a while. */
  key(candidate: Candidate): number;
  /** Tasks in a row a node may get before it is compared again, of the `room` it has. */
  chunk(room: number): number;
  /** Leaves a slow node idle where the work would sooner be done by faster ones that are busy; see patience.ts. */
  patient: boolean;
}

/** A node may fill to an eighth of its room between comparisons: evenness bought with a heap step per chunk. */
const SCORE_CHUNKS = 8;

const score = (weights: Coefficients): Strategy => ({
  key: (candidate) => scoreOf(candidate, weights),
  chunk: (room) => Math.ceil(room / SCORE_CHUNKS),
  patient: weights.speed > 0,
});

/** Each in turn, whatever it is; where the round starts is drawn, so that plans of few tasks do not favour the first. */
const roundRobin = (nodes: number, random: () => number): Strategy => {
  const start = Math.floor(random() * nodes);
  return {
    key: ({ index, lastTurn }) => (lastTurn > 0 ? nodes + lastTurn : (index - start + nodes) % nodes),
    chunk: () => 1,
    patient: false,
  };
};

const anyNode = (random: () => number): Strategy => ({ key: () => random(), chunk: () => 1, patient: false });

/** @param random draws from [0, 1) */
export function makeStrategy(settings: PlanSettings, nodes: number, random: () => number): Strategy {
  switch (settings.strategy) {
    case 'score':
      return score(settings.coefficients);
    case 'round-robin':
      return roundRobin(nodes, random);
    case 'random':
      return anyNode(random);
  }
}
