import { appendFileSync, existsSync, readdirSync, readFileSync, statSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test, type Test } from 'tap';
import { type Logger, silentLogger } from '../../common/log.js';
import type { Finished, FinishedBatch } from '../../proto/gen/mesh/v1/agent.js';
import { finishedOf, refText } from '../../test/support/agent-work.js';
import { ManualClock } from '../../test/support/manual-clock.js';
import { FileJournal, prepareOutbox } from './file-journal.js';

const result = (index: number, more: Partial<Finished> = {}): Finished => finishedOf([1, index, 1], more);

const batch = (...items: Finished[]): FinishedBatch => ({ items, runs: [] });

function make(t: Test, directory = t.testdir(), clock = new ManualClock()) {
  const events: string[] = [];
  const note = (fields: { event?: string }) => void events.push(fields.event ?? '');
  const log = { ...silentLogger, info: note, warn: note, error: note, debug: note } as unknown as Logger;
  const open = (fsync = false) => {
    const journal = new FileJournal({ directory, fsync, clock, log });
    t.teardown(() => journal.close());
    return journal;
  };
  return { directory, clock, events, open, journal: open(), files: () => readdirSync(directory).sort() };
}

const texts = async (journal: FileJournal): Promise<string[][]> =>
  (await journal.load()).map(({ items }) => items.map(refText));

test('what was appended is there in the next life, with its output and its age', async (t) => {
  const { clock, open, journal, files } = make(t);
  t.strictSame(await journal.load(), []);
  const output = { chunks: [{ stream: 1, offset: 0, atMs: 3, data: Buffer.from('hello\n') }], totalBytes: 6 };
  t.equal(await journal.append(batch(result(0, { output, ageMs: 10 }), result(1))), 1);
  t.equal(await journal.append(batch(result(2))), 1);
  clock.advance(500);
  const [found] = await open(true).load();
  t.strictSame(found?.items.map(refText), ['1.0.1', '1.1.1', '1.2.1']);
  t.match(found?.items[0], { ageMs: 510, output: { totalBytes: 6 }, exitCode: 0 });
  t.equal(found?.items[0]?.output?.chunks[0]?.data.toString(), 'hello\n');
  t.strictSame(files(), ['results-1.log']);
});

test('a clock that went back makes nothing older than it was', async (t) => {
  const { clock, open, journal } = make(t);
  await journal.append(batch(result(0, { ageMs: 7 })));
  clock.jumpWall(-3_600_000);
  t.equal((await open().load())[0]?.items[0]?.ageMs, 7);
});

test('a new life writes files of its own; one goes when nothing in it is wanted', async (t) => {
  const { open, journal, files } = make(t);
  await journal.append(batch(result(0), result(1)));
  const next = open();
  const [old] = await next.load();
  t.equal(await next.append(batch(result(2))), 2);
  t.strictSame(files(), ['results-1.log', 'results-2.log']);
  next.release(old?.segment as number, 1);
  next.release(old?.segment as number, 1);
  await next.append(batch(result(3)));
  t.strictSame(files(), ['results-2.log']);
  next.release(2, 2);
  await next.close();
  t.strictSame(files(), [], 'and at the end nothing is left of what was acknowledged');
});

test('a torn end is cut off, wherever it is torn', async (t) => {
  const { directory, open, journal, events } = make(t);
  await journal.append(batch(result(0)));
  const path = join(directory, 'results-1.log');
  const whole = statSync(path).size;
  await journal.append(batch(result(1, { error: 'x'.repeat(40) })));
  const full = readFileSync(path);
  for (let size = whole + 1; size < full.length; size++) {
    writeFileSync(path, full);
    truncateSync(path, size);
    t.strictSame(await texts(open()), [['1.0.1']]);
  }
  t.ok(events.includes('journal.cut'));
  writeFileSync(path, full.subarray(0, 5));
  t.strictSame(await texts(open()), []);
  t.notOk(existsSync(path), 'a file that holds nothing goes');
});

test('a damaged record is skipped, whatever byte of it is damaged; the others are there', async (t) => {
  const { directory, open, journal, events } = make(t);
  const path = join(directory, 'results-1.log');
  await journal.append(batch(result(0)));
  const from = statSync(path).size;
  await journal.append(batch(result(1, { error: 'PMj1 inside' })));
  const to = statSync(path).size;
  await journal.append(batch(result(2), result(3)));
  const good = readFileSync(path);
  for (let at = from; at < to; at++) {
    const bad = Buffer.from(good);
    bad[at] = (bad[at] as number) ^ 0xa5;
    writeFileSync(path, bad);
    t.strictSame(await texts(open()), [['1.0.1', '1.2.1', '1.3.1']], `byte ${at}`);
  }
  t.ok(events.includes('journal.damaged'));
});

