/**
 * Many agents in one process, as a child of the bench: each with its key, its certificate from a real join, its own
 * mutual-TLS session and everything of the product that keeps one: dialler, hello, heartbeats, fence, lease, outbox,
 * renewal. Only the executor is another one: it ends functions at once, because a process for each of a thousand agents
 * would not fit on the machine. Loaded from `dist`, like everything that is measured.
 */
import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import type { AgentParts } from '../agent/session/assemble.js';
import type { LoadSource } from '../agent/session/load.js';
import type { Dialer, Line } from '../agent/session/dialer.js';
import type { AttemptEnd, Executor } from '../agent/core/types.js';
import { systemClock } from '../common/clock.js';
import type { Roots } from '../common/identity/roots.js';
import type { Logger } from '../common/log.js';
import { randomCharacters } from '../common/ids.js';
import type { Credential } from '../link/credentials.js';
import type { Renewal } from '../link/renewal.js';
import { parseEndpoint } from '../link/endpoints.js';
import type { SessionRequest, SessionResponse } from '../proto/gen/mesh/v1/agent.js';
import type { Capabilities } from '../proto/gen/mesh/v1/common.js';
import { built } from './built.js';

export interface CrowdSetup {
  directory: string;
  /** `host:port` */
  coordinator: string;
  names: string[];
  slots: number;
  logFile: string;
}

export type CrowdOrder =
  | { id: number; kind: 'set-up'; setup: CrowdSetup }
  /** Those without a certificate join, so many at a time. Answered when all have. */
  | { id: number; kind: 'enrol'; token: string; atATime: number }
  /** So many agents run in all, the first of the names. Answered when all are registered. */
  | { id: number; kind: 'run'; count: number }
  /** Answered when every running agent has registered once more than it had when this came. */
  | { id: number; kind: 'registered-again' }
  /** How long heartbeats waited for their answer since this was last asked. */
  | { id: number; kind: 'latencies' }
  | { id: number; kind: 'stop' };

export interface CrowdAnswer {
  id: number;
  error?: string;
  latenciesMs?: number[];
}

interface Member {
  name: string;
  credential: Credential | undefined;
  registrations: number;
  parts: AgentParts | undefined;
  renewal: Renewal | undefined;
}

const LATENCIES_MAX = 200_000;

const SUCCEEDED: AttemptEnd = {
  ...{ outcome: 'succeeded', exitCode: undefined, signal: undefined, error: undefined },
  ...{ runUs: 1, peakMemoryBytes: undefined, resultJson: 'null' },
};

const noop: Executor = {
  name: 'function',
  launchMax: () => 256,
  start: ({ attempts }, observer) => ({
    stop: () => undefined,
    done: new Promise((resolve) =>
      setImmediate(() => {
        for (let position = 0; position < attempts.length; position++) observer.ended(position, SUCCEEDED);
        resolve();
      }),
    ),
  }),
};

class Crowd {
  readonly #members: Member[];
  readonly #waiting = new Set<{ wanted: Map<Member, number>; resolve: () => void }>();
  #latenciesMs: number[] = [];
  #roots: Roots | undefined;
  /** Of the one machine they are all on: it is looked at once a second, not by each. */
  readonly #load: LoadSource;

