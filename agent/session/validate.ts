/**
 * What a coordinator may say, and when. A message that does not pass ends the session and nothing of it is done: a peer
 * that errs in form cannot be trusted in content. Repeats and late commands are not errors; the generations in them are
 * what makes those harmless. Kinds this version does not know are for later versions and are passed over.
 */
import type { Assign, JobBody, SessionResponse, TaskRefs, TaskRuns, Welcome } from '../../proto/gen/mesh/v1/agent.js';

export interface Conversation {
  /** The welcome has come. */
  welcomed: boolean;
  /** The last heartbeat that was sent. */
  sequence: number;
  /** What the tasks of a job share, if this session was told. */
  bodyOf: (job: number) => JobBody | undefined;
}

/** What is wrong with the message, to follow "the coordinator …"; undefined when nothing is. */
export function problemWith(body: SessionResponse['body'], conversation: Conversation): string | undefined {
  if (body === undefined) return undefined;
  if (!conversation.welcomed && body.$case !== 'welcome' && body.$case !== 'goodbye')
    return `sent "${body.$case}" before its welcome`;
  switch (body.$case) {
    case 'welcome':
      return conversation.welcomed ? 'sent a second welcome' : problemWithWelcome(body.value);
    case 'heartbeatReply':
      return body.value.sequence > conversation.sequence ? 'answered a heartbeat that was never sent' : undefined;
    case 'assign':
      return problemWithAssign(body.value, conversation.bodyOf);
    case 'retract':
    case 'cancel':
    case 'finishedAck':
      return isEven(body.value) ? undefined : `sent a "${body.$case}" with columns of different lengths`;
    case 'finishedRunsAck':
      return problemWithRuns(body.value);
    case 'goodbye':
      return undefined;
  }
}

/** Tasks that one acknowledgement may name: several times what a node is given with the deepest queue there is. */
const ACKNOWLEDGED_MAX = 100_000;

function problemWithRuns({ jobs, firsts, counts }: TaskRuns): string | undefined {
  if (firsts.length !== jobs.length || counts.length !== jobs.length)
    return 'sent a "finishedRunsAck" with columns of different lengths';
  const tasks = counts.reduce((sum, count) => sum + count, 0);
  return tasks > ACKNOWLEDGED_MAX ? `acknowledged ${tasks} tasks at a time` : undefined;
}

function problemWithWelcome({ leaseMs, heartbeatMs, superseded, readopted }: Welcome): string | undefined {
  if (heartbeatMs === 0 || leaseMs <= heartbeatMs)
    return `granted a lease of ${leaseMs} ms with a heartbeat every ${heartbeatMs} ms`;
  const length = readopted?.attempts?.jobs.length ?? 0;
  const even = isEven(superseded) && isEven(readopted?.attempts) && (readopted?.generations.length ?? 0) === length;
  return even ? undefined : 'sent a welcome with columns of different lengths';
}

function problemWithAssign({ bodies, groups, secrets }: Assign, bodyOf: Conversation['bodyOf']): string | undefined {
  for (const { job, indexes, generations, attempts, inputs } of groups) {
    const fits = (column: readonly unknown[]) => column.length === 0 || column.length === indexes.length;
    if (generations.length !== indexes.length || !fits(attempts) || !fits(inputs))
      return 'sent an assignment with columns of different lengths';
    const body = bodies.find((sent) => sent.job === job) ?? bodyOf(job);
    if (!body) return `assigned tasks of job ${job} without having said what they do`;
    // An attempt never starts without the secrets its job asks for.
    const values = secrets.find((of) => of.job === job)?.values.length ?? 0;
    if (values !== body.secrets.length)
      return `assigned tasks of job ${job} with ${values} of its ${body.secrets.length} secrets`;
  }
  return undefined;
}

const isEven = (refs: TaskRefs | undefined): boolean =>
  refs === undefined || (refs.indexes.length === refs.jobs.length && refs.generations.length === refs.jobs.length);
