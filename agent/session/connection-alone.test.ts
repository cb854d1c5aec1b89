/** Where a connection dials, and when: the wire is the test's. */
import { EventEmitter } from 'node:events';
import { test, type Test } from 'tap';
import { MeshError } from '../../common/errors.js';
import { silentLogger } from '../../common/log.js';
import { formatEndpoint, parseEndpoint } from '../../link/endpoints.js';
import type { SessionRequest, SessionResponse } from '../../proto/gen/mesh/v1/agent.js';
import { Capabilities } from '../../proto/gen/mesh/v1/common.js';
import { makeWork, turn } from '../../test/support/agent-work.js';
import { Connection } from './connection.js';
import type { AgentCalls, Dialer } from './dialer.js';

type Answer = NonNullable<SessionResponse['body']>;

/** One stream to a coordinator that welcomes everybody. */
class Stream extends EventEmitter {
  write({ body }: SessionRequest): boolean {
    if (body?.$case === 'hello') this.emit('data', { body: welcome });
    return true;
  }
  say(body: Answer): void {
    this.emit('data', { body });
  }
  pause(): void {}
  resume(): void {}
  end(): void {
    this.emit('end');
  }
  cancel(): void {}
}

const welcome: Answer = {
  $case: 'welcome',
  value: {
    ...{ protocol: 2, epoch: 1, nodeId: 'n', name: 'a1', leaseMs: 15_000, heartbeatMs: 2000, draining: false },
    ...{ superseded: undefined, coordinators: ['one.lan:1', 'two.lan:2'], readopted: undefined },
  },
};

async function setup(t: Test) {
  const parts = makeWork(t);
  const dialled: string[][] = [];
  const streams: Stream[] = [];
  let refusal: MeshError | undefined;
  const dialer: Dialer = {
    dial: async (known, open) => {
      dialled.push(known.map(formatEndpoint));
      const agents = {
        session: () => {
          const stream = new Stream();
          streams.push(stream);
          if (refusal) stream.write = () => stream.emit('error', refusal);
          return stream;
        },
      } as unknown as AgentCalls;
      const authority = () => {
        throw new Error('not here');
      };
      return open({
        endpoint: parseEndpoint('one.lan:1'),
        agents,
        bulk: () => agents,
        authority,
        close: () => undefined,
      });
    },
  };
  const remembered: string[][] = [];
  const connection = new Connection({
    ...{ capabilities: Capabilities.fromPartial({ cpus: 1 }), bootId: 'boot', dialer, random: () => 0.5 },
    ...{ lease: parts.lease, time: parts.time, fence: parts.fence, work: parts.work, clock: parts.clock },
    load: { measure: () => 0, memoryFreeBytes: () => 0 },
    coordinator: parseEndpoint('given.lan:9'),
    ...{ remembered: ['old.lan:5'], remember: (list) => remembered.push(list), log: silentLogger },
    onRegistered: () => undefined,
    onFatal: (error) => t.fail(error.message),
  });
  connection.attach(parts.logs);
  await connection.start();
  t.teardown(() => connection.stop());
  await turn();
  const stream = () => streams.at(-1) as Stream;
  return {
    ...parts,
    connection,
    dialled,
    streams,
    stream,
    remembered,
    refuse: (error?: MeshError) => (refusal = error),
  };
}

test('the given address is dialled first, then what was learned, the newest first', async (t) => {
  const { dialled, stream, clock, remembered } = await setup(t);
  t.strictSame(dialled, [['given.lan:9', 'old.lan:5']]);
  t.strictSame(remembered.at(-1), ['one.lan:1', 'two.lan:2', 'old.lan:5']);
  const reply = { sequence: 1, pingUs: 1, epoch: 1, draining: false, renew: 0 };
  stream().say({ $case: 'heartbeatReply', value: { ...reply, coordinators: ['one.lan:1', 'three.lan:3'] } });
  t.strictSame(remembered.at(-1), ['one.lan:1', 'three.lan:3', 'two.lan:2', 'old.lan:5']);
  stream().say({ $case: 'goodbye', value: { reason: 'stepping down', permanent: false, coordinators: ['two.lan:2'] } });
  await turn();
  clock.advance(200);
  await turn();
  t.strictSame(dialled[1], ['given.lan:9', 'two.lan:2', 'one.lan:1', 'three.lan:3', 'old.lan:5']);
});

test('one that stands by says who leads: that is dialled next', async (t) => {
  const { dialled, stream, clock, refuse } = await setup(t);
  refuse(new MeshError('NOT_LEADER', 'it stands by', { coordinators: ['leader.lan:4'] }));
  stream().end();
  for (let dials = 1; dials < 3; dials++) {
    await turn();
    clock.advance(5000);
    await turn();
  }
  t.equal(dialled[2]?.[1], 'leader.lan:4');
});

test('one that dismisses the agent is left alone for a while', async (t) => {
  const { dialled, stream, clock } = await setup(t);
  stream().say({ $case: 'goodbye', value: { reason: 'revoked', permanent: true, coordinators: [] } });
  await turn();
  clock.advance(89_000);
  await turn();
  t.equal(dialled.length, 1);
  clock.advance(1000);
  await turn();
  t.equal(dialled.length, 2);
});
