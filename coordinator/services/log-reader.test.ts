import { open } from 'node:fs/promises';
import { join } from 'node:path';
import { test } from 'tap';
import { elapse, type HeldTask, PlayedAgent, startPlane, submit, type TestPlane } from '../../test/support/plane.js';
import { Outcome } from '../../proto/gen/mesh/v1/agent.js';
import { type OutputChunk, type OutputTail, Stream } from '../../proto/gen/mesh/v1/common.js';
import type { LogEntry } from '../../proto/gen/mesh/v1/mesh.js';
import type { LogQuery } from './log-reader.js';

const chunk = (offset: number, text: string, stream = Stream.STDOUT): OutputChunk => ({
  ...{ stream, offset, atMs: 1 },
  data: Buffer.from(text),
});

const tail = (offset: number, text: string): OutputTail => ({
  chunks: [chunk(offset, text)],
  totalBytes: offset + text.length,
});

const whole: LogQuery = { index: undefined, attempt: undefined, follow: false };
const textOf = (entries: readonly LogEntry[]): string =>
  entries.map(({ data }) => Buffer.from(data).toString()).join('');

function read({ plane }: TestPlane, job: Parameters<typeof plane.logReader.read>[0], query: Partial<LogQuery> = {}) {
  const gone = new AbortController();
  const seen: LogEntry[] = [];
  let wake: () => void = () => undefined;
  const done = (async () => {
    for await (const entries of plane.logReader.read(job, { ...whole, ...query }, gone.signal)) {
      seen.push(...entries);
      wake();
    }
  })();
  const until = async (text: string) => {
    while (!textOf(seen).includes(text)) await new Promise<void>((resolve) => (wake = resolve));
  };
  return { seen, done, until, gone };
}

const stream = ({ plane }: TestPlane, agent: PlayedAgent, task: HeldTask, ...chunks: OutputChunk[]) =>
  plane.logIntake.write(agent.node, { ...task, chunks });

async function running(parts: TestPlane, tasks = 1, spec: Parameters<typeof submit>[2] = {}) {
  const agent = new PlayedAgent(parts.plane, 'attic', tasks);
  await agent.connect();
  const job = await submit(parts.plane, tasks, spec);
  return { agent, job, held: await agent.assignedAll(tasks) };
}

test('stored: what was streamed, then what the result’s tail adds; short output from the tail alone', async (t) => {
  const parts = await startPlane(t);
  const { agent, job, held } = await running(parts, 2);
  const [a, b] = held as [HeldTask, HeldTask];
  t.match(await stream(parts, agent, a, chunk(0, 'one '), chunk(4, 'two ')), { storedOffset: 8 });
  await agent.finish([a], { output: tail(4, 'two three') });
  await agent.finish([b], { output: tail(0, 'short') });
  const { seen, done } = read(parts, job);
  await done;
  t.equal(textOf(seen.filter(({ index }) => index === 0)), 'one two three');
  t.equal(textOf(seen.filter(({ index }) => index === 1)), 'short');
  t.ok(seen.every(({ attempt }) => attempt === 1));
  const one = read(parts, job, { index: 1 });
  await one.done;
  t.equal(textOf(one.seen), 'short');
  await t.rejects(read(parts, job, { index: 2 }).done, { code: 'NOT_FOUND' });
});

test('a gap before the tail is noted', async (t) => {
  const parts = await startPlane(t);
  const { agent, job, held } = await running(parts);
  const [task] = held as [HeldTask];
  await stream(parts, agent, task, chunk(0, 'begin '));
  await agent.finish([task], { output: tail(1000, 'end') });
  const { seen, done } = read(parts, job);
  await done;
  t.equal(textOf(seen), 'begin [994 bytes of output left out]\nend');
});

test('live: neither loss nor repetition, also of what arrives while the stored part is read', async (t) => {
  const parts = await startPlane(t);
  const { agent, job, held } = await running(parts, 2);
  const [task, other] = held as [HeldTask, HeldTask];
  await stream(parts, agent, task, chunk(0, '0123456789'));
  const { seen, done, until } = read(parts, job, { follow: true });
  // The reader has subscribed and not read yet.
  await stream(parts, agent, task, chunk(10, 'abc'));
  await until('abc');
  await stream(parts, agent, task, chunk(10, 'abc'), chunk(13, 'def'));
  await until('def');
  await agent.finish([task], { output: tail(0, '0123456789abcdefghi') });
  await until('ghi');
  await agent.finish([other], { output: tail(0, 'other') });
  await done;
  t.equal(textOf(seen.filter(({ index }) => index === 0)), '0123456789abcdefghi');
  t.equal(textOf(seen.filter(({ index }) => index === 1)), 'other');
});

