/** Sits on the wire between agents and coordinators: sees, and sometimes doubles, what passes. */
import type { SessionRequest, SessionResponse, TaskRefs } from '../../proto/gen/mesh/v1/agent.js';
import type { Recorder } from './recorder.js';
import type { Scenario } from './scenario.js';
import type { Tap } from './stream.js';
import type { World } from './world.js';

/** Everything the protocol calls harmless when repeated. */
const REPEATABLE: ReadonlySet<string> = new Set([
  'started',
  'finished',
  'retracted',
  'assign',
  'retract',
  'cancel',
  'finishedAck',
  'finishedRunsAck',
]);

/** A message of an agent may come a second time this much later. */
const LATE_MS_MAX = 5000;

export class Witness {
  constructor(
    private readonly recorder: Recorder,
    private readonly world: World,
    private readonly scenario: Scenario,
  ) {}

  tap(agent: string): Tap<SessionRequest, SessionResponse> {
    const pass = <M extends SessionRequest | SessionResponse>(message: M, arrow: string): M[] => {
      const kind = message.body?.$case ?? 'nothing';
      this.recorder.wire(`${agent} ${arrow} ${kind}`, message);
      const twice = REPEATABLE.has(kind) && this.world.random.chance(this.scenario.duplicateRate);
      return twice ? [message, message] : [message];
    };
    const say = (message: SessionRequest, later: (late: SessionRequest) => void): SessionRequest[] => {
      const { body } = message;
      if (body?.$case === 'hello' && body.value.unacknowledged) this.recorder.hello(agent, body.value.unacknowledged);
      if (REPEATABLE.has(body?.$case ?? '') && this.world.random.chance(this.scenario.duplicateRate))
        this.world.after(this.world.random.next() * LATE_MS_MAX, () => later(message));
      return pass(message, '->');
    };
    const hear = (message: SessionResponse): SessionResponse[] => {
      const { body } = message;
      const released = releasedBy(body);
      if (released && released.jobs.length > 0) this.recorder.released(agent, released);
      return pass(message, '<-');
    };
    return { request: say, response: hear };
  }
}

/** What an agent need not keep any longer. */
function releasedBy(body: SessionResponse['body']): TaskRefs | undefined {
  if (body?.$case === 'finishedAck') return body.value;
  if (body?.$case === 'welcome') return body.value.superseded;
  if (body?.$case !== 'finishedRunsAck') return undefined;
  const refs: TaskRefs = { jobs: [], indexes: [], generations: [] };
  body.value.jobs.forEach((job, i) => {
    const first = body.value.firsts[i] as number;
    for (let place = 0; place < (body.value.counts[i] as number); place++) {
      refs.jobs.push(job);
      refs.indexes.push(first + place);
      refs.generations.push(1);
    }
  });
  return refs;
}
