import { test } from 'tap';
import { allowanceOf, allowed, type Asked, NO_QUOTAS, type Quotas, requireQuota, whyHeldBack } from './quotas.js';

const nothing = { running: 0, queued: 0, cpuMillis: 0, bytes: 0 };
const asked = (over: Partial<Asked>): Asked => ({ tasks: 1, cpuMillis: 1000, bytes: 0, ...over });
const quotas = (over: Partial<Quotas>): Quotas => ({ ...NO_QUOTAS, ...over });

test('what runs is held back by whichever quota is nearer', async (t) => {
  const both = quotas({ running: 4, cpuMillis: 3500 });
  const left = allowanceOf(both, { running: 1, cpuMillis: 1000 });
  t.same(left, { tasks: 3, cpuMillis: 2500 });
  t.equal(allowed(left, 1000), 2);
  t.equal(allowed(left, 100), 3);
  t.same(allowanceOf(both, { running: 9, cpuMillis: 9000 }), { tasks: 0, cpuMillis: 0 }, 'lowered below what runs');
  t.equal(allowed(allowanceOf(NO_QUOTAS, { running: 1e9, cpuMillis: 1e12 }), 1), Infinity);
});

test('a reason names the quota and its value', async (t) => {
  const lab = quotas({ running: 4, cpuMillis: 2500 });
  t.equal(whyHeldBack('lab', lab, { running: 3, cpuMillis: 1500 }, 1000), undefined);
  t.equal(
    whyHeldBack('lab', lab, { running: 4, cpuMillis: 0 }, 1000),
    'the namespace lab has its quota of 4 running tasks assigned',
  );
  t.equal(
    whyHeldBack('lab', lab, { running: 3, cpuMillis: 2000 }, 1000),
    'the namespace lab has 2 of its quota of 2.5 CPUs assigned',
  );
});

test('a submission that would go beyond a quota is refused with the quota and its value', async (t) => {
  const lab = quotas({ queued: 10, cpuMillis: 2000, bytes: 2 ** 20 });
  const cases: [string, Partial<typeof nothing>, Partial<Asked>, RegExp | undefined][] = [
    ['nothing near a quota', {}, { tasks: 10, cpuMillis: 2000, bytes: 2 ** 20 }, undefined],
    [
      'one task too many',
      { queued: 8 },
      { tasks: 3 },
      /^the namespace lab has a quota of 10 queued tasks; 8 wait, and this job has 3$/,
    ],
    [
      'one byte too many',
      { bytes: 2 ** 20 },
      { bytes: 1 },
      /a quota of 1\.0 MiB stored bytes; 1\.0 MiB are stored, and this job brings 1 B$/,
    ],
    ['no files, whatever is stored', { bytes: 2 ** 30 }, {}, undefined],
    ['a task that can never run', {}, { cpuMillis: 2001 }, /a quota of 2 CPUs; one task of this job asks for 2\.001$/],
    ['CPUs in use do not matter yet', { cpuMillis: 2000, running: 99 }, {}, undefined],
  ];
  for (const [what, usage, ask, message] of cases) {
    const attempt = () => requireQuota('lab', lab, { ...nothing, ...usage }, asked(ask));
    if (message) t.throws(attempt, { code: 'QUOTA', message, hint: /mesh namespace set lab --/ }, what);
    else t.doesNotThrow(attempt, what);
  }
  t.doesNotThrow(() => requireQuota('lab', NO_QUOTAS, { ...nothing, queued: 1e12 }, asked({ tasks: 1e9 })));
});