test('output that arrives while the reader is busy with the last of it is not held back until the next', async (t) => {
  const parts = await startPlane(t);
  const { agent, job, held } = await running(parts);
  const [task] = held as [HeldTask];
  const gone = new AbortController();
  const entries = parts.plane.logReader.read(job, { ...whole, follow: true }, gone.signal);
  const first = entries.next();
  await stream(parts, agent, task, chunk(0, 'a'));
  t.equal(textOf((await first).value ?? []), 'a');
  await stream(parts, agent, task, chunk(1, 'b'));
  t.equal(textOf((await entries.next()).value ?? []), 'b');
  gone.abort();
  t.ok((await entries.next()).done, 'a reader that has left is not waited for');
  t.notOk(parts.plane.changes.output.has(job.seq));
});

test('following one task goes on through its attempts, and ends with the task', async (t) => {
  const parts = await startPlane(t);
  const { agent, job, held } = await running(parts, 2);
  const [task] = held as [HeldTask];
  const { seen, done, until } = read(parts, job, { index: task.index, follow: true });
  await stream(parts, agent, task, chunk(0, 'first '));
  await until('first');
  await agent.finish([task], { outcome: Outcome.FAILED, exitCode: 1, output: tail(0, 'first try ') });
  await until('try');
  const again = (await agent.assigned()).find(({ index }) => index === task.index);
  if (!again) throw new Error('it is tried again');
  await agent.finish([again], { output: tail(0, 'second try') });
  await done;
  t.equal(textOf(seen), 'first try second try');
  t.same([...new Set(seen.map(({ attempt }) => attempt))], [1, 2]);
});

test('attempts by their number; without one the latest that ran', async (t) => {
  const parts = await startPlane(t);
  const { agent, job, held } = await running(parts, 1, { retries: 5 });
  let [task] = held as [HeldTask];
  for (const text of ['one', 'two']) {
    await agent.finish([task], { outcome: Outcome.FAILED, exitCode: 1, output: tail(0, text), runUs: 5_000_000 });
    [task] = (await agent.assigned()) as [HeldTask];
  }
  await stream(parts, agent, task, chunk(0, 'three'));
  const textsOf = async (query: Partial<LogQuery>) => {
    const { seen, done } = read(parts, job, query);
    await done;
    return seen.map(({ attempt, data }) => `${attempt} ${Buffer.from(data).toString()}`);
  };
  t.same(await textsOf({ index: 0, attempt: 1 }), ['1 one']);
  t.same(await textsOf({ index: 0, attempt: 2 }), ['2 two']);
  t.same(await textsOf({ index: 0, attempt: 3 }), ['3 three']);
  t.same(await textsOf({ index: 0 }), ['3 three']);
  t.same(await textsOf({ index: 0, attempt: 9 }), []);
  // Lost, and cancelled while it waits for its next try: the latest is the one that was lost.
  parts.plane.results.started(agent.session, [{ ...task, ageMs: 3_600_000 }]);
  await parts.plane.results.settled();
  parts.plane.results.lost(parts.plane.ledger.ofNode(agent.node), 'node-lost', 'a cable');
  await parts.plane.results.settled();
  await parts.plane.cancellation.cancel(job, undefined);
  t.same(await textsOf({ index: 0 }), ['3 three']);
});

test('a disk that is full cuts the log, with a note, and costs the task nothing', async (t) => {
  const parts = await startPlane(t);
  const { agent, job, held } = await running(parts);
  const [task] = held as [HeldTask];
  t.match(await stream(parts, agent, task, chunk(0, 'begin ')), { storedOffset: 6 });
  const probe = await open(join(parts.directory, 'probe'), 'w');
  const handles = Object.getPrototypeOf(probe) as { writev: () => Promise<unknown> };
  await probe.close();
  const { writev } = handles;
  handles.writev = () => Promise.reject(Object.assign(new Error('no space'), { code: 'ENOSPC' }));
  t.teardown(() => (handles.writev = writev));
  await t.rejects(
    stream(parts, agent, task, chunk(6, 'lost')),
    { code: 'ENOSPC' },
    'its agent keeps it and tries again',
  );
  await agent.finish([task], { output: tail(1000, 'end') });
  t.match(await parts.store.jobs.get(job.id), { status: 'COMPLETED', counts: { completed: 1 } });
  t.equal(parts.plane.ledger.size, 0);
  const { seen, done } = read(parts, job);
  await done;
  t.equal(textOf(seen), 'begin [994 bytes of output left out]\nend');
});

test('only the holder of an attempt may write its log; what nobody wants is swallowed', async (t) => {
  const parts = await startPlane(t);
  const { agent, job, held } = await running(parts);
  const [task] = held as [HeldTask];
  const mallory = new PlayedAgent(parts.plane, 'mallory', 1);
  await mallory.connect();
  t.match(await stream(parts, mallory, task, chunk(0, 'forged')), { storedOffset: 6 });
  t.match(await stream(parts, agent, { ...task, generation: 7 }, chunk(0, 'old')), { storedOffset: 3 });
  await stream(parts, agent, task, chunk(0, 'a note of the agent', Stream.SYSTEM), chunk(0, 'real'));
  const { seen, done } = read(parts, job);
  await done;
  t.equal(textOf(seen), 'real');
});

