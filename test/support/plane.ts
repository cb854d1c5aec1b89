/** A whole control plane over a real store, on a clock that stands still, with agents that a test plays itself. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Test } from 'tap';
import { CRL_LIFETIME_MS } from '../../ca/crl.js';
import type { Identity, Role } from '../../common/identity/identity.js';
import { publicKeyDigest } from '../../common/identity/keys.js';
import { readCsr } from '../../common/identity/csr.js';
import { silentLogger } from '../../common/log.js';
import { ControlPlane } from '../../coordinator/control-plane.js';
import type { CoordinatorConfig } from '../../coordinator/coordinator.js';
import type { JobRow, Store } from '../../coordinator/ports.js';
import type { Actor } from '../../coordinator/services/audit.js';
import type { Signer } from '../../coordinator/services/issuance.js';
import type { KeyHolder } from '../../coordinator/services/secrets.js';
import type { AgentSession } from '../../coordinator/services/session.js';
import { coordinatorSettings } from '../../coordinator/services/settings.js';
import { AgentHello, Finished, Outcome, type SessionResponse, type TaskRefs } from '../../proto/gen/mesh/v1/agent.js';
import { Capabilities, type TaskInput } from '../../proto/gen/mesh/v1/common.js';
import { JobSpec } from '../../proto/gen/mesh/v1/mesh.js';
import { ManualClock } from './manual-clock.js';
import { withStore } from './postgres.js';
import { unique } from './store-fixtures.js';
import { makeTestMesh, type TestMesh } from './test-mesh.js';

type Body = NonNullable<SessionResponse['body']>;
type ValueOf<K extends Body['$case']> = Extract<Body, { $case: K }>['value'];

export interface TestPlane {
  plane: ControlPlane;
  store: Store;
  clock: ManualClock;
  mesh: TestMesh;
  directory: string;
}

export const testConfig = (over: Partial<CoordinatorConfig> = {}): CoordinatorConfig => {
  const defaults = Object.entries(coordinatorSettings).map(([key, entry]) => [key, entry.fallback] as const);
  return { ...(Object.fromEntries(defaults) as Omit<CoordinatorConfig, 'dataDir'>), dataDir: '', ...over };
};

export function temporaryDirectory(t: Test): string {
  const directory = mkdtempSync(join(tmpdir(), 'mesh-test-'));
  t.teardown(() => rmSync(directory, { recursive: true, force: true }));
  return directory;
}

/** The CA of a test mesh as the services see it. */
export const signerOf = (mesh: TestMesh): Signer => ({
  ...{ rootPem: mesh.authority.rootPem, rootDigest: mesh.rootDigest, rootDigests: [mesh.rootDigest] },
  hasRootKey: false,
  signIssuer: () => {
    throw new Error('the root key of a test mesh is thrown away');
  },
  crlLifetimeMs: CRL_LIFETIME_MS,
  signCrl: async (rows, nowMs) => {
    const revoked = rows.map(({ serial, revokedAtMs }) => ({ serial, revokedAtMs: revokedAtMs ?? nowMs }));
    const times = { thisUpdateMs: nowMs, nextUpdateMs: nowMs + CRL_LIFETIME_MS };
    return { der: mesh.authority.signCrl({ ...times, number: nowMs, revoked }), thisUpdateMs: nowMs };
  },
  publicKeyDigest: (csr) => publicKeyDigest(readCsr(csr).publicKeyDer),
  sign: ({ csr, role, name, lifetimeMs, nowMs }) => {
    const { pem, ...issued } = mesh.authority.issue({
      csrDer: csr,
      ...{ role, name, nowMs },
      ...(lifetimeMs === undefined ? {} : { lifetimeMs }),
    });
    return { ...issued, chainPem: pem };
  },
});

