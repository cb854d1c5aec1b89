/**
 * How an agent comes (back) in. Its hello lists what it holds; the ledger knows what it should hold. Still-wanted
 * attempts stay, given-away ones that nobody else has started are adopted (nothing re-runs), superseded ones are killed,
 * committed ones the agent never heard of are sent again under the same generation, and what a restarted agent no
 * longer holds is lost. The agent sends nothing else before it has the answer.
 */
import type { Clock } from '../../common/clock.js';
import { MeshError } from '../../common/errors.js';
import { makeId } from '../../common/ids.js';
import type { Identity } from '../../common/identity/identity.js';
import type { Logger } from '../../common/log.js';
import { PROTOCOL } from '../../common/package.js';
import type { AgentHello } from '../../proto/gen/mesh/v1/agent.js';
import type { Ledger, LiveAttempt } from '../core/ledger.js';
import type { TaskRef } from '../core/task.js';
import type { Store } from '../ports.js';
import type { Fleet, LiveNode } from './fleet.js';
import type { Jobs } from './jobs.js';
import type { Results } from './results.js';
import { AgentSession, fromRefs, type Send, toRefs } from './session.js';

export interface AdmissionOptions {
  store: Store;
  jobs: Jobs;
  fleet: Fleet;
  ledger: Ledger;
  results: Results;
  clock: Clock;
  log: Logger;
  epoch: () => number;
  heartbeatMs: number;
  leaseMs: number;
  coordinators: () => string[];
  onCapacity: () => void;
}

export class Admission {
  readonly #options: AdmissionOptions;
  /** By name: of two hellos of one agent the later must find the session of the earlier. */
  readonly #admitting = new Map<string, Promise<unknown>>();

  constructor(options: AdmissionOptions) {
    this.#options = options;
  }

  /** @throws MeshError PROTOCOL, REVOKED, NOT_READY, or IN_USE when the certificate is alive under another boot id */
  async admit(identity: Identity, hello: AgentHello, send: Send, end: () => void): Promise<AgentSession> {
    const before = this.#admitting.get(identity.name);
    const admission = Promise.resolve(before)
      .catch(() => undefined)
      .then(() => this.#admit(identity, hello, send, end));
    this.#admitting.set(identity.name, admission);
    try {
      return await admission;
    } finally {
      if (this.#admitting.get(identity.name) === admission) this.#admitting.delete(identity.name);
    }
  }

  async #admit(identity: Identity, hello: AgentHello, send: Send, end: () => void): Promise<AgentSession> {
    const { fleet, store, ledger, clock, log, epoch } = this.#options;
    if (epoch() === 0) throw new MeshError('NOT_READY', 'this coordinator does not lead yet');
    const protocol = this.#agree(hello);
    this.#refuseClone(identity, hello);
    const bootBefore = fleet.byName(identity.name)?.row.bootId;
    const node = fleet.put(await store.nodes.upsert(this.#toRow(identity, hello)));
    if (node.row.revoked) throw new MeshError('REVOKED', `the node ${node.row.name} is revoked`);
    node.session?.close('replaced by a newer session of the same agent', false);

    const restarted = bootBefore !== undefined && bootBefore !== hello.bootId;
    const session = new AgentSession(node.row.seq, hello.bootId, send, end);
    const adopted = await this.#adopt(node, hello);
    // From here to the welcome nothing may wait: what is assigned meanwhile would be told to neither session.
    const held = this.#compare(node, hello, restarted);
    node.session = session;
    node.stopping = false;
    node.leaving = false;
    fleet.alive(node);
    session.send({
      $case: 'welcome',
      value: {
        protocol,
        epoch: epoch(),
        nodeId: node.row.id,
        name: node.row.name,
        leaseMs: this.#options.leaseMs,
        heartbeatMs: this.#options.heartbeatMs,
        superseded: toRefs(held.superseded),
        coordinators: this.#options.coordinators(),
        draining: node.row.draining,
        readopted: undefined,
      },
    });
    await this.#resend(session, held.unheard);
    log.info({
      event: 'node.connected',
      node: node.row.name,
      boot: hello.bootId,
      version: hello.version,
      held: ledger.ofNode(node.row.seq).length,
      adopted,
      superseded: held.superseded.length,
      resent: held.unheard.length,
      atMs: Math.round(clock.monotonicMs()),
    });
    this.#options.onCapacity();
    return session;
  }

  /** The highest version both speak. */
  #agree(hello: AgentHello): number {
    const { min, max } = hello.protocol ?? { min: 0, max: 0 };
    const version = Math.min(max, PROTOCOL.max);
    if (version < Math.max(min, PROTOCOL.min))
      throw new MeshError(
        'PROTOCOL',
        `the agent speaks protocol ${min} to ${max}, this coordinator ${PROTOCOL.min} to ${PROTOCOL.max}`,
      );
    return version;
  }

  /** One certificate alive under two boot ids is a copied data directory; the one that was here first stays. */
  #refuseClone(identity: Identity, hello: AgentHello): void {
    const { fleet, clock, heartbeatMs, log } = this.#options;
    const node = fleet.byName(identity.name);
    if (!node?.session?.open || node.session.bootId === hello.bootId) return;
    const silentMs = clock.monotonicMs() - (node.liveness.lastHeartbeatMs ?? Number.NEGATIVE_INFINITY);
    if (silentMs > heartbeatMs * 1.5) return;
    log.error({ event: 'node.cloned', node: identity.name, boot: hello.bootId, alive: node.session.bootId });
    throw new MeshError('IN_USE', `another agent is connected with the certificate of ${identity.name}`, {
      hint: 'is this a copy of its data directory? give this machine a token of its own',
    });
  }

  #toRow(identity: Identity, hello: AgentHello): Parameters<Store['nodes']['upsert']>[0] {
    const capabilities = hello.capabilities;
    if (!capabilities) throw new MeshError('PROTOCOL', 'the hello has no capabilities');
    return {
      id: this.#options.fleet.byName(identity.name)?.row.id ?? makeId(this.#options.clock.wallMs()),
      name: identity.name,
      capabilities,
      version: hello.version,
      bootId: hello.bootId,
      certificateSerial: identity.serial,
      certificateFingerprint: identity.fingerprint,
      certificateExpiresAtMs: identity.notAfterMs,
    };
  }

