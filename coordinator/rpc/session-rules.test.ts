import { test } from 'tap';
import {
  AgentHello,
  Finished,
  Heartbeat,
  Outcome,
  SessionRequest,
  Started,
  SucceededRun,
} from '../../proto/gen/mesh/v1/agent.js';
import { Capabilities } from '../../proto/gen/mesh/v1/common.js';
import { SeededRandom } from '../../test/support/random.js';
import { checkHello, checkMessage, REFS_MAX, REPORTS_MAX } from './session-rules.js';

type Body = NonNullable<SessionRequest['body']>;

const hello = (over: Partial<AgentHello> = {}): SessionRequest => ({
  body: { $case: 'hello', value: { ...AgentHello.fromPartial({ bootId: 'boot' }), ...over } },
});
const message = (body: Body): SessionRequest => ({ body });
const ref = { job: 1, index: 0, generation: 1 };
const finished = (over: Partial<Finished>): SessionRequest =>
  message({
    $case: 'finished',
    value: { items: [Finished.fromPartial({ ...ref, outcome: Outcome.SUCCEEDED, ...over })], runs: [] },
  });
const run = (over: Partial<SucceededRun>): SessionRequest =>
  message({
    $case: 'finished',
    value: { items: [], runs: [{ job: 1, first: 0, ageMs: 0, runUs: [1, 2], resultsJson: ['null'], ...over }] },
  });
const started = (over: Partial<Started>): SessionRequest =>
  message({ $case: 'started', value: { items: [Started.fromPartial({ ...ref, ...over })] } });
const beat = (over: Partial<Heartbeat>): SessionRequest =>
  message({ $case: 'heartbeat', value: Heartbeat.fromPartial(over) });
const dropped = (jobs: number[], indexes: number[], generations: number[]): SessionRequest =>
  message({ $case: 'retracted', value: { dropped: { jobs, indexes, generations }, kept: undefined } });

test('what a healthy agent says passes, at the edges of what it may', async (t) => {
  const three = { jobs: [1, 1, 2], indexes: [0, 1, 2 ** 31 - 1], generations: [1, 2, 3] };
  checkHello(hello({ running: three, runningAgeMs: [0, 1, 86_400_000_000] }));
  checkHello(hello({ running: three }));
  checkHello(hello({ capabilities: Capabilities.fromPartial({ cpus: 8, slots: 8, labels: { zone: 'a' } }) }));
  for (const outcome of [1, 2, 3, 4, 5, 6]) checkMessage(finished({ outcome }));
  checkMessage(finished({ ageMs: 2 ** 32 - 1, runUs: 86_400_000_000_000, peakMemoryBytes: 2 ** 52 }));
  checkMessage(run({ runUs: [0, 2 ** 32 - 1], resultsJson: ['1', 'x'.repeat(1024)], first: 2 ** 31 - 2 }));
  checkMessage(started({ ageMs: 2 ** 32 - 1 }));
  checkMessage(beat({ load: 0.5, echoUs: 1e15 }));
  checkMessage(dropped([], [], []));
  t.pass();
});

