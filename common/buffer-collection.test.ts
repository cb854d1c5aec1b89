import { constants, PerformanceObserver } from 'node:perf_hooks';
import { getHeapStatistics } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { type Test, test } from 'tap';
import { turn } from '../test/support/agent-work.js';
import { BufferCollection, COLLECT_EVERY_BYTES, GROWTH_BYTES_MAX } from './buffer-collection.js';

const MIB = 2 ** 20;

function make(heapBytes = 28 * MIB) {
  const used = { heapBytes, bufferBytes: 6 * MIB };
  const done: string[] = [];
  const collector = { used: () => used, young: () => done.push('young'), all: () => done.push('all') };
  const buffers = new BufferCollection(collector);
  /** As many buffers as are made between two collections, and what was done about them; all come to `bufferBytes` then. */
  const made = (bufferBytes: number): string | undefined => {
    used.bufferBytes = bufferBytes;
    buffers.made(COLLECT_EVERY_BYTES);
    return done.pop();
  };
  return { buffers, done, made };
}

test('the young generation is collected once for so many bytes of buffers', async (t) => {
  const { buffers, done } = make();
  for (let bytes = 0; bytes < COLLECT_EVERY_BYTES - MIB; bytes += MIB) buffers.made(MIB);
  t.same(done, []);
  buffers.made(MIB);
  t.same(done, ['young']);
  buffers.made(MIB);
  t.same(done, ['young']);
  buffers.made(10 * COLLECT_EVERY_BYTES);
  t.same(done, ['young', 'young']);
});

test('the old generation is collected when buffers have grown since, however many live', async (t) => {
  const { made } = make();
  t.equal(made(20 * MIB), 'young');
  t.equal(made(6 * MIB), 'young', 'V8 itself looked at the old ones');
  t.equal(made(6 * MIB + GROWTH_BYTES_MAX - 1), 'young');
  t.equal(made(6 * MIB + GROWTH_BYTES_MAX), 'all');
  for (let round = 0; round < 10; round++) t.equal(made(60 * MIB), 'young', 'those that were left live');
  t.equal(made(60 * MIB + GROWTH_BYTES_MAX), 'all');
});

test('the larger the heap, the later', async (t) => {
  const { made } = make(120 * MIB);
  t.equal(made(6 * MIB), 'young');
  t.equal(made(45 * MIB), 'young');
  t.equal(made(46 * MIB), 'all');
});

const held = (): number => process.memoryUsage().arrayBuffers;

test('dead buffers are gone long before V8 would look for them', async (t) => {
  const buffers = new BufferCollection();
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
});

/** How often somebody asked for a collection of the old generation. */
function askedFor(t: Test): () => number {
  const { NODE_PERFORMANCE_GC_MAJOR, NODE_PERFORMANCE_GC_FLAGS_FORCED } = constants;
  let times = 0;
  const observer = new PerformanceObserver((list) => {
    for (const { detail } of list.getEntries() as unknown as { detail: { kind: number; flags: number } }[])
      if (detail.kind === NODE_PERFORMANCE_GC_MAJOR && detail.flags & NODE_PERFORMANCE_GC_FLAGS_FORCED) times++;
  });
  observer.observe({ entryTypes: ['gc'] });
  t.teardown(() => observer.disconnect());
  return () => times;
}

test('those too that were in use for long, and nobody else is given the switch', async (t) => {
  const buffers = new BufferCollection();
  const times = askedFor(t);
  const before = held();
  const rounds = Math.ceil((4 * GROWTH_BYTES_MAX + getHeapStatistics().used_heap_size) / COLLECT_EVERY_BYTES);
  for (let round = 0; round < rounds; round++) {
    const inUse = Array.from({ length: COLLECT_EVERY_BYTES / MIB }, () => Buffer.allocUnsafeSlow(MIB));
    for (let collections = 0; collections < 3; collections++) buffers.made(COLLECT_EVERY_BYTES);
    t.ok(inUse.every(({ length }) => length === MIB));
  }
  const most = (rounds * COLLECT_EVERY_BYTES) / 2;
  for (let tries = 0; tries < 1000 && (times() === 0 || held() - before > most); tries++) await turn();
  t.ok(times() > 0, 'V8 is asked');
  t.ok(held() - before <= most, 'not all of them are left');
  t.equal(runInNewContext('typeof gc'), 'undefined');
  t.equal(typeof globalThis.gc, 'undefined');
});
