import { readdirSync } from 'node:fs';
import { test } from 'tap';
import { startPlane, temporaryDirectory } from '../../test/support/plane.js';
import { auditRestored, markRestored } from './restored.js';

test('the first entry after a restore says which backup the mesh goes on from, once', async (t) => {
  const { plane, store } = await startPlane(t);
  const dataDir = temporaryDirectory(t);
  const start = () => auditRestored(dataDir, (at) => plane.audit.record(plane.audit.self, 'mesh.restored', at));
  await start();
  t.same(await store.audit.find({ limit: 10 }), [], 'nothing was restored');
  markRestored(dataDir, '2026-11-28T12:00:00.000Z');
  await start();
  t.match(await store.audit.find({ limit: 10 }), [
    { seq: 1, actor: 'coordinator/one', action: 'mesh.restored', target: '2026-11-28T12:00:00.000Z' },
  ]);
  t.same(readdirSync(dataDir), []);
  await start();
  t.equal((await store.audit.find({ limit: 10 })).length, 1);
});