test('what breaks a rule is refused whole, with what is wrong', async (t) => {
  const hellos: [string, SessionRequest, RegExp][] = [
    ['something else first', beat({}), /began with "heartbeat"/],
    ['nothing', {} as SessionRequest, /began with an empty message/],
    ['no boot id', hello({ bootId: '' }), /no boot id/],
    ['ages of other attempts', hello({ runningAgeMs: [1] }), /1 ages of 0 running/],
    [
      'an age before there were computers',
      hello({ running: { jobs: [1], indexes: [1], generations: [1] }, runningAgeMs: [Number.MAX_SAFE_INTEGER] }),
      /age of a running attempt/,
    ],
    ['short columns', hello({ prefilled: { jobs: [1, 2], indexes: [1], generations: [1, 1] } }), /2, 1 and 2 rows/],
    ['memory without end', hello({ capabilities: Capabilities.fromPartial({ memoryBytes: 2 ** 52 }) }), /the memory/],
    ['a NUL in a label', hello({ capabilities: Capabilities.fromPartial({ labels: { a: 'b\0' } }) }), /NUL/],
  ];
  for (const [what, bad, message] of hellos) t.throws(() => checkHello(bad), { code: 'PROTOCOL', message }, what);
  const many = <T>(count: number, item: T): T[] => new Array<T>(count).fill(item);
  const messages: [string, SessionRequest, RegExp][] = [
    ['a second hello', hello(), /second time/],
    ['nothing', {} as SessionRequest, /without content/],
    ['an unknown outcome', finished({ outcome: 7 as Outcome }), /outcome 7/],
    ['no outcome', finished({ outcome: Outcome.UNSPECIFIED }), /outcome 0/],
    ['no generation', finished({ generation: 0 }), /generation is 0/],
    ['an index beyond a column', finished({ index: 2 ** 31 }), /index is 2147483648/],
    ['job zero', finished({ job: 0 }), /job's number is 0/],
    ['a job beyond what is exact', finished({ job: 2 ** 53 }), /job's number/],
    ['an empty run', run({ runUs: [] }), /run of results is empty/],
    ['a run of job zero', run({ job: 0 }), /job's number is 0/],
    ['a run beyond a column', run({ first: 2 ** 31 - 1 }), /last task of a run is 2147483648/],
    ['a run without a result', run({ resultsJson: [] }), /run of 2 attempts has 0 results/],
    ['a run with results of others', run({ resultsJson: ['1', '2', '3'] }), /run of 2 attempts has 3 results/],
    ['a text that stands for many', run({ resultsJson: ['x'.repeat(1025)] }), /in a run has 1025 characters/],
    ['a run without an age', run({ ageMs: Number.NaN }), /age of a result is NaN/],
    ['a run that is more than a batch', run({ runUs: many(REPORTS_MAX + 1, 1) }), /10001 finished/],
    [
      'more runs than reports in a batch',
      message({
        $case: 'finished',
        value: { items: [], runs: many(REPORTS_MAX + 1, SucceededRun.fromPartial({ job: 1, runUs: [] })) },
      }),
      /10001 finished/,
    ],
    ['half a millisecond', finished({ ageMs: 0.5 }), /age of a result is 0.5/],
    ['an age that is none', finished({ ageMs: Number.NaN }), /NaN/],
    ['a run of a million years', finished({ runUs: 2 ** 53 - 1 }), /how long an attempt ran/],
    ['an endless error', finished({ error: 'x'.repeat(300_000) }), /the error of an attempt has 300000/],
    ['an endless load', beat({ load: Number.POSITIVE_INFINITY }), /load is Infinity/],
    ['a load that is none', beat({ load: Number.NaN }), /load is NaN/],
    ['an age below zero', started({ ageMs: -1 }), /age of a started attempt is -1/],
    ['columns of other lengths', dropped([1], [], [1]), /1, 0 and 1 rows/],
    [
      'more than a message holds',
      dropped(many(REFS_MAX + 1, 1), many(REFS_MAX + 1, 1), many(REFS_MAX + 1, 1)),
      /100001/,
    ],
    [
      'more reports than a batch',
      message({ $case: 'finished', value: { items: many(REPORTS_MAX + 1, Finished.fromPartial(ref)), runs: [] } }),
      /10001 finished/,
    ],
  ];
  for (const [what, bad, message] of messages) t.throws(() => checkMessage(bad), { code: 'PROTOCOL', message }, what);
});

test('whatever bytes arrive, what passes holds only numbers the database takes', async (t) => {
  const random = new SeededRandom(7).next;
  const bytesOf = (size: number) => Uint8Array.from({ length: size }, () => Math.floor(random() * 256));
  const samples = [
    finished({ runUs: 12, ageMs: 5, error: 'no', resultJson: '{"a":1}' }),
    run({ runUs: [3, 400, 5], ageMs: 7, resultsJson: ['1', '"b"', 'null'] }),
  ].map((sample) => SessionRequest.encode(sample).finish());
  let passed = 0;
  for (let round = 0; round < 5000; round++) {
    const bytes =
      round % 2 ? bytesOf(1 + Math.floor(random() * 60)) : Uint8Array.from(samples[(round / 2) % 2] as Uint8Array);
    if (round % 2 === 0)
      for (let flips = 0; flips < 3; flips++) bytes[Math.floor(random() * bytes.length)] = Math.floor(random() * 256);
    let decoded: SessionRequest;
    try {
      decoded = SessionRequest.decode(bytes);
    } catch {
      continue;
    }
    try {
      const body = checkMessage(decoded);
      passed++;
      if (body.$case !== 'finished') continue;
      for (const { job, first, runUs, ageMs } of body.value.runs)
        if (![job, first, ageMs, ...runUs].every(Number.isSafeInteger) || first + runUs.length - 1 > 2 ** 31 - 1)
          t.fail(`a run of job ${job} from ${first} passed`);
      for (const { job, index, generation, runUs, ageMs, outcome } of body.value.items)
        if (
          ![job, index, generation, runUs, ageMs].every(Number.isSafeInteger) ||
          index > 2 ** 31 - 1 ||
          !Outcome[outcome]
        )
          t.fail(`round ${round} let through ${JSON.stringify(body.value.items)}`);
    } catch (error) {
      if ((error as { code?: string }).code !== 'PROTOCOL') t.fail(`round ${round}: ${String(error)}`);
    }
  }
  t.ok(passed > 0, `${passed} messages passed`);
});