  constructor(
    private readonly setup: CrowdSetup,
    private readonly modules: Awaited<ReturnType<typeof loadModules>>,
    private readonly capabilities: Capabilities,
    private readonly log: Logger,
  ) {
    const meter = new modules.LoadMeter();
    let [share, free, readMs] = [0, meter.memoryFreeBytes(), Number.NEGATIVE_INFINITY];
    this.#load = {
      measure: () => {
        if (systemClock.monotonicMs() - readMs < 1000) return share;
        [share, free, readMs] = [meter.measure(), meter.memoryFreeBytes(), systemClock.monotonicMs()];
        return share;
      },
      memoryFreeBytes: () => free,
    };
    this.#members = setup.names.map((name) => ({
      ...{ name, credential: this.#store(name).load(), registrations: 0, parts: undefined, renewal: undefined },
    }));
  }

  async enrol(token: string, atATime: number): Promise<void> {
    const { join: joinMesh } = this.modules;
    const strangers = this.#members.filter(({ credential }) => credential === undefined);
    const enrolOne = async (member: Member): Promise<void> => {
      const { name } = member;
      const joined = await joinMesh({
        ...{ token, name, addresses: [parseEndpoint(this.setup.coordinator)], discover: false },
        ...{ clock: systemClock, log: this.log, roles: ['agent'], privateKey: this.#store(name).keyForJoining() },
      });
      member.credential = joined.credential;
      this.#store(name).save(joined.credential);
    };
    const take = async (): Promise<void> => {
      for (let next = strangers.shift(); next; next = strangers.shift()) await enrolOne(next);
    };
    await Promise.all(Array.from({ length: atATime }, take));
  }

  async run(count: number): Promise<void> {
    const members = this.#members.slice(0, count);
    const fresh = members.filter(({ parts }) => parts === undefined);
    const registered = this.#registered(fresh);
    for (const member of fresh) await this.#start(member);
    await registered;
  }

  registeredAgain(): Promise<void> {
    return this.#registered(this.#members.filter(({ parts }) => parts !== undefined));
  }

  takeLatencies(): number[] {
    const taken = this.#latenciesMs;
    this.#latenciesMs = [];
    return taken;
  }

  async stop(): Promise<void> {
    await Promise.all(
      this.#members.map(async ({ parts, renewal }) => {
        await renewal?.stop();
        for (const service of [...(parts?.services ?? [])].reverse()) await service.stop();
      }),
    );
  }

  #store(name: string) {
    return new this.modules.CredentialStore(join(this.setup.directory, name), 'agent');
  }

  #registered(members: readonly Member[]): Promise<void> {
    const wanted = new Map(members.map((member) => [member, member.registrations + 1]));
    if (wanted.size === 0) return Promise.resolve();
    return new Promise((resolve) => this.#waiting.add({ wanted, resolve }));
  }

  #onRegistered(member: Member): void {
    member.registrations++;
    for (const entry of this.#waiting) {
      if (member.registrations >= (entry.wanted.get(member) ?? Infinity)) entry.wanted.delete(member);
      if (entry.wanted.size > 0) continue;
      this.#waiting.delete(entry);
      entry.resolve();
    }
  }

  async #start(member: Member): Promise<void> {
    const { assembleAgent, readRoots, NetworkDialer } = this.modules;
    const { FileJournal, prepareOutbox, Renewal, renewOver } = this.modules;
    const { directory, coordinator, slots } = this.setup;
    if (!member.credential) throw new Error(`${member.name} has no certificate`);
    let credential = member.credential;
    const [clock, log] = [systemClock, this.log];
    const { meshId } = (this.#roots ??= readRoots(credential.root));
    const dialer = new NetworkDialer({
      ...{ meshId, credential: () => credential, discover: false, clock, log },
      recover: () => Promise.reject(new Error('the certificate has expired')),
    });
    const spoolDir = prepareOutbox(join(directory, member.name, 'outbox'));
    const { capabilities } = this;
    const room = { slots, cpuMillis: slots * 1000, memoryBytes: capabilities.memoryBytes, gpus: 0, custom: {} };
    const parts = assembleAgent(
      {
        ...{ clock, bootMs: () => clock.monotonicMs(), random: Math.random, log, load: this.#load },
        executors: new Map([[noop.name, noop]]),
        dialer: this.#timed(dialer),
        journal: new FileJournal({ directory: spoolDir, fsync: false, clock, log }),
      },
      {
        ...{ bootId: randomCharacters(16), capabilities, room, spoolDir, keepForMs: 3_600_000 },
        ...{ coordinator: parseEndpoint(coordinator), remembered: [], remember: () => undefined },
        onRegistered: () => this.#onRegistered(member),
        onRenewalWanted: (generation) => member.renewal?.wanted(generation),
        onFatal: (error) => answer({ id: 0, error: `${member.name}: ${error.message}` }),
      },
    );
    member.parts = parts;
    member.renewal = new Renewal({
      ...{ clock, log, credential, spreadMs: 60_000, issue: renewOver(() => parts.connection.authority(), clock) },
      onRenewed: (renewed) => {
        credential = renewed;
        parts.connection.renewed();
      },
    });
    for (const service of parts.services) await service.start();
    await member.renewal.start();
  }

  /** The same dialler; on the way past, heartbeats and their answers are timed. */
  #timed(dialer: Dialer): Dialer {
    const timedLine = (line: Line): Line => {
      const agents: Line['agents'] = {
        streamLogs: line.agents.streamLogs.bind(line.agents),
        fetchBlob: line.agents.fetchBlob.bind(line.agents),
        session: ((...rest: Parameters<Line['agents']['session']>) => {
          const stream = line.agents.session(...rest);
          const sentMs = new Map<number, number>();
          const write = stream.write.bind(stream) as (message: SessionRequest) => boolean;
          stream.write = ((message: SessionRequest) => {
            const { body } = message;
            if (body?.$case === 'heartbeat') sentMs.set(body.value.sequence, systemClock.monotonicMs());
            return write(message);
          }) as typeof stream.write;
          stream.on('data', ({ body }: SessionResponse) => {
            if (body?.$case !== 'heartbeatReply') return;
            const atMs = sentMs.get(body.value.sequence);
            sentMs.delete(body.value.sequence);
            if (atMs !== undefined && this.#latenciesMs.length < LATENCIES_MAX)
              this.#latenciesMs.push(systemClock.monotonicMs() - atMs);
          });
          return stream;
        }) as Line['agents']['session'],
      };
      return {
        ...{ endpoint: line.endpoint, agents },
        ...{ bulk: () => line.bulk(), authority: () => line.authority(), close: () => line.close() },
      };
    };
    return { dial: (known, open, signal) => dialer.dial(known, (line) => open(timedLine(line)), signal) };
  }
}

