/** What the planner is measured with: meshes of unequal nodes and jobs of many kinds, as large as asked for. */
import { parseSelector } from '../common/selector.js';
import type { Snapshot } from '../coordinator/core/scheduler/types.js';
import { GIB, makeKind, makeNode, makeSnapshot, makeWork } from '../test/support/snapshot.js';

export interface Shape {
  nodes: number;
  kinds: number;
  queued: number;
  jobs: number;
  submitters: number;
  /** Nodes, one in so many, with a free slot; the others are full, and their queues too. 1: all are idle. */
  openEvery: number;
  /** Namespaces that the jobs are of, each with a quota of running tasks; 0 for none. */
  quotas?: number;
  /** Waits in each node's queue beyond what it should, of jobs that have nothing else. */
  overfull?: number;
}

const SLOTS = 8;
const TASK_MS = 60_000;
const ZONES = ['a', 'b', 'c', 'd', 'e', 'f', 'g', 'h'];

/** A third of the kinds takes half of the zones only; they differ in what they ask. */
const kindOf = (number: number) =>
  makeKind(
    number + 1,
    { cpuMillis: 500 + (number % 5) * 100, memoryBytes: (1 + (number % 16)) * (GIB / 16) },
    number % 3 === 2 ? { selector: parseSelector('os=linux,zone in (a,b,c,d)') } : {},
  );

export function snapshotOf(shape: Shape): Snapshot {
  const { nodes, kinds, queued, jobs, submitters, openEvery, quotas = 0, overfull = 0 } = shape;
  const views = Array.from({ length: nodes }, (_, i) => {
    const idle = openEvery === 1;
    const full = i % openEvery !== 0;
    const busy = idle ? 0 : full ? SLOTS : SLOTS - 1;
    return makeNode(i + 1, SLOTS, {
      ...{ busy, rttMs: 0.5 + (i % 7), load: busy / SLOTS / 2, reliability: 1 - (i % 5) / 50 },
      ...{ pace: 2 ** ((i % 5) / 2 - 1), queued: full ? Math.max(1, overfull) : 0 },
      ...(busy > 0 ? { turnoverPerMs: busy / TASK_MS } : {}),
      labels: new Map([
        ...([
          ['name', `n${i}`],
          ['os', 'linux'],
          ['zone', ZONES[i % 8] as string],
        ] as [string, string][]),
      ]),
    });
  });
  const made = Array.from({ length: kinds }, (_, number) => kindOf(number));
  const share = (job: number) => Math.floor(queued / jobs) + (job < queued % jobs ? 1 : 0);
  const work = Array.from({ length: jobs }, (_, job) =>
    makeWork(job + 1, overfull > 0 ? 0 : share(job), {
      ...{ kind: made[job % kinds] as (typeof made)[number], taskMs: TASK_MS },
      ...{
        submitter: `submitter-${job % submitters}`,
        namespace: quotas > 0 ? `namespace-${job % quotas}` : 'default',
      },
    }),
  );
  const prefilled = views
    .filter((view) => view.queued > 0)
    .map(({ seq, queued: count }) => ({ node: seq, job: 1 + (seq % jobs), count }));
  const allowances = new Map(
    Array.from({ length: quotas }, (_, i) => [`namespace-${i}`, { tasks: 1 + (i % 50), cpuMillis: Infinity }]),
  );
  return makeSnapshot(views, work, { prefilled, ...(quotas > 0 ? { allowances } : {}) });
}
