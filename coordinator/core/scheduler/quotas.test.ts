import { test } from 'tap';
import { SeededRandom } from '../../../test/support/random.js';
import { assigned, makeKind, makeNode, makeSettings, makeSnapshot, makeWork } from '../../../test/support/snapshot.js';
import { plan } from './plan.js';
import type { Snapshot } from './types.js';

const run = (snapshot: Snapshot) => plan(snapshot, makeSettings(), 1000, new SeededRandom(1).next);
const lab = (tasks: number, cpuMillis = Infinity) => ({ allowances: new Map([['lab', { tasks, cpuMillis }]]) });

test('a namespace is assigned what its quotas allow, over all its jobs and nodes', async (t) => {
  const nodes = [makeNode(1, 8), makeNode(2, 8)];
  const works = [
    makeWork(1, 100, { namespace: 'lab' }),
    makeWork(2, 100, { namespace: 'lab', submitter: 'ben' }),
    makeWork(3, 2, { submitter: 'eve' }),
  ];
  const made = run(makeSnapshot(nodes, works, lab(5)));
  t.equal(assigned(made, { job: 1 }) + assigned(made, { job: 2 }), 5);
  t.equal(assigned(made, { job: 3 }), 2, 'others are not concerned');
  t.equal(assigned(run(makeSnapshot(nodes, works))), 16, 'without quotas everything is filled');
  t.equal(assigned(run(makeSnapshot(nodes, works, lab(0)))), 2);
});

test('CPUs count as tasks ask for them, also of returned tasks', async (t) => {
  const kind = makeKind(1, { cpuMillis: 1500 });
  const returned = [0, 1, 2].map((index) => ({ index, failedNodes: [] }));
  const works = [makeWork(1, 100, { namespace: 'lab', kind, returned })];
  const made = run(makeSnapshot([makeNode(1, 32)], works, lab(Infinity, 6500)));
  t.equal(assigned(made), 4);
  t.equal(made.assignments[0]?.returned.length, 3);
});

test('what a quota holds back does not hold back lower priorities of others, and says why', async (t) => {
  const works = [
    makeWork(1, 10, { namespace: 'lab', priority: 50, kind: makeKind(1) }),
    makeWork(2, 10, { kind: makeKind(2), submitter: 'ben' }),
  ];
  const made = run(makeSnapshot([makeNode(1, 16)], works, lab(0)));
  t.equal(assigned(made, { job: 2 }), 10);
  t.equal(made.reasons.get(1, 1)?.[0]?.reason, 'has room: a quota of the namespace holds it back');
});
