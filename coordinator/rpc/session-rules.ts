/**
 * What an agent may say on its session stream. A message that breaks a rule comes from a defective or hostile agent: it
 * is refused whole, before anything of it is believed, and its session is closed with the reason. Numbers that only
 * PostgreSQL would refuse are refused here, or one bad report would hold up the batch it travels in for ever.
 *
 * A repeated message breaks no rule: networks repeat, and every message is idempotent.
 */
import { MeshError } from '../../common/errors.js';
import { RUN_RESULT_CHARS_MAX } from '../../common/result-run.js';
import {
  type AgentHello,
  type Finished,
  type FinishedBatch,
  type Heartbeat,
  Outcome,
  type SessionRequest,
  type Started,
  type SucceededRun,
  type TaskRefs,
} from '../../proto/gen/mesh/v1/agent.js';
import type { Capabilities } from '../../proto/gen/mesh/v1/common.js';

/** References in one list: several times what an agent holds with the deepest queue there is (`--prefill-max`). */
export const REFS_MAX = 100_000;
/** Reports in one message; agents send a thousand. */
export const REPORTS_MAX = 10_000;
/** PostgreSQL's integer; no job has so many tasks, and no task so many assignments. */
const INTEGER_MAX = 2 ** 31 - 1;
const AGE_MS_MAX = 10 * 365 * 86_400_000;
const TEXT_MAX = 256 * 1024;
const NAME_MAX = 1024;
const LABELS_MAX = 1000;
const COUNT_MAX = 1_000_000;
const BYTES_MAX = 2 ** 50;

const refuse = (what: string): never => {
  throw new MeshError('PROTOCOL', `the agent broke the rules of the session: ${what}`, {
    hint: 'is it the program it says it is? upgrade or reinstall that agent',
  });
};

const whole = (what: string, value: number, min: number, max: number): void => {
  if (!Number.isSafeInteger(value) || value < min || value > max)
    refuse(`${what} is ${value}, not a whole number from ${min} to ${max}`);
};

const short = (what: string, text: string, max: number): void => {
  if (text.length > max) refuse(`${what} has ${text.length} characters, more than ${max}`);
};

/** @throws MeshError PROTOCOL */
export function checkHello(message: SessionRequest): AgentHello {
  const { body } = message;
  if (body?.$case !== 'hello') return refuse(`it began with ${nameOf(message)}, not with a hello`);
  const hello = body.value;
  if (hello.bootId === '') refuse('its hello has no boot id');
  short('the boot id', hello.bootId, NAME_MAX);
  short('the version', hello.version, NAME_MAX);
  if (hello.capabilities) checkCapabilities(hello.capabilities);
  checkRefs('prefilled', hello.prefilled);
  const running = checkRefs('running', hello.running);
  checkRefs('unacknowledged', hello.unacknowledged);
  whole('the epoch', hello.epoch, 0, Number.MAX_SAFE_INTEGER);
  const ages = hello.runningAgeMs;
  if (ages.length !== 0 && ages.length !== running)
    refuse(`it names ${ages.length} ages of ${running} running attempts`);
  for (const age of ages) whole('the age of a running attempt', age, 0, AGE_MS_MAX);
  return hello;
}

/** What follows the hello. @throws MeshError PROTOCOL */
export function checkMessage(message: SessionRequest): NonNullable<SessionRequest['body']> {
  const { body } = message;
  switch (body?.$case) {
    case 'heartbeat':
      checkHeartbeat(body.value);
      return body;
    case 'started':
      atMost('started attempts', body.value.items.length, REPORTS_MAX);
      for (const item of body.value.items) checkStarted(item);
      return body;
    case 'finished':
      atMost('finished attempts', reportsIn(body.value), REPORTS_MAX);
      for (const item of body.value.items) checkFinished(item);
      for (const run of body.value.runs) checkRun(run);
      return body;
    case 'retracted':
      checkRefs('dropped', body.value.dropped);
      checkRefs('kept', body.value.kept);
      return body;
    case 'hello':
      return refuse('it said hello a second time');
    default:
      return refuse('it sent a message without content, or of a kind that does not exist');
  }
}

const nameOf = ({ body }: SessionRequest): string => (body ? `"${body.$case}"` : 'an empty message');

function atMost(what: string, count: number, max: number): void {
  if (count > max) refuse(`one message names ${count} ${what}, more than ${max}`);
}

