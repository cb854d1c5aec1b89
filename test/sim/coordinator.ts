/** A coordinator in the simulator: the real control plane and session handler over a simulated store and network. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { ServerDuplexStream } from '@grpc/grpc-js';
import type { Identity } from '../../common/identity/identity.js';
import type { Clock } from '../../common/clock.js';
import type { Logger } from '../../common/log.js';
import type { CoordinatorConfig } from '../../coordinator/coordinator.js';
import { ControlPlane } from '../../coordinator/control-plane.js';
import { makeAgentService } from '../../coordinator/rpc/agent-service.js';
import { Gate } from '../../coordinator/rpc/authorize.js';
import { Metrics } from '../../coordinator/services/metrics.js';
import { Throttle } from '../../coordinator/services/throttle.js';
import { coordinatorSettings } from '../../coordinator/services/settings.js';
import type { SessionRequest, SessionResponse } from '../../proto/gen/mesh/v1/agent.js';
import type { SimDatabase } from './database.js';
import type { Machine } from './machine.js';
import { Process } from './machine.js';
import type { ServerEnd } from './stream.js';

/** One for all: a registry of metrics with the meters of the process costs more than a whole run. */
class QuietMetrics extends Metrics {
  override observe(): void {}
}

const DEFAULTS = Object.fromEntries(
  Object.entries(coordinatorSettings).map(([key, entry]) => [key, entry.fallback]),
) as Omit<CoordinatorConfig, 'dataDir'>;

let metrics: QuietMetrics | undefined;
let directory: string | undefined;

/** The control plane makes its folders when it is constructed; nothing is ever put there. */
function sharedDirectory(): string {
  if (directory) return directory;
  const made = mkdtempSync(join(tmpdir(), 'mesh-sim-'));
  process.once('exit', () => rmSync(made, { recursive: true, force: true }));
  return (directory = made);
}

export interface SimCoordinatorOptions {
  machine: Machine;
  database: SimDatabase;
  config: Partial<CoordinatorConfig>;
  coordinators: () => string[];
  log: Logger;
  /** It gave up, and its process ends. */
  onExit: () => void;
  /** Mutation: its memory takes any attempt of a task for any other. */
  guardless: boolean;
}

export class SimCoordinator {
  readonly name: string;
  readonly address: string;
  process: Process;
  plane: ControlPlane | undefined;
  #handle: ((call: ServerEnd<SessionRequest, SessionResponse>) => void) | undefined;

  constructor(private readonly options: SimCoordinatorOptions) {
    this.name = options.machine.name;
    this.address = `${this.name}:7443`;
    this.process = new Process(options.machine, this.name);
    this.process.kill();
  }

  /** What takes sessions; undefined while nothing listens. */
  get handler(): ((call: ServerEnd<SessionRequest, SessionResponse>) => void) | undefined {
    return this.process.alive ? this.#handle : undefined;
  }

  get leads(): boolean {
    return this.process.alive && this.plane !== undefined && this.#handle !== undefined;
  }

  start(): void {
    const { machine, database, config, coordinators, log, onExit, guardless } = this.options;
    const process = new Process(machine, this.name);
    this.process = process;
    const { clock } = process;
    const exit = () => {
      this.kill();
      onExit();
    };
    const plane = new ControlPlane({
      config: { ...DEFAULTS, dataDir: sharedDirectory(), minFreeBytes: 0, ...config },
      ...{ store: database.storeFor(process), clock, log, coordinators, holder: this.name },
      signer: {
        ...{ rootPem: '', rootDigest: '', rootDigests: [] },
        publicKeyDigest: () => '',
        hasRootKey: false,
        signIssuer: () => '',
        crlLifetimeMs: 0,
        signCrl: async () => ({ der: Buffer.alloc(0), thisUpdateMs: 0 }),
        sign: () => {
          throw new Error('nobody signs here');
        },
      },
      // Every file that a job names is there.
      blobContent: { absent: async () => [], put: async () => undefined, get: async () => undefined },
      onRevoked: () => undefined,
      random: machine.world.random.next,
      metrics: (metrics ??= new QuietMetrics()),
      freeBytes: async () => Number.MAX_SAFE_INTEGER,
    });
    this.plane = plane;
    plane.start().then(
      () => {
        if (this.plane === plane) this.#handle = handlerOf(plane, clock, log, guardless);
      },
      () => exit(),
    );
  }

  kill(): void {
    this.process.kill();
    this.plane = undefined;
    this.#handle = undefined;
  }
}

type Handler = (call: ServerEnd<SessionRequest, SessionResponse>) => void;

function handlerOf(plane: ControlPlane, clock: Clock, log: Logger, guardless: boolean): Handler {
  const throttle = new Throttle(DEFAULTS, clock, () => undefined);
  const gate = new Gate({
    peerOf: (call) => ({ kind: 'identity', identity: agentIdentity(nameOf(call)) }),
    ...{ denylist: plane.denylist, audit: plane.audit, throttle, log },
  });
  const { session } = makeAgentService({ plane, gate, throttle, limits: DEFAULTS, clock, log });
  return (call) => {
    if (guardless && plane.term) forgetGenerations(plane.term.ledger);
    session(call as unknown as ServerDuplexStream<SessionRequest, SessionResponse>);
  };
}

function forgetGenerations(ledger: NonNullable<ControlPlane['term']>['ledger']): void {
  ledger.get = (ref) => ledger.current(ref.job, ref.index);
}

/** Who is at the other end of a simulated call. */
export const callers = new WeakMap<object, string>();

function nameOf(call: object): string {
  const name = callers.get(call);
  if (name === undefined) throw new Error('a call without a caller');
  return name;
}

const agentIdentity = (name: string): Identity => ({
  ...{ meshId: 'sim', role: 'agent', name, serial: `4d${name}`, fingerprint: 'f'.repeat(64) },
  ...{ notBeforeMs: 0, notAfterMs: Number.MAX_SAFE_INTEGER },
});
