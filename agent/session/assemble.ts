/**
 * Puts an agent together from what reaches the outside: time, chance, executors, the way to a coordinator and the place
 * where results are kept. The program gives it the real ones, the simulator its own; nothing in here or below looks at a
 * clock, a disk or a network by itself, but for the files of output that tasks make.
 */
import type { Clock } from '../../common/clock.js';
import type { MeshError } from '../../common/errors.js';
import type { Service } from '../../common/lifecycle.js';
import type { Logger } from '../../common/log.js';
import type { Endpoint } from '../../link/endpoints.js';
import type { Welcome } from '../../proto/gen/mesh/v1/agent.js';
import type { Capabilities } from '../../proto/gen/mesh/v1/common.js';
import { Ledger } from '../core/ledger.js';
import { LeaseClock } from '../core/lease.js';
import type { RoomTotal } from '../core/room.js';
import type { Executor } from '../core/types.js';
import type { Journal } from '../output/journal.js';
import { Connection, LEASE_MS_DEFAULT } from './connection.js';
import type { Dialer } from './dialer.js';
import { Fence } from './fence.js';
import type { LoadSource } from './load.js';
import { LogStreamer } from './log-streamer.js';
import { Outbox } from './outbox.js';
import { SteadyTime } from './steady-time.js';
import { Work } from './work.js';

export interface AgentPorts {
  clock: Clock;
  /** Milliseconds since the machine was started, those it slept included. */
  bootMs: () => number;
  /** In [0, 1). */
  random: () => number;
  executors: ReadonlyMap<string, Executor>;
  dialer: Dialer;
  journal: Journal;
  load: LoadSource;
  log: Logger;
}

export interface AgentSetup {
  /** Drawn when the process starts. */
  bootId: string;
  capabilities: Capabilities;
  room: RoomTotal;
  /** Where output goes that outgrows memory. */
  spoolDir: string;
  /** How long work goes on without a coordinator, unless its job says that it is to stop. */
  keepForMs: number;
  /** Given by a person. */
  coordinator: Endpoint | undefined;
  remembered: readonly string[];
  remember: (addresses: string[]) => void;
  onRegistered: (welcome: Welcome, endpoint: Endpoint) => void;
  /** The coordinator asks for a renewal of the certificate; see `Renewal.wanted`. */
  onRenewalWanted?: (generation: number) => void;
  onFatal: (error: MeshError) => void;
}

export interface AgentParts {
  ledger: Ledger;
  lease: LeaseClock;
  outbox: Outbox;
  work: Work;
  logs: LogStreamer;
  connection: Connection;
  /** To be started in this order and stopped in the other. */
  services: readonly Service[];
}

export function assembleAgent(ports: AgentPorts, setup: AgentSetup): AgentParts {
  const { clock, random, executors, dialer, journal, load, log } = ports;
  const { room, spoolDir, keepForMs, ...rest } = setup;
  const ledger = new Ledger(room);
  const lease = new LeaseClock(LEASE_MS_DEFAULT);
  const time = new SteadyTime(clock, ports.bootMs);
  const fence = new Fence({ lease, time, keepForMs, clock, log });
  const outbox = new Outbox({ clock, journal, log });
  const logs = new LogStreamer(() => connection.bulk(), clock, log);
  const work = new Work({ ledger, executors, outbox, logs, fence, spoolDir, clock, log });
  const connection: Connection = new Connection({
    ...{ ...rest, dialer, work, lease, time, fence, load, clock, log, random },
  });
  connection.attach(logs);
  return { ledger, lease, outbox, work, logs, connection, services: [outbox, connection, logs, work] };
}
