import type { ServerDuplexStream } from '@grpc/grpc-js';
import { MeshError } from '../../common/errors.js';
import type { Clock } from '../../common/clock.js';
import type { Logger } from '../../common/log.js';
import {
  type AgentServiceServer,
  AgentServiceService as Definition,
  type FetchBlobRequest,
  type FetchBlobResponse,
  type SessionRequest,
  type SessionResponse,
  type StreamLogsRequest,
  type StreamLogsResponse,
} from '../../proto/gen/mesh/v1/agent.js';
import type { Admission } from '../services/admission.js';
import type { BlobDepot } from '../services/blob-depot.js';
import type { Fleet } from '../services/fleet.js';
import type { Limits } from '../services/limits.js';
import type { LogIntake } from '../services/log-intake.js';
import type { Results } from '../services/results.js';
import { type AgentSession, fromRefs, type Send } from '../services/session.js';
import type { Throttle } from '../services/throttle.js';
import type { Vitals } from '../services/vitals.js';
import type { CallContext, Gate } from './authorize.js';
import { checkHello, checkMessage } from './session-rules.js';
import { Valve } from './valve.js';

/** What serves agents while this coordinator leads; asked for anew by each call, and refused with NOT_LEADER otherwise. */
export interface AgentPlane {
  readonly admission: Admission;
  readonly fleet: Fleet;
  readonly vitals: Vitals;
  readonly results: Results;
  readonly logIntake: LogIntake;
  readonly blobs: BlobDepot;
}

export interface AgentServiceOptions {
  plane: AgentPlane;
  gate: Gate;
  throttle: Throttle;
  limits: Limits;
  clock: Clock;
  log: Logger;
}

/** Log messages of one stream in flight; the stream is paused beyond that. */
const LOG_WRITES_MAX = 4;
/** Messages that wait for an agent to read them: several times what one that was stopped for a lease is owed. */
const UNREAD_MAX = 4096;

export function makeAgentService(options: AgentServiceOptions): AgentServiceServer {
  const { gate } = options;
  return {
    session: gate.duplex(Definition.session.path, (call, context) => runSession(options, call, context)),
    streamLogs: gate.duplex(Definition.streamLogs.path, (call, context) => takeLogs(options, call, context)),
    fetchBlob: gate.serverStream<FetchBlobRequest, FetchBlobResponse>(
      Definition.fetchBlob.path,
      async function* ({ digest }) {
        for await (const data of options.plane.blobs.read(digest)) yield { data };
      },
      ({ data }) => data.length,
    ),
  };
}

/**
 * The first message is the hello; everything after it belongs to the session the hello opened. Who breaks the rules
 * (session-rules.ts) is not heard any further; what it holds is its until the lease ends, as if it had fallen silent.
 */
