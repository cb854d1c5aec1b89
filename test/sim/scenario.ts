/** What a seed sets up: how many machines of which kind, how fast time runs, how much work, which faults. */
import type { SeededRandom } from '../support/random.js';

export interface Scenario {
  coordinators: number;
  nodes: { slots: number; speed: number; dieTogether: boolean }[];
  config: { heartbeat: number; nodeLease: number; leaderLease: number; stragglerFloor: number };
  jobs: number;
  tasksMax: number;
  /** Jobs come and things break for so long; then all is healed. */
  faultyMs: number;
  /** Faults to come, on average one per so many milliseconds. Infinity for none. */
  faultEveryMs: number;
  /** Messages that the network shows twice. */
  duplicateRate: number;
  /** A run that is not done by then has failed. */
  limitMs: number;
}

export function scenarioOf(random: SeededRandom): Scenario {
  const heartbeat = random.pick([500, 1000, 2000]);
  const nodes = Array.from({ length: random.integer(2, 4) }, () => ({
    slots: random.integer(1, 4),
    speed: random.pick([0.5, 1, 1, 2]),
    dieTogether: random.chance(0.5),
  }));
  return {
    coordinators: random.chance(0.6) ? 2 : 1,
    nodes,
    config: { heartbeat, nodeLease: heartbeat * 7.5, leaderLease: random.pick([3000, 6000]), stragglerFloor: 1000 },
    jobs: random.integer(2, 6),
    tasksMax: random.pick([3, 10, 25]),
    faultyMs: random.integer(20_000, 70_000),
    faultEveryMs: random.pick([1500, 3000, 6000]),
    duplicateRate: random.pick([0, 0.05]),
    limitMs: 1_200_000,
  };
}