/** Started, and stopped when the test ends. Turns of its loops come only by what happens or by `clock.advance`. */
export async function startPlane(
  t: Test,
  options: {
    store?: Store;
    config?: Partial<CoordinatorConfig>;
    holder?: string;
    clock?: ManualClock;
    keyHolder?: KeyHolder;
  } = {},
): Promise<TestPlane> {
  const store = options.store ?? (await withStore(t));
  const clock = options.clock ?? new ManualClock();
  const mesh = makeTestMesh('test-mesh', clock.wallMs());
  const directory = temporaryDirectory(t);
  const plane = new ControlPlane({
    // The store answers in real time: while a test lets hours pass in a moment, no renewal of the lease could be in time.
    config: testConfig({ dataDir: directory, minFreeBytes: 0, leaderLease: 86_400_000, ...options.config }),
    ...{ store, clock, signer: signerOf(mesh) },
    holder: options.holder ?? 'one',
    coordinators: () => ['127.0.0.1:7443'],
    auditHeadFile: join(directory, 'audit.head'),
    onRevoked: () => undefined,
    log: silentLogger,
    random: () => 0,
    ...(options.keyHolder ? { keyHolder: options.keyHolder } : {}),
  });
  await plane.start();
  t.teardown(() => plane.stop());
  return { plane, store, clock, mesh, directory };
}

export const identityOf = (role: Role, name: string, over: Partial<Identity> = {}): Identity => ({
  meshId: 'test-mesh',
  ...{ role, name, serial: `4d${name}`, fingerprint: 'f'.repeat(64) },
  notBeforeMs: 0,
  notAfterMs: Date.now() + 400 * 86_400_000,
  ...over,
});

/** The operator who does what a test needs done. */
export const OPERATOR: Actor = { name: 'operator/admin', address: '10.0.0.2', certificate: '4dadmin' };

/** Everything a session says, kept in order; a test waits for the next message of a kind. */
export class Mailbox {
  readonly heard: Body[] = [];
  ended = false;
  #read = 0;
  #wake: () => void = () => undefined;

  readonly send = (body: Body): void => {
    this.heard.push(body);
    this.#wake();
  };

  readonly end = (): void => {
    this.ended = true;
    this.#wake();
  };

  all<K extends Body['$case']>(kind: K): ValueOf<K>[] {
    return this.heard.flatMap((body) => (body.$case === kind ? [body.value as ValueOf<K>] : []));
  }

