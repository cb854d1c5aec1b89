/**
 * The planner alone: a pure function, called with snapshots made beforehand. First how it grows, over a grid of nodes, kinds
 * of work and queued tasks on an idle mesh, and the exponents of it (fit.ts). Then what a mesh at work asks of it every few
 * milliseconds: plans of a thousand nodes where little is free, with thousands of jobs, with quotas, with queues to level.
 */
import { systemClock } from '../common/clock.js';
import { plan as makePlan, PLAN_DEFAULTS } from '../coordinator/core/scheduler/plan.js';
import type { Plan, PlanSettings, Snapshot } from '../coordinator/core/scheduler/types.js';
import { SeededRandom } from '../test/support/random.js';
import type { Bench, BenchOptions } from './bench.js';
import { fitPowers } from './fit.js';
import { type Shape, snapshotOf } from './plan-snapshots.js';
import type { Result, Row } from './report.js';
import { median } from './statistics.js';

const SETTINGS: PlanSettings = { ...PLAN_DEFAULTS, assignmentsMax: 1_000_000 };
/** A measurement goes on for so long, and has at least so many plans. */
const LEAST_MS = 60;
const LEAST_PLANS = 5;

const burst = (nodes: number, kinds: number, queued: number): Shape => ({
  ...{ nodes, kinds, queued, openEvery: 1 },
  jobs: Math.min(kinds * 10, queued),
  submitters: 10,
});

const placedBy = ({ assignments }: Plan): number =>
  assignments.reduce((sum, { fresh, returned }) => sum + fresh + returned.length, 0);

interface Measured {
  ms: number;
  placed: number;
  retracted: number;
}

/** The median time of one plan. */
function measure(snapshot: Snapshot, smoke: boolean): Measured {
  const random = new SeededRandom(1);
  const times: number[] = [];
  let last: Plan | undefined;
  const untilMs = systemClock.monotonicMs() + (smoke ? 0 : LEAST_MS);
  for (let made = 0; made < (smoke ? 1 : LEAST_PLANS) || systemClock.monotonicMs() < untilMs; made++) {
    const fromMs = systemClock.monotonicMs();
    last = makePlan(snapshot, SETTINGS, 0, random.next);
    times.push(systemClock.monotonicMs() - fromMs);
  }
  const plan = last as Plan;
  return {
    ms: median(times),
    placed: placedBy(plan),
    retracted: plan.retractions.reduce((sum, r) => sum + r.count, 0),
  };
}

const STEADY: readonly { what: string; shape: Shape }[] = [
  { what: 'one kind', shape: { nodes: 1000, kinds: 1, queued: 1e6, jobs: 1, submitters: 1, openEvery: 500 } },
  { what: '100 kinds', shape: { nodes: 1000, kinds: 100, queued: 1e6, jobs: 1000, submitters: 10, openEvery: 500 } },
  {
    what: '5,000 jobs, 50 namespaces with quotas',
    shape: { nodes: 1000, kinds: 20, queued: 1e6, jobs: 5000, submitters: 100, openEvery: 500, quotas: 50 },
  },
  {
    what: 'nothing waits, long queues to level',
    shape: { nodes: 1000, kinds: 10, queued: 0, jobs: 100, submitters: 10, openEvery: 10, overfull: 20 },
  },
];

async function run({ smoke, runs, say }: BenchOptions): Promise<Result> {
  const grid = {
    nodes: smoke ? [10, 100] : [10, 30, 100, 300, 1000],
    kinds: smoke ? [1, 10] : [1, 10, 100],
    queued: smoke ? [1000, 10_000] : [1000, 10_000, 100_000, 1_000_000],
  };
  const most = { nodes: grid.nodes.at(-1) as number, queued: grid.queued.at(-1) as number };
  const perTask = grid.kinds.map(
    (kinds): Row => ({
      ...{
        what: `${most.nodes} idle nodes, ${kinds} kinds, ${most.queued} queued: a placed task`,
        unit: 'µs',
        values: [],
      },
      aims: [{ atMost: 10 }],
    }),
  );
  const steady = STEADY.map(
    ({ what }): Row => ({
      ...{ what: `1000 nodes at work, 2 slots free, ${what}: a plan`, unit: 'ms', values: [] },
      // Levelling moves thousands of tasks at once; the others are what happens at every result.
      ...(what.startsWith('nothing waits') ? {} : { aims: [{ atMost: 5 }] }),
    }),
  );
  const exponents = new Map<string, Row>();
  const rSquared: Row = { what: 'R² of the fit', unit: '', values: [] };
  const retracted: number[] = [];
  for (let turn = 1; turn <= runs; turn++) {
    const points: { of: Record<string, number>; cost: number }[] = [];
    for (const nodes of grid.nodes)
      for (const [at, kinds] of grid.kinds.entries())
        for (const queued of grid.queued) {
          const { ms, placed } = measure(snapshotOf(burst(nodes, kinds, queued)), smoke);
          points.push({ of: { nodes, kinds, queued, placed }, cost: ms });
          if (nodes === most.nodes && queued === most.queued) perTask[at]?.values.push((ms * 1000) / placed);
        }
    const fit = fitPowers(points);
    for (const [name, exponent] of Object.entries(fit.exponents)) {
      const row = exponents.get(name) ?? { what: `exponent of ${name}`, unit: '', values: [] };
      if (name === 'queued') row.aims = [{ atMost: 0.1 }];
      row.values.push(exponent);
      exponents.set(name, row);
    }
    rSquared.values.push(fit.rSquared);
    for (const [at, { shape }] of STEADY.entries()) {
      const made = measure(
        snapshotOf(smoke ? { ...shape, nodes: 100, jobs: Math.min(shape.jobs, 100) } : shape),
        smoke,
      );
      steady[at]?.values.push(made.ms);
      retracted.push(made.retracted);
    }
    say(`run ${turn} of ${runs}`);
  }
  if (!retracted.some((count) => count > 0)) throw new Error('no queue was levelled: the bench measures nothing there');
  return {
    name: 'plan',
    title: 'The planner alone',
    rows: [...perTask, ...steady, ...exponents.values(), rSquared],
    config: {
      planner: { strategy: SETTINGS.strategy, prefillMax: String(SETTINGS.prefillMax), 'slots a node': '8' },
      grid: Object.fromEntries(Object.entries(grid).map(([name, values]) => [name, values.join(', ')])),
    },
    notes: [
      'The exponents are of cost ≈ c · nodes^a · kinds^b · queued^c · placed^d, by least squares of the logarithms over the whole grid; jobs are ten for each kind, of ten submitters.',
      `Each value is the median of the plans of ${LEAST_MS} ms, at least ${LEAST_PLANS}.`,
    ],
  };
}

export const plan: Bench = {
  name: 'plan',
  about: 'the planner alone: time of a placed task and of a plan at up to 1,000 nodes, and how it grows',
  run,
};