async function loadModules() {
  return {
    ...(await built<typeof import('../agent/session/assemble.js')>('agent/session/assemble.js')),
    ...(await built<typeof import('../agent/session/network-dialer.js')>('agent/session/network-dialer.js')),
    ...(await built<typeof import('../agent/session/load.js')>('agent/session/load.js')),
    ...(await built<typeof import('../agent/output/file-journal.js')>('agent/output/file-journal.js')),
    ...(await built<typeof import('../agent/capabilities.js')>('agent/capabilities.js')),
    ...(await built<typeof import('../link/join.js')>('link/join.js')),
    ...(await built<typeof import('../link/renewal.js')>('link/renewal.js')),
    ...(await built<typeof import('../link/credential-store.js')>('link/credential-store.js')),
    ...(await built<typeof import('../common/identity/roots.js')>('common/identity/roots.js')),
    ...(await built<typeof import('../common/log.js')>('common/log.js')),
  };
}

let crowd: Crowd | undefined;
// Nobody reads the stacks of thousands of failed dials, and the loader that compiles this would translate each of them.
Error.stackTraceLimit = 0;

async function obey(order: CrowdOrder): Promise<Partial<CrowdAnswer>> {
  if (order.kind === 'set-up') {
    const { setup } = order;
    mkdirSync(setup.directory, { recursive: true });
    const modules = await loadModules();
    const { default: pino } = await import('pino');
    const log = modules.createLogger({
      component: 'crowd',
      level: 'warn',
      destination: pino.destination(setup.logFile),
    });
    const machine = { labels: {}, sandboxes: ['process'], limits: [], secretFiles: false };
    const capabilities = await modules.detectCapabilities({ ...machine, slots: setup.slots });
    crowd = new Crowd(setup, modules, capabilities, log);
    return {};
  }
  if (!crowd) throw new Error('nobody has been set up');
  switch (order.kind) {
    case 'enrol':
      await crowd.enrol(order.token, order.atATime);
      return {};
    case 'run':
      await crowd.run(order.count);
      return {};
    case 'registered-again':
      await crowd.registeredAgain();
      return {};
    case 'latencies':
      return { latenciesMs: crowd.takeLatencies() };
    case 'stop':
      await crowd.stop();
      return {};
  }
}

const answer = (message: CrowdAnswer): void => void process.send?.(message);

process.on('message', (order: CrowdOrder) => {
  obey(order).then(
    (rest) => answer({ ...rest, id: order.id }),
    (error: unknown) => answer({ id: order.id, error: error instanceof Error ? (error.stack ?? '') : String(error) }),
  );
});
// The bench is gone: nobody is left to stop this.
process.on('disconnect', () => process.exit());