test('a follower of a job ends with it, however it ends', async (t) => {
  const parts = await startPlane(t);
  const { agent, job, held } = await running(parts);
  const [task] = held as [HeldTask];
  const { seen, done, until } = read(parts, job, { follow: true });
  await stream(parts, agent, task, chunk(0, 'x'));
  await until('x');
  await parts.plane.cancellation.cancel(job, undefined);
  await elapse(parts.clock, 250);
  await done;
  t.equal(textOf(seen), 'x');
});

const MIB = 2 ** 20;
/** A MiB of one attempt's output, told by its place in it. */
const mib = (place: number): OutputChunk => ({
  ...{ stream: Stream.STDOUT, offset: place * MIB, atMs: 1 },
  data: Buffer.alloc(MIB, 65 + place),
});

/** What came of a task: its bytes in runs of the same one ("A 1048576"), notes as they are. */
function runsOf(entries: readonly LogEntry[], index: number): string[] {
  const runs: { byte: string; bytes: number }[] = [];
  for (const { data, stream: from, ...entry } of entries) {
    if (entry.index !== index) continue;
    if (from === Stream.SYSTEM) runs.push({ byte: textOf([{ ...entry, stream: from, data }]).trim(), bytes: 0 });
    for (let at = 0, end = 0; from !== Stream.SYSTEM && at < data.length; at = end) {
      while (end < data.length && data[end] === data[at]) end++;
      const byte = String.fromCharCode(data[at] ?? 0);
      const last = runs.at(-1);
      if (last?.byte === byte) last.bytes += end - at;
      else runs.push({ byte, bytes: end - at });
    }
  }
  return runs.map(({ byte, bytes }) => (bytes === 0 ? byte : `${byte} ${bytes}`));
}

const wholeMib = (from: number, to: number): string[] =>
  Array.from({ length: to - from }, (_, i) => `${String.fromCharCode(65 + from + i)} ${MIB}`);

test('a reader that lags behind gets all that is stored, from where he stopped, in order', async (t) => {
  const parts = await startPlane(t);
  const { agent, job, held } = await running(parts, 4);
  const [a, b, c, short] = held as [HeldTask, HeldTask, HeldTask, HeldTask];
  const gone = new AbortController();
  const reader = parts.plane.logReader.read(job, { ...whole, follow: true }, gone.signal);
  const seen: LogEntry[] = [];
  const first = reader.next();
  await stream(parts, agent, a, mib(0));
  seen.push(...((await first).value ?? []));
  // He reads no more for now: three tasks print what their logs hold, more than anybody would keep in memory.
  for (let place = 0; place < 14; place++) for (const task of [a, b, c]) await stream(parts, agent, task, mib(place));
  await agent.finish([short], { output: tail(0, 's') });
  // One attempt ends, and he knows of neither its end nor what came before.
  await agent.finish([b], { output: { chunks: [{ ...mib(14), data: Buffer.from('end') }], totalBytes: 14 * MIB + 3 } });
  let begun: () => void = () => undefined;
  const reading = new Promise<void>((resolve) => (begun = resolve));
  const rest = (async () => {
    for await (const entries of reader) {
      seen.push(...entries);
      // While he reads of the first, another prints on.
      if (seen.length === 4) for (let place = 14; place < 16; place++) await stream(parts, agent, c, mib(place));
      if (seen.length === 4) begun();
    }
  })();
  await reading;
  await agent.finish([a], {});
  await agent.finish([c], {});
  await rest;
  t.strictSame(runsOf(seen, a.index), wholeMib(0, 14));
  t.strictSame(runsOf(seen, b.index), [...wholeMib(0, 14), 'e 1', 'n 1', 'd 1']);
  t.strictSame(runsOf(seen, c.index), wholeMib(0, 16));
  t.strictSame(runsOf(seen, short.index), ['s 1']);
});

test('of what lies between, a reader that lags behind gets the note, with its exact size', async (t) => {
  const parts = await startPlane(t);
  const { agent, job, held } = await running(parts);
  const [task] = held as [HeldTask];
  const reader = parts.plane.logReader.read(job, { ...whole, follow: true }, new AbortController().signal);
  const seen: LogEntry[] = [];
  const first = reader.next();
  await stream(parts, agent, task, mib(0));
  seen.push(...((await first).value ?? []));
  for (let place = 1; place < 30; place++) await stream(parts, agent, task, mib(place));
  await agent.finish([task], {});
  for await (const entries of reader) seen.push(...entries);
  t.strictSame(runsOf(seen, task.index), [
    ...wholeMib(0, 8),
    `[${14 * MIB} bytes of output left out]`,
    ...wholeMib(22, 30),
  ]);
});
