import { runInNewContext } from 'node:vm';
import { test } from 'tap';
import { turn } from '../../test/support/agent-work.js';
import { BufferCollection, COLLECT_EVERY_BYTES } from './buffer-collection.js';

const MIB = 2 ** 20;

test('the young generation is collected once for so many bytes of buffers', async (t) => {
  let collections = 0;
  const buffers = new BufferCollection(() => collections++);
  for (let bytes = 0; bytes < COLLECT_EVERY_BYTES - MIB; bytes += MIB) buffers.made(MIB);
  t.equal(collections, 0);
  buffers.made(MIB);
  t.equal(collections, 1);
  buffers.made(MIB);
  t.equal(collections, 1);
  buffers.made(10 * COLLECT_EVERY_BYTES);
  t.equal(collections, 2);
});

test('dead buffers are gone long before V8 would look for them', async (t) => {
  const buffers = new BufferCollection();
  const held = (): number => process.memoryUsage().arrayBuffers;
  // V8 looks at 32 MiB by itself.
  buffers.made(COLLECT_EVERY_BYTES);
  const before = held();
  for (let made = 0; made < COLLECT_EVERY_BYTES; made += MIB) Buffer.allocUnsafeSlow(MIB);
  t.ok(held() - before >= COLLECT_EVERY_BYTES);
  // They are given back beside what runs here.
  for (let tries = 0; tries < 1000 && held() - before > COLLECT_EVERY_BYTES / 2; tries++) {
    buffers.made(COLLECT_EVERY_BYTES);
    await turn();
  }
  t.ok(held() - before <= COLLECT_EVERY_BYTES / 2, 'at least half of them');
  t.equal(runInNewContext('typeof gc'), 'undefined', 'nobody else is given the switch');
  t.equal(typeof globalThis.gc, 'undefined');
});
