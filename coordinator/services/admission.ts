/**
 * How an agent comes (back) in. Its hello lists what it holds; the ledger knows what it should hold. Still-wanted
 * attempts stay, given-away ones come back where that saves work (adoption.ts), superseded ones are killed, committed
 * ones the agent never heard of are sent again under the same generation, and what it no longer holds is lost. The agent
 * sends nothing else before it has the answer.
 */
import type { Clock } from '../../common/clock.js';
import { MeshError } from '../../common/errors.js';
import { makeId } from '../../common/ids.js';
import type { Identity } from '../../common/identity/identity.js';
import { renewedByMs } from '../../common/identity/profile.js';
import type { Logger } from '../../common/log.js';
import { PROTOCOL } from '../../common/package.js';
import type { AgentHello, Renumbered } from '../../proto/gen/mesh/v1/agent.js';
import type { Ledger, LiveAttempt } from '../core/ledger.js';
import { attemptKey, type TaskRef } from '../core/task.js';
import type { Store } from '../ports.js';
import { Adoption, type Renumberings } from './adoption.js';
import type { Fleet, LiveNode } from './fleet.js';
import { problemOf, valuesFor, valuesOf } from './handover.js';
import type { Jobs } from './jobs.js';
import type { Results } from './results.js';
import type { Secrets } from './secrets.js';
import { AgentSession, fromRefs, type Send, toRefs } from './session.js';

export interface AdmissionOptions {
  store: Store;
  jobs: Jobs;
  fleet: Fleet;
  ledger: Ledger;
  results: Results;
  secrets: Secrets;
  clock: Clock;
  log: Logger;
  epoch: () => number;
  heartbeatMs: number;
  leaseMs: number;
  holdsLead: () => boolean;
  coordinators: () => string[];
  onCapacity: () => void;
}

export class Admission {
  readonly #options: AdmissionOptions;
  readonly #adoption: Adoption;
  /** By name: of two hellos of one agent the later must find the session of the earlier. */
  readonly #admitting = new Map<string, Promise<unknown>>();

