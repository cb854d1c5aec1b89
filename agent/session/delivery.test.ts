import { test } from 'tap';
import { silentLogger } from '../../common/log.js';
import type { Finished } from '../../proto/gen/mesh/v1/agent.js';
import { finishedOf, RecordedUpstream, refsOf, refText, turn } from '../../test/support/agent-work.js';
import { ManualClock } from '../../test/support/manual-clock.js';
import { MemoryJournal } from '../../test/support/memory-journal.js';
import { Delivery, IN_FLIGHT_BYTES_MAX } from './delivery.js';
import { Outbox } from './outbox.js';

const MIB = 2 ** 20;
const RESULTS_IN_WINDOW = IN_FLIGHT_BYTES_MAX / MIB;

/** Results of a mebibyte each: two of them are more than one batch holds. */
const large = (index: number): Finished => finishedOf([1, index, 1], { resultJson: 'x'.repeat(MIB) });

function setup() {
  const clock = new ManualClock();
  const outbox = new Outbox({ clock, journal: new MemoryJournal(), log: silentLogger });
  const delivery = new Delivery(outbox);
  const send = async (...items: Finished[]): Promise<void> => {
    for (const item of items) outbox.add(item);
    for (const item of items) await delivery.send(await outbox.store([item]));
  };
  const acknowledge = async (index: number): Promise<void> => {
    outbox.remove(refsOf([1, index, 1]));
    await delivery.pump();
  };
  return { clock, outbox, delivery, send, acknowledge };
}

const sent = ({ results }: RecordedUpstream): string[] => results.map(refText);
const refs = (from: number, to: number): string[] => Array.from({ length: to - from }, (_, i) => `1.${from + i}.1`);

test('the bytes in flight are bounded; acknowledgements make room, and everything goes once and in order', async (t) => {
  const { clock, outbox, delivery, send, acknowledge } = setup();
  const upstream = new RecordedUpstream();
  await delivery.connected(upstream);
  await send(...Array.from({ length: 20 }, (_, index) => large(index)));
  t.strictSame(sent(upstream), refs(0, RESULTS_IN_WINDOW), 'the window is full');
  t.ok(outbox.inFlightBytes < IN_FLIGHT_BYTES_MAX + 2 * MIB);
  t.equal([...outbox.all()].length, 20, 'the others are kept all the same');
  clock.advance(7000);
  await acknowledge(3);
  t.strictSame(sent(upstream), refs(0, RESULTS_IN_WINDOW + 1));
  t.equal(upstream.results.at(-1)?.ageMs, 7000, 'with the age it has when it goes');
  for (let index = 0; index < 20; index++) await acknowledge(index);
  t.strictSame(sent(upstream), refs(0, 20));
  t.equal(outbox.inFlightBytes, 0);
  t.strictSame([...outbox.all()], []);
});

test('a new session begins with an empty window and with everything, also what came while there was none', async (t) => {
  const { outbox, delivery, send, acknowledge } = setup();
  const first = new RecordedUpstream();
  await delivery.connected(first);
  await send(...Array.from({ length: 9 }, (_, index) => large(index)));
  delivery.disconnected();
  await send(large(9));
  t.equal(first.results.length, RESULTS_IN_WINDOW);

  const second = new RecordedUpstream();
  await delivery.connected(second);
  await send(large(10));
  t.strictSame(sent(second), refs(0, RESULTS_IN_WINDOW));
  for (let index = 0; index < 11; index++) await acknowledge(index);
  t.strictSame(sent(second), refs(0, 11), 'each once');
  t.equal(first.results.length, RESULTS_IN_WINDOW, 'and nothing more into the old session');
  t.equal(outbox.inFlightBytes, 0);
});

test('a coordinator that knows no runs is sent their results one by one, those of a former session too', async (t) => {
  const { outbox, delivery } = setup();
  const run = (first: number) => ({ job: 1, first, ageMs: 0, runUs: [1, 2], resultsJson: ['null'], exitCode: 0 });
  const keep = async (first: number) => {
    const kept = run(first);
    outbox.add(kept);
    await delivery.send(await outbox.store([kept]));
  };
  const modern = new RecordedUpstream();
  await delivery.connected(modern);
  await keep(0);
  t.strictSame([modern.runs.length, modern.results.length], [1, 0]);
  delivery.disconnected();
  const old = new RecordedUpstream();
  old.takesRun = () => false;
  await delivery.connected(old);
  await keep(2);
  t.strictSame(sent(old), refs(0, 4));
  t.match(old.results[3], { runUs: 2, resultJson: 'null', generation: 1, exitCode: 0 });
  t.strictSame(old.runs, []);
  outbox.remove(refsOf([1, 0, 1], [1, 1, 1], [1, 2, 1], [1, 3, 1]));
  t.equal(outbox.inFlightBytes, 0);
  t.strictSame([...outbox.all()], []);
});

test('a batch that the old session still holds up delays nothing of the new one', async (t) => {
  const { delivery, send } = setup();
  let release: () => void = () => undefined;
  const stuck = new RecordedUpstream();
  stuck.finished = async ({ items }) => {
    stuck.results.push(...items);
    await new Promise<void>((resolve) => (release = resolve));
  };
  await delivery.connected(stuck);
  const sending = send(large(0), large(1));
  await turn();
  t.strictSame(sent(stuck), refs(0, 1));
  const next = new RecordedUpstream();
  await delivery.connected(next);
  t.strictSame(sent(next), ['1.0.1'], 'what is kept goes at once');
  release();
  await sending;
  t.strictSame(sent(stuck), refs(0, 1));
  t.strictSame(sent(next), refs(0, 2));
});

test('what is superseded in flight gives its room back', async (t) => {
  const { outbox, delivery, send } = setup();
  await delivery.connected(new RecordedUpstream());
  await send(large(0));
  const before = outbox.inFlightBytes;
  t.ok(before >= MIB);
  outbox.renumber({ job: 1, index: 0, generation: 1 }, 2);
  t.equal(outbox.inFlightBytes, 0, 'it is to be sent anew');
});