/** Returns how many. */
function checkRefs(what: string, refs: TaskRefs | undefined): number {
  if (!refs) return 0;
  const { jobs, indexes, generations } = refs;
  if (jobs.length !== indexes.length || jobs.length !== generations.length)
    refuse(`the columns of what is ${what} have ${jobs.length}, ${indexes.length} and ${generations.length} rows`);
  atMost(`attempts that are ${what}`, jobs.length, REFS_MAX);
  for (let i = 0; i < jobs.length; i++) checkRef(jobs[i] as number, indexes[i] as number, generations[i] as number);
  return jobs.length;
}

function checkRef(job: number, index: number, generation: number): void {
  whole("a job's number", job, 1, Number.MAX_SAFE_INTEGER);
  whole("a task's index", index, 0, INTEGER_MAX);
  whole("an attempt's generation", generation, 1, INTEGER_MAX);
}

function checkHeartbeat(beat: Heartbeat): void {
  if (!Number.isFinite(beat.load) || beat.load < 0) refuse(`its load is ${beat.load}`);
  whole('the sequence of a heartbeat', beat.sequence, 0, Number.MAX_SAFE_INTEGER);
  whole('the echo of a ping', beat.echoUs, 0, Number.MAX_SAFE_INTEGER);
  whole('how long a ping was held', beat.echoHeldUs, 0, AGE_MS_MAX * 1000);
}

function checkStarted({ job, index, generation, ageMs }: Started): void {
  checkRef(job, index, generation);
  whole('the age of a started attempt', ageMs, 0, AGE_MS_MAX);
}

function checkFinished(item: Finished): void {
  checkRef(item.job, item.index, item.generation);
  if (item.outcome < Outcome.SUCCEEDED || item.outcome > Outcome.NODE_FAULT)
    refuse(`an attempt ended with the outcome ${item.outcome}, which does not exist`);
  whole('how long an attempt ran', item.runUs, 0, AGE_MS_MAX * 1000);
  whole('the age of a result', item.ageMs, 0, AGE_MS_MAX);
  if (item.peakMemoryBytes !== undefined)
    whole('the peak memory of an attempt', item.peakMemoryBytes, 0, Number.MAX_SAFE_INTEGER);
  short('the error of an attempt', item.error, TEXT_MAX);
  short('the signal of an attempt', item.signal, NAME_MAX);
  short('the result of an attempt', item.resultJson, TEXT_MAX);
}

const reportsIn = ({ items, runs }: FinishedBatch): number =>
  runs.reduce((count, { runUs }) => count + Math.max(1, runUs.length), items.length);

function checkRun({ job, first, ageMs, runUs, resultsJson }: SucceededRun): void {
  if (runUs.length === 0) refuse('a run of results is empty');
  if (resultsJson.length !== 1 && resultsJson.length !== runUs.length)
    refuse(`a run of ${runUs.length} attempts has ${resultsJson.length} results`);
  checkRef(job, first, 1);
  whole('the index of the last task of a run', first + runUs.length - 1, 0, INTEGER_MAX);
  whole('the age of a result', ageMs, 0, AGE_MS_MAX);
  for (const text of resultsJson) short('the result of an attempt in a run', text, RUN_RESULT_CHARS_MAX);
}

function checkCapabilities(given: Capabilities): void {
  whole('the number of CPUs', given.cpus, 0, COUNT_MAX);
  whole('the number of slots', given.slots, 0, COUNT_MAX);
  whole('the memory', given.memoryBytes, 0, BYTES_MAX);
  const labels = Object.entries(given.labels);
  if (labels.length > LABELS_MAX || given.executors.length > LABELS_MAX || given.gpus.length > LABELS_MAX)
    refuse(`it has more than ${LABELS_MAX} labels, executors or GPUs`);
  if (given.sandboxes.length > LABELS_MAX || given.limits.length > LABELS_MAX)
    refuse(`it has more than ${LABELS_MAX} sandboxes or limits`);
  if (Object.keys(given.custom).length > LABELS_MAX) refuse(`it has more than ${LABELS_MAX} resources`);
  const tiers = [given.sandbox, ...given.sandboxes, ...given.limits];
  const texts = [given.os, given.arch, ...tiers, ...given.executors, ...Object.keys(given.custom)];
  for (const text of [...texts, ...given.gpus.map(({ model }) => model), ...labels.flat()]) {
    short('what it says about itself', text, NAME_MAX);
    if (text.includes('\0')) refuse('what it says about itself holds a NUL character');
  }
}
