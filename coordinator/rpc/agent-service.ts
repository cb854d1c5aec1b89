import type { ServerDuplexStream } from '@grpc/grpc-js';
import { MeshError } from '../../common/errors.js';
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
import type { LogIntake } from '../services/log-intake.js';
import type { Results } from '../services/results.js';
import { type AgentSession, fromRefs } from '../services/session.js';
import type { Vitals } from '../services/vitals.js';
import type { CallContext, Gate } from './authorize.js';

export interface AgentServiceOptions {
  gate: Gate;
  admission: Admission;
  fleet: Fleet;
  vitals: Vitals;
  results: Results;
  logIntake: LogIntake;
  blobs: BlobDepot;
  log: Logger;
}

/** Log messages of one stream in flight; the stream is paused beyond that. */
const LOG_WRITES_MAX = 8;

export function makeAgentService(options: AgentServiceOptions): AgentServiceServer {
  const { gate } = options;
  return {
    session: gate.duplex(Definition.session.path, (call, context) => runSession(options, call, context)),
    streamLogs: gate.duplex(Definition.streamLogs.path, (call, context) => takeLogs(options, call, context)),
    fetchBlob: gate.serverStream<FetchBlobRequest, FetchBlobResponse>(
      Definition.fetchBlob.path,
      async function* ({ digest }) {
        for await (const data of options.blobs.read(digest)) yield { data };
      },
    ),
  };
}

/** The first message is the hello; everything after it belongs to the session the hello opened. */
function runSession(
  options: AgentServiceOptions,
  call: ServerDuplexStream<SessionRequest, SessionResponse>,
  context: CallContext,
): Promise<void> {
  const { admission, fleet, results, log } = options;
  const { identity } = context;
  if (!identity) throw new MeshError('UNAUTHENTICATED', 'a session needs a certificate');
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
    const greet = async (message: SessionRequest) => {
      if (message.body?.$case !== 'hello')
        throw new MeshError('PROTOCOL', 'the first message of a session must be a hello');
      call.pause();
      session = await admission.admit(
        identity,
        message.body.value,
        (body) => call.write({ body }),
        () => call.end(),
      );
      call.resume();
      // The agent may be gone by now, and nobody would say so again.
      if (isOver) over(false);
    };
    call.on('data', (message: SessionRequest) => {
      try {
        if (session) handle(options, session, message);
        else greet(message).catch(reject);
      } catch (error) {
        reject(error);
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

function handle(options: AgentServiceOptions, session: AgentSession, message: SessionRequest): void {
  const { fleet, vitals, results } = options;
  if (!session.open) return;
  const node = fleet.get(session.node);
  if (!node) return;
  switch (message.body?.$case) {
    case 'heartbeat':
      return session.send({ $case: 'heartbeatReply', value: vitals.heartbeat(node, message.body.value) });
    case 'started':
      return results.started(session, message.body.value.items);
    case 'finished':
      return results.report(session, message.body.value.items);
    case 'retracted':
      return results.retracted(session, fromRefs(message.body.value.dropped), fromRefs(message.body.value.kept));
    default:
      throw new MeshError('PROTOCOL', `a session cannot take "${message.body?.$case ?? 'nothing'}" here`);
  }
}

function takeLogs(
  { fleet, logIntake }: AgentServiceOptions,
  call: ServerDuplexStream<StreamLogsRequest, StreamLogsResponse>,
  context: CallContext,
): Promise<void> {
  const node = context.identity && fleet.byName(context.identity.name);
  if (!node) throw new MeshError('NOT_READY', 'open a session first');
  let writing = 0;
  let ended = false;
  return new Promise((resolve, reject) => {
    const end = () => {
      if (!ended || writing > 0) return;
      call.end();
      resolve();
    };
    call.on('data', (request: StreamLogsRequest) => {
      if (++writing >= LOG_WRITES_MAX) call.pause();
      logIntake.write(node.row.seq, request).then((response) => {
        if (--writing < LOG_WRITES_MAX) call.resume();
        call.write(response);
        end();
      }, reject);
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