test('runs are kept with their age, and what the version before them kept is read', async (t) => {
  const { directory, clock, open, journal } = make(t);
  const run = { job: 7, first: 3, ageMs: 2, runUs: [1, 2 ** 32 - 1], resultsJson: ['1', '"ü"'], exitCode: undefined };
  const ofCommands = { ...run, first: 5, resultsJson: [''], exitCode: 0 };
  t.equal(await journal.append({ items: [result(0)], runs: [run, ofCommands] }), 1);
  clock.advance(40);
  const next = open();
  const [found] = await next.load();
  t.strictSame(found?.runs, [
    { ...run, ageMs: 42 },
    { ...ofCommands, ageMs: 42 },
  ]);
  t.strictSame(found?.items.map(refText), ['1.0.1']);
  next.release(1, 4);
  t.ok(existsSync(join(directory, 'results-1.log')), 'each result of a run counts');
  next.release(1, 1);
  await next.close();
  t.notOk(existsSync(join(directory, 'results-1.log')));

  const before = 'UE1qMTEAAADK/e/RAJDxmFgiekIKFQgHEAMYASABQCpIBVoHeyJhIjoxfQoQCAcQBBgCIAIoADoCbm9AAQ==';
  writeFileSync(join(directory, 'results-9.log'), Buffer.from(before, 'base64'));
  const [old] = await open().load();
  t.match(old, { segment: 9, runs: [] });
  t.match(old?.items, [
    { job: 7, index: 3, generation: 1, outcome: 1, resultJson: '{"a":1}', runUs: 42 },
    { job: 7, index: 4, generation: 2, outcome: 2, error: 'no' },
  ]);
});

test('foreign files are no results', async (t) => {
  const { directory, open } = make(t, t.testdir({ 'results-x.log': 'a', 'results-7.log': 'noise', notes: 'b' }));
  t.strictSame(await texts(open()), []);
  t.strictSame(readdirSync(directory).sort(), ['notes', 'results-x.log']);
});

test('a file is bounded; one that few results keep alive is named', async (t) => {
  const { open, journal, files } = make(t);
  const output = { chunks: [{ stream: 1, offset: 0, atMs: 0, data: Buffer.alloc(2 ** 20) }], totalBytes: 2 ** 20 };
  const segments: number[] = [];
  for (let i = 0; i < 54; i++) segments.push((await journal.append(batch(result(i, { output })))) as number);
  t.strictSame(new Set(segments), new Set([1, 2, 3, 4, 5, 6, 7]));
  t.equal(journal.crowded(), undefined, 'all of them are full');
  const held = segments.filter((segment) => segment === 3).length;
  journal.release(3, held - 1);
  t.equal(journal.crowded(), undefined, 'one in eight is not few');
  for (let i = 0; i < 20; i++) await journal.append(batch(result(100 + i)));
  for (const segment of [1, 2, 4, 5]) journal.release(segment, held);
  await journal.append(batch(result(200)));
  t.strictSame(files(), ['results-3.log', 'results-6.log', 'results-7.log']);
  t.equal((await open().load()).length, 3);
});

test('what nobody wants any more does not grow', async (t) => {
  const { directory, journal } = make(t);
  const path = join(directory, 'results-1.log');
  for (let i = 0; i < 50; i++) {
    await journal.append(batch(result(i, { error: 'x'.repeat(8000) })));
    journal.release(1, 1);
  }
  t.ok(statSync(path).size < 128 * 1024);
  await journal.append(batch(result(99)));
  const before = statSync(path).size;
  appendFileSync(path, 'torn');
  t.ok(before > 0);
  await journal.close();
  t.strictSame(readdirSync(directory), ['results-1.log'], 'the last one is not acknowledged');
});

test('a disk that takes nothing is said once and costs nothing else', async (t) => {
  const { open, events } = make(t, '/dev/null/nowhere');
  const journal = open();
  t.strictSame(await journal.load(), []);
  t.equal(await journal.append(batch(result(0))), undefined);
  t.equal(await journal.append(batch(result(1))), undefined);
  t.equal(events.filter((event) => event === 'journal.failed').length, 1);
  journal.release(1, 1);
  await journal.close();
});

test('a new life keeps results and removes output that nobody can finish', async (t) => {
  const directory = t.testdir({ outbox: { 'results-4.log': 'x', '1.2.3.out': 'y', 'results-1.log.tmp': 'z' } });
  t.equal(prepareOutbox(join(directory, 'outbox')), join(directory, 'outbox'));
  t.strictSame(readdirSync(join(directory, 'outbox')), ['results-4.log']);
});