  /** What it runs or has finished and was given up meanwhile is its again, unless somebody else has started it. */
  async #adopt(node: LiveNode, hello: AgentHello): Promise<number> {
    const { ledger, store, jobs, epoch, clock } = this.#options;
    const orphans = [...fromRefs(hello.running), ...fromRefs(hello.unacknowledged)]
      .filter((ref) => !ledger.get(ref, node.row.seq))
      .map((ref) => ({ ...ref, node: node.row.seq }));
    if (orphans.length === 0) return 0;
    const adopted = await store.tasks.adopt(epoch(), orphans);
    jobs.apply(adopted.jobs);
    for (const task of adopted.changed) {
      const job = jobs.get(task.job);
      if (!job) continue;
      ledger.add(task, job.kind, job.row.submitter, clock.monotonicMs());
      ledger.markRunning(task, task.node, clock.monotonicMs());
    }
    return adopted.changed.length;
  }

  /** The hello against the ledger. */
  #compare(node: LiveNode, hello: AgentHello, restarted: boolean): { superseded: TaskRef[]; unheard: LiveAttempt[] } {
    const { ledger, results } = this.#options;
    const key = (ref: TaskRef) => `${ref.job}.${ref.index}.${ref.generation}`;
    const reported = [...fromRefs(hello.prefilled), ...fromRefs(hello.running), ...fromRefs(hello.unacknowledged)];
    const keys = new Set(reported.map(key));
    const held = ledger.ofNode(node.row.seq);
    // A question that the former session did not answer is open no more.
    for (const attempt of held) ledger.keep(attempt, node.row.seq);
    const missing = held.filter((attempt) => !keys.has(key(attempt)));
    const gone = restarted || missing.some((attempt) => attempt.startedAtMs !== undefined);
    if (gone) results.lost(missing, 'node-lost', `${node.row.name} restarted without it`);
    return {
      superseded: reported.filter((ref) => !ledger.get(ref, node.row.seq)),
      unheard: gone ? [] : missing,
    };
  }

  /** Committed, but the message was lost: the same assignment again, same generation; the agent drops repeats. */
  async #resend(session: AgentSession, attempts: LiveAttempt[]): Promise<void> {
    const { store, jobs, epoch } = this.#options;
    if (attempts.length === 0) return;
    const inputs = await store.tasks.inputs(attempts);
    session.assign(
      epoch(),
      attempts.map(({ job, index, generation, node, failures, losses }, position) => ({
        ...{ job, index, generation, node, failures, losses },
        input: inputs[position],
      })),
      (job) => jobs.get(job)?.body,
    );
  }
}