  constructor(options: AdmissionOptions) {
    this.#options = options;
    this.#adoption = new Adoption(options);
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
    if (hello.epoch > epoch())
      throw new MeshError(
        'LEADERSHIP_LOST',
        `${identity.name} obeys the leader of epoch ${hello.epoch}; this coordinator's is ${epoch()}`,
      );
    const protocol = this.#agree(hello);
    this.#refuseClone(identity, hello);
    const bootBefore = fleet.byName(identity.name)?.row.bootId;
    const node = fleet.put(await store.nodes.upsert(this.#toRow(identity, hello)));
    node.renewedByMs = renewedByMs(identity);
    if (node.row.revoked) throw new MeshError('REVOKED', `the node ${node.row.name} is revoked`);
    node.session?.close('replaced by a newer session of the same agent', false);

    const restarted = bootBefore !== undefined && bootBefore !== hello.bootId;
    const session = new AgentSession(node.row.seq, hello.bootId, protocol, send, end);
    const { adopted, renumbered } = await this.#reclaim(node.row.seq, protocol, hello);
    // A welcome grants a lease, as the answer to a heartbeat does.
    if (!this.#options.holdsLead())
      throw new MeshError('NOT_READY', 'this coordinator cannot be sure that it still leads', { hint: 'try again' });
    // From here to the welcome nothing may wait: what is assigned meanwhile would be told to neither session.
    const held = this.#compare(node, hello, { restarted, renumbered });
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
        coordinators: session.news(this.#options.coordinators()),
        draining: node.row.draining,
        readopted: renumbered.length > 0 ? toRenumbered(renumbered) : undefined,
      },
    });
    if (held.dying.length > 0) session.send({ $case: 'cancel', value: toRefs(held.dying) });
    await this.#resend(session, held.unheard);
    const { holding, waiting } = ledger.countOn(node.row.seq);
    log.info({
      event: 'node.connected',
      node: node.row.name,
      boot: hello.bootId,
      version: hello.version,
      held: holding + waiting,
      adopted,
      readopted: renumbered.length,
      superseded: held.superseded.length,
      resent: held.unheard.length,
      atMs: Math.round(clock.monotonicMs()),
    });
    this.#options.onCapacity();
    return session;
  }

  /** Nothing of the node may be on its way to others when its hello is compared with the ledger. */
  async #reclaim(node: number, protocol: number, hello: AgentHello): ReturnType<Adoption['take']> {
    const { results } = this.#options;
    for (;;) {
      await results.gaveAway(node);
      const taken = await this.#adoption.take(node, protocol, hello);
      if (!results.isGivingAway(node)) return taken;
    }
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

  /**
   * The hello against the ledger. What the same process lists no more has ended there without a result, if it had been
   * started, and was never heard of otherwise. What a former process held is lost: the new one has killed it.
   */
  #compare(
    node: LiveNode,
    hello: AgentHello,
    { restarted, renumbered }: { restarted: boolean; renumbered: Renumberings },
  ): { superseded: TaskRef[]; dying: TaskRef[]; unheard: LiveAttempt[] } {
    const { ledger, results, clock } = this.#options;
    const { seq, name } = node.row;
    const reported = [...fromRefs(hello.prefilled), ...fromRefs(hello.running), ...fromRefs(hello.unacknowledged)];
    const keys = new Set(reported.map(attemptKey));
    for (const { former, generation } of renumbered) {
      keys.delete(attemptKey(former));
      keys.add(attemptKey({ ...former, generation }));
    }
    // It was told to kill these. One that runs still is told again, and holds its room until its end is heard; what a
    // former process ran died with it.
    const running = new Set(restarted ? [] : fromRefs(hello.running).map(attemptKey));
    const dying = ledger.condemnedOn(seq).filter((ref) => running.has(attemptKey(ref)));
    for (const ref of ledger.condemnedOn(seq)) if (!dying.includes(ref)) ledger.release(ref, seq);
    for (const ref of dying) keys.delete(attemptKey(ref));
    const superseded = reported.filter((ref) => keys.has(attemptKey(ref)) && !ledger.get(ref, seq));
    const held = ledger.ofNode(seq);
    // A question that the former session did not answer is open no more.
    for (const attempt of held) ledger.keep(attempt, seq);
    const nowMs = clock.monotonicMs();
    fromRefs(hello.running).forEach((ref, position) => {
      const ageMs = hello.runningAgeMs[position];
      if (ageMs !== undefined) ledger.markRunning(ref, seq, nowMs - ageMs);
    });
    const missing = held.filter((attempt) => !keys.has(attemptKey(attempt)));
    const gone = missing.filter((attempt) => restarted || attempt.startedAtMs !== undefined);
    const why = restarted ? `${name} restarted without it` : `${name} came back without it`;
    // A copied data directory is another machine: until the lease of the first one ends, nothing there is known dead.
    const fencedInMs = restarted ? node.liveness.leaseLeftMs(nowMs) : 0;
    if (gone.length > 0) results.lost(gone, 'node-lost', why, fencedInMs);
    return {
      superseded,
      dying,
      unheard: restarted ? [] : missing.filter((attempt) => attempt.startedAtMs === undefined),
    };
  }

  /** Committed, but the message was lost: the same assignment again, same generation; the agent drops repeats. */
  async #resend(session: AgentSession, unheard: LiveAttempt[]): Promise<void> {
    const { store, jobs, results, secrets, epoch } = this.#options;
    if (unheard.length === 0) return;
    const needs = (attempt: LiveAttempt) => !secrets.open && attempt.kind.secrets !== undefined;
    const unreadable = unheard.filter(needs);
    results.lost(unreadable, 'shutdown', 'the coordinator that leads now has no key for secrets');
    const readable = unheard.filter((attempt) => !needs(attempt));
    const values = await valuesFor(
      secrets,
      jobs,
      readable.map(({ job }) => job),
    );
    const unfit = readable.filter(({ job }) => problemOf(values, job) !== undefined);
    if (unfit.length > 0) results.unfit(unfit, (job) => problemOf(values, job) ?? '');
    const attempts = readable.filter((attempt) => !unfit.includes(attempt));
    const inputs = await store.tasks.inputs(attempts);
    const tasks = attempts.map(({ job, index, generation, node, failures, losses }, position) => ({
      ...{ job, index, generation, node, failures, losses },
      input: inputs[position],
    }));
    session.assign(epoch(), { ranges: [], tasks }, (job) => jobs.get(job)?.body, valuesOf(values));
  }
}

const toRenumbered = (renumbered: Renumberings): Renumbered => ({
  attempts: toRefs(renumbered.map(({ former }) => former)),
  generations: renumbered.map(({ generation }) => generation),
});