function runSession(
  options: AgentServiceOptions,
  call: ServerDuplexStream<SessionRequest, SessionResponse>,
  context: CallContext,
): Promise<void> {
  const { log, limits, throttle, clock } = options;
  // The parts of this term: whoever leads next has sessions of its own.
  const { admission, fleet, results, vitals } = options.plane;
  const { identity } = context;
  if (!identity) throw new MeshError('UNAUTHENTICATED', 'a session needs a certificate');
  throttle.session(identity);
  const messages = throttle.messagesOf(identity);
  const valve = new Valve(call, clock);
  let session: AgentSession | undefined;
  let isOver = false;

  return new Promise((resolve, reject) => {
    // A stream also ends when the agent is killed or the network cuts it: only an agent that said so has left.
    const over = (ended: boolean) => {
      resolve();
      isOver = true;
      if (!session?.open) return;
      session.closed();
      const node = fleet.get(session.node);
      if (node?.session !== session) return;
      const clean = ended && node.leaving;
      log.info({ event: 'node.disconnected', node: identity.name, clean });
      if (clean) {
        fleet.left(node);
        results.gone(node);
      }
    };
    /** Nothing more is heard from it; the rejection tells it why. */
    const refuse = (error: unknown) => {
      if (error instanceof MeshError && error.code === 'PROTOCOL')
        log.warn({ event: 'node.refused', node: identity.name, reason: error.message }, 'its session is closed');
      reject(error);
      over(false);
    };
    const send: Send = (body) => {
      if (call.writableLength <= UNREAD_MAX) call.write({ body });
      else if (!isOver) refuse(new MeshError('PROTOCOL', 'the agent does not read what it is told'));
    };
    /** Reads on when the database has caught up with what it reported. */
    const catchUp = (owing: AgentSession) => {
      if (owing.owedBytes <= limits.maxSessionBacklog || owing.isHeld) return;
      owing.hold(limits.maxSessionBacklog / 2, valve.hold());
    };
    let greeted = false;
    const greet = async (message: SessionRequest) => {
      const hello = checkHello(message);
      greeted = true;
      const release = valve.hold();
      session = await admission.admit(identity, hello, send, () => call.end());
      release();
      // The agent may be gone by now, and nobody would say so again.
      if (isOver) over(false);
    };
    const hear = (message: SessionRequest) => {
      if (session) {
        handle({ fleet, results, vitals }, session, checkMessage(message));
        return catchUp(session);
      }
      if (greeted) throw new MeshError('PROTOCOL', 'the agent spoke again before it was welcomed');
      greet(message).catch(refuse);
    };
    call.on('data', (message: SessionRequest) => {
      if (isOver) return;
      valve.spend(messages, 1);
      try {
        hear(message);
      } catch (error) {
        refuse(error);
      }
    });
    call.on('end', () => {
      over(true);
      call.end();
    });
    call.on('error', () => over(false));
    call.on('cancelled', () => over(false));
  });
}

function handle(
  { fleet, vitals, results }: Pick<AgentPlane, 'fleet' | 'vitals' | 'results'>,
  session: AgentSession,
  body: NonNullable<SessionRequest['body']>,
): void {
  if (!session.open) return;
  const node = fleet.get(session.node);
  if (!node) return;
  switch (body.$case) {
    case 'heartbeat': {
      const reply = vitals.heartbeat(node, body.value);
      if (reply) session.send({ $case: 'heartbeatReply', value: reply });
      return;
    }
    case 'started':
      return results.started(session, body.value.items);
    case 'finished':
      return results.report(session, body.value);
    case 'retracted':
      return results.retracted(session, fromRefs(body.value.dropped), fromRefs(body.value.kept));
  }
}

function takeLogs(
  { plane: { fleet, logIntake }, throttle, clock }: AgentServiceOptions,
  call: ServerDuplexStream<StreamLogsRequest, StreamLogsResponse>,
  context: CallContext,
): Promise<void> {
  const { identity } = context;
  const node = identity && fleet.byName(identity.name);
  if (!node) throw new MeshError('NOT_READY', 'open a session first');
  const output = throttle.outputOf(identity);
  const valve = new Valve(call, clock);
  let writing = 0;
  let release: (() => void) | undefined;
  let ended = false;
  return new Promise((resolve, reject) => {
    const end = () => {
      if (!ended || writing > 0) return;
      call.end();
      resolve();
    };
    call.on('data', (request: StreamLogsRequest) => {
      if (++writing >= LOG_WRITES_MAX) release ??= valve.hold();
      valve.spend(output, sizeOf(request));
      // One that does not read its answers is not read either.
      const answered = () => {
        if (--writing < LOG_WRITES_MAX) {
          release?.();
          release = undefined;
        }
        end();
      };
      logIntake.write(node.row.seq, request).then((response) => call.write(response, answered), reject);
    });
    // What was taken is acknowledged before the stream ends.
    call.on('end', () => {
      ended = true;
      end();
    });
    call.on('error', () => resolve());
    call.on('cancelled', () => resolve());
  });
}

/** A message costs something even when there is nothing in it. */
const MESSAGE_BYTES_MIN = 256;

const sizeOf = ({ chunks }: StreamLogsRequest): number =>
  chunks.reduce((bytes, { data }) => bytes + data.length, MESSAGE_BYTES_MIN);
