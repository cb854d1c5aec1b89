import { test } from 'tap';
import { parseSelector } from '../../common/selector.js';
import { KindRegistry, TaskTime, TaskTimes } from './work.js';

const asks = (more: object = {}) => ({ cpuMillis: 0, memoryBytes: 0, gpus: 0, custom: {}, ...more });

test('task time: a mean at first, then it follows', async (t) => {
  const time = new TaskTime();
  t.equal(time.ms, undefined);
  time.observe(10, 1);
  time.observe(20, 1);
  t.equal(time.ms, 15);
  for (let i = 0; i < 200; i++) time.observe(100, 1);
  t.ok(Math.abs((time.ms ?? 0) - 100) < 1);
});

test('task time: neither a burst nor an outlier turns it over', async (t) => {
  const time = new TaskTime();
  for (let i = 0; i < 50; i++) time.observe(10, 1);
  time.observe(1000 * 40, 1000);
  t.ok((time.ms ?? 0) < 20, 'one batch of a thousand is one piece of news');
  const before = time.ms ?? 0;
  time.observe(3_600_000, 1);
  t.ok((time.ms ?? 0) < before * 1.6, 'one that hung for an hour');
  for (let i = 0; i < 100; i++) time.observe(60_000, 1);
  t.ok((time.ms ?? 0) > 50_000, 'but what lasts is learned');
});

test('task time: empty tasks and nonsense', async (t) => {
  const time = new TaskTime();
  time.observe(0, 4);
  t.equal(time.ms, 0);
  time.observe(8, 4);
  t.ok((time.ms ?? 0) > 0, 'zero is not a trap');
  const before = time.ms;
  time.observe(Number.NaN, 1);
  time.observe(5, 0);
  t.equal(time.ms, before);
});

test('task times are kept per job', async (t) => {
  const times = new TaskTimes();
  times.observe(1, 30, 3);
  t.equal(times.of(1), 10);
  t.equal(times.of(2), undefined);
  times.forget(1);
  t.equal(times.of(1), undefined);
});

test('kinds: equal wishes share one, and the last user frees it', async (t) => {
  const kinds = new KindRegistry();
  const a = kinds.intern('process', asks({ custom: { tape: 1, licence: 2 } }), parseSelector('os=linux'));
  const b = kinds.intern(
    'process',
    asks({ cpuMillis: 1000, custom: { licence: 2, tape: 1 } }),
    parseSelector('os = linux'),
  );
  t.equal(a, b, 'the default CPU and the order of custom resources do not matter');
  t.not(kinds.intern('function', asks(), []).id, kinds.intern('process', asks(), []).id);
  const confined = kinds.intern('process', asks(), [], { sandbox: 'bubblewrap' });
  t.not(confined.id, kinds.intern('process', asks(), []).id);
  for (const twice of [confined, kinds.intern('process', asks(), [])]) while (kinds.get(twice.id)) kinds.release(twice);
  kinds.intern('process', asks(), []);
  t.equal(kinds.get(a.id), a);
  t.equal(kinds.size, 3);
  t.notOk(kinds.release(a));
  t.ok(kinds.release(b));
  t.notOk(kinds.release(b), 'once more than interned is harmless');
  t.equal(kinds.get(a.id), undefined);
  t.not(kinds.intern('process', asks(), parseSelector('os=linux')).id, a.id, 'ids are never used twice');
});
