import { test } from 'tap';
import type { JobSpec } from '../../proto/gen/mesh/v1/mesh.js';
import { submitJob } from '../../sdk/submit.js';
import { waitForJob } from '../../sdk/watch.js';
import { openFront } from '../support/front.js';
import { submission } from '../support/plane.js';

/** Node.js cuts a connection off on which a thousand streams are reset at once: rapid reset, CVE-2023-44487. */
const WAITS = 1500;

test('who waits for many jobs over one connection, one after the other, is not taken for an attacker', async (t) => {
  const front = await openFront(t);
  const anna = front.api('submitter', 'anna');
  const { spec } = submission(1);
  const { id } = await submitJob(anna, { spec: spec as JobSpec, idempotencyKey: 'one' });
  await anna.cancelJob({ id });
  for (let waits = 0; waits < WAITS; waits++) {
    const ended = await waitForJob(anna, id, { patienceMs: 0 });
    if (ended.status !== 'CANCELLED') t.fail(`${waits}: ${ended.status}`);
  }
  t.equal((await anna.getJob({ id })).job?.status, 'CANCELLED');
});
