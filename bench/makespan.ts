/**
 * How long a mesh of unequal machines takes for a list of jobs, next to what nobody could beat (makespan-bound.ts): the
 * product's coordinator and agents in virtual time (makespan-mesh.ts), with each strategy of the planner on the same machines,
 * the same jobs and the same seeds. The bound is given the sizes of the tasks, the real speeds, and when machines were down in
 * that very run; the mesh has to learn the first two and find out about the third.
 */
import type { PlanSettings } from '../coordinator/core/scheduler/types.js';
import { SeededRandom } from '../test/support/random.js';
import type { Bench, BenchOptions } from './bench.js';
import { lowerBoundMs } from './makespan-bound.js';
import type { BenchJob, BenchNode } from './makespan-mesh.js';
import type { Result, Row } from './report.js';

/** Forty slots of 1 ×, 2 × and 8 × the speed; one behind a link of 80 ms there and back, one that dies and spoils attempts. */
const NODES: readonly BenchNode[] = [
  { name: 'fast', slots: 4, speed: 8 },
  { name: 'twice-1', slots: 8, speed: 2 },
  { name: 'twice-2', slots: 8, speed: 2 },
  { name: 'far', slots: 4, speed: 2, linkMs: 40 },
  { name: 'flaky', slots: 4, speed: 2, diesEveryMs: 60_000, faultRate: 0.02 },
  { name: 'plain-1', slots: 4, speed: 1 },
  { name: 'plain-2', slots: 4, speed: 1 },
  { name: 'plain-3', slots: 4, speed: 1 },
];

const STRATEGIES: readonly PlanSettings['strategy'][] = ['score', 'round-robin', 'random'];
/** Of the bound; DESIGN §6 and §9. */
const ABOVE_BOUND_MAX = 1.1;
/** One seed says little: a single task that begins late decides on a few percent. */
const SEEDS_A_RUN = 2;
/** The simulator can be slow; smoke runs have a hundredth of the tasks. */
const SMOKE_SHARE = 100;

type Sizes = (random: SeededRandom) => number;

const uniform =
  (fromMs: number, toMs: number): Sizes =>
  (random) =>
    fromMs + (toMs - fromMs) * random.next();
/** Evenly on a logarithmic scale. */
const spread =
  (fromMs: number, toMs: number): Sizes =>
  (random) =>
    fromMs * (toMs / fromMs) ** random.next();
/** Pareto: most are near the least, a few are many times as long. */
const pareto =
  (leastMs: number, shape: number, mostMs: number): Sizes =>
  (random) =>
    Math.min(mostMs, leastMs / (1 - random.next()) ** (1 / shape));

interface Workload {
  name: string;
  jobs: readonly { atMs: number; tasks: number; sizes: Sizes; speculate?: boolean }[];
}

const WORKLOADS: readonly Workload[] = [
  { name: 'short tasks', jobs: [{ atMs: 0, tasks: 6000, sizes: uniform(160, 240) }] },
  { name: 'long tasks', jobs: [{ atMs: 0, tasks: 2000, sizes: uniform(4000, 6000) }] },
  { name: 'mixed sizes', jobs: [{ atMs: 0, tasks: 4000, sizes: spread(300, 9600) }] },
  {
    name: 'long tail, copies allowed',
    jobs: [{ atMs: 0, tasks: 4000, sizes: pareto(800, 1.5, 30_000), speculate: true }],
  },
  {
    name: 'a job that comes late',
    jobs: [
      { atMs: 0, tasks: 1000, sizes: uniform(4000, 6000) },
      { atMs: 30_000, tasks: 4000, sizes: uniform(800, 1200) },
    ],
  },
];

const draw = ({ jobs }: Workload, seed: number, share: number): BenchJob[] => {
  const random = new SeededRandom(seed);
  return jobs.map(({ atMs, tasks, sizes, speculate }) => ({
    atMs: atMs / share,
    sizesMs: Array.from({ length: Math.ceil(tasks / share) }, () => sizes(random)),
    ...(speculate ? { speculate } : {}),
  }));
};

const rowName = (workload: Workload, strategy: string): string => `${workload.name}: ${strategy}`;

async function run({ smoke, runs, say }: BenchOptions): Promise<Result> {
  // Only now: the simulator answers for the operating system from then on, as its runs must not differ by the machine.
  const { workOff } = await import('./makespan-mesh.js');
  const workloads = smoke ? WORKLOADS.slice(-2) : WORKLOADS;
  const rows = workloads.flatMap((workload) =>
    STRATEGIES.map((strategy): Row => {
      const what = rowName(workload, strategy);
      if (strategy !== 'score') return { what, unit: '× bound', values: [] };
      const others = STRATEGIES.filter((other) => other !== 'score');
      const beats = others.map((other) => ({ atMost: 1, of: rowName(workload, other) }));
      return { what, unit: '× bound', values: [], aims: [{ atMost: ABOVE_BOUND_MAX }, ...beats] };
    }),
  );
  const seeds = smoke ? runs : runs * SEEDS_A_RUN;
  for (let seed = 1; seed <= seeds; seed++) {
    for (const workload of workloads) {
      const jobs = draw(workload, seed, smoke ? SMOKE_SHARE : 1);
      for (const strategy of STRATEGIES) {
        const { makespanMs, down } = await workOff(NODES, jobs, strategy, seed);
        const ratio = makespanMs / lowerBoundMs(NODES, jobs, down);
        rows.find(({ what }) => what === rowName(workload, strategy))?.values.push(ratio);
        say(`seed ${seed} of ${seeds}: ${workload.name}: ${strategy}: ${ratio.toFixed(3)} × the bound`);
      }
    }
  }
  return {
    name: 'makespan',
    title: 'Makespan on unequal machines, in multiples of the lower bound',
    rows,
    config: {
      machines: Object.fromEntries(
        NODES.map(({ name, slots, speed, linkMs, diesEveryMs }) => [
          name,
          `${slots} slots × ${speed}${linkMs ? `, ${2 * linkMs} ms away` : ''}${diesEveryMs ? `, dies every ${diesEveryMs / 1000} s` : ''}`,
        ]),
      ),
    },
    notes: [
      'A run is a seed: the same sizes for each strategy; when the flaky machine dies is drawn in each run, and its bound is given it.',
      'Virtual time; the coordinator and the agents are the product’s, the network, the database and the tasks are simulated.',
    ],
  };
}

export const makespan: Bench = {
  name: 'makespan',
  about: 'unequal machines in the simulator: the strategies next to an offline lower bound',
  run,
};