  /** The next message of this kind after the last one that was waited for; others in between are passed by. */
  async next<K extends Body['$case']>(kind: K): Promise<ValueOf<K>> {
    for (;;) {
      while (this.#read < this.heard.length) {
        const body = this.heard[this.#read++];
        if (body?.$case === kind) return body.value as ValueOf<K>;
      }
      await new Promise<void>((resolve) => (this.#wake = resolve));
    }
  }
}

export interface HeldTask {
  job: number;
  index: number;
  generation: number;
}

export const columns = (refs: readonly HeldTask[]): TaskRefs => ({
  jobs: refs.map((ref) => ref.job),
  indexes: refs.map((ref) => ref.index),
  generations: refs.map((ref) => ref.generation),
});

/** An agent played by the test: what it is told it only notes; what it says the test says. */
export class PlayedAgent {
  bootId = unique('boot');
  /** The latest version it speaks. */
  protocol = 1;
  secretFiles = false;
  sandboxes: string[] = [];
  mailbox = new Mailbox();
  session!: AgentSession;
  readonly identity: Identity;

  constructor(
    private readonly plane: ControlPlane,
    readonly name: string,
    private readonly slots = 2,
    over: Partial<Identity> = {},
  ) {
    this.identity = identityOf('agent', name, over);
  }

  get node(): number {
    return this.session.node;
  }

  /** Says hello on a new stream. */
  async connect(
    over: {
      prefilled?: HeldTask[];
      running?: HeldTask[];
      unacknowledged?: HeldTask[];
      epoch?: number;
      runningAgeMs?: number[];
    } = {},
  ): Promise<ValueOf<'welcome'>> {
    const mailbox = new Mailbox();
    const hello = AgentHello.fromPartial({
      protocol: { min: 1, max: this.protocol },
      bootId: this.bootId,
      version: '0.1.0',
      capabilities: Capabilities.fromPartial({
        ...{ cpus: this.slots, memoryBytes: 2 ** 33, slots: this.slots, os: 'linux', arch: 'x64' },
        executors: ['process', 'function'],
        ...{ secretFiles: this.secretFiles, sandboxes: this.sandboxes },
      }),
      prefilled: columns(over.prefilled ?? []),
      running: columns(over.running ?? []),
      unacknowledged: columns(over.unacknowledged ?? []),
      epoch: over.epoch ?? 0,
      runningAgeMs: over.runningAgeMs ?? [],
    });
    this.session = await this.plane.admission.admit(this.identity, hello, mailbox.send, mailbox.end);
    this.mailbox = mailbox;
    return mailbox.next('welcome');
  }

  /** The stream broke. */
  cut(): void {
    this.session.closed();
  }

  beat(over: { running?: number; stopping?: boolean; load?: number; echoUs?: number; echoHeldUs?: number } = {}) {
    const node = this.plane.fleet.get(this.node);
    if (!node) throw new Error('this agent was admitted');
    const rest = { load: 0, running: 1, queued: 0, memoryFreeBytes: 0, echoUs: 0, echoHeldUs: 0, stopping: false };
    const reply = this.plane.vitals.heartbeat(node, { sequence: 1, ...rest, ...over });
    if (!reply) throw new Error('the coordinator is not sure to lead');
    return reply;
  }

  /** The tasks of the next assignment. */
  async assigned(): Promise<HeldTask[]> {
    return tasksOf(await this.mailbox.next('assign'));
  }

  /** `count` tasks, over as many assignments as it takes. */
  async assignedAll(count: number): Promise<HeldTask[]> {
    const tasks: HeldTask[] = [];
    while (tasks.length < count) tasks.push(...(await this.assigned()));
    return tasks;
  }

  report(tasks: readonly HeldTask[], over: Partial<Finished> = {}): void {
    const items = tasks.map((task) => finishedOf(task, over));
    this.plane.results.report(this.session, { items, runs: [] });
  }

  /** Reports and waits for the acknowledgement. */
  async finish(tasks: readonly HeldTask[], over: Partial<Finished> = {}): Promise<TaskRefs> {
    this.report(tasks, over);
    return this.mailbox.next('finishedAck');
  }
}

export const finishedOf = (task: HeldTask, over: Partial<Finished> = {}): Finished =>
  Finished.fromPartial({ outcome: Outcome.SUCCEEDED, exitCode: 0, runUs: 1000, ...task, ...over });

export const tasksOf = ({ groups }: ValueOf<'assign'>): HeldTask[] =>
  groups.flatMap(({ job, indexes, generations }) =>
    indexes.map((index, position) => ({ job, index, generation: generations[position] as number })),
  );

async function* batches(items: TaskInput[][]): AsyncGenerator<TaskInput[]> {
  yield* items;
}

export function submission(taskCount: number, spec: Partial<JobSpec> = {}, items: TaskInput[][] = []) {
  return {
    actor: OPERATOR,
    submitter: 'anna',
    idempotencyKey: unique('key'),
    spec: JobSpec.fromPartial({
      name: 'work',
      work: { $case: 'process', value: { argv: ['true'], environment: {} } },
      array: items.length > 0 || taskCount === 1 ? undefined : { start: 0, step: 1 },
      taskCount,
      retries: 2,
      ...spec,
    }),
    hasItems: items.length > 0,
    items: batches(items),
  };
}

export const submit = (plane: ControlPlane, taskCount: number, spec: Partial<JobSpec> = {}): Promise<JobRow> =>
  plane.intake.submit(submission(taskCount, spec));

/** Resolves when the job is in a state the test waits for; looks again after each of its changes. */
export async function jobUntil(
  { plane, store }: Pick<TestPlane, 'plane' | 'store'>,
  id: string,
  predicate: (row: JobRow) => boolean,
): Promise<JobRow> {
  for (;;) {
    const first = await store.jobs.get(id);
    if (!first) throw new Error(`there is no job ${id}`);
    let changed = false;
    let wake: () => void = () => undefined;
    const stop = plane.changes.jobs.subscribe(first.seq, () => {
      changed = true;
      wake();
    });
    try {
      const row = await store.jobs.get(id);
      if (row && predicate(row)) return row;
      if (!changed) await new Promise<void>((resolve) => (wake = resolve));
    } finally {
      stop();
    }
  }
}

/** Lets time pass as it does: in small steps, with what falls due in each done before the next. */
export async function elapse(clock: ManualClock, ms: number, each: () => void = () => undefined): Promise<void> {
  const STEP_MS = 250;
  for (let done = 0; done < ms; done += STEP_MS) {
    clock.advance(Math.min(STEP_MS, ms - done));
    each();
    await new Promise<void>((resolve) => setImmediate(resolve));
  }
}
