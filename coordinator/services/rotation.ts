/**
 * Replaces the root of the mesh while it works. The leader sees it through: it asks whoever is behind to renew, so many
 * at a time, and takes the next step when everybody who is here has taken this one. Nobody is cut off before the end:
 * until then coordinators present the old chain and trust both. The end is asked for by a person, and refused with names
 * while somebody needs the old root.
 *
 * | phase     | agents and people are done when …                 | left                                    |
 * | --------- | -------------------------------------------------- | --------------------------------------- |
 * | spreading | their certificate came with both roots             | by itself, once all that are here are   |
 * | moving    | it leads to the other root                         | by `mesh-ca rotate finish`              |
 * | steady    | it came with the one root there is                 | –                                       |
 *
 * What a certificate came with is recorded with it, and that an agent has stored it is known from its session, which is
 * opened with it.
 */
import type { Clock } from '../../common/clock.js';
import { MeshError } from '../../common/errors.js';
import { readRoots } from '../../common/identity/roots.js';
import type { Service } from '../../common/lifecycle.js';
import type { Logger } from '../../common/log.js';
import { Loop } from '../../common/loop.js';
import type { CertificateStore, CurrentCertificate, TokenStore, TrustRow, TrustStore } from '../ports.js';
import { Asked } from './asked.js';
import type { Actor, Audit } from './audit.js';
import type { LiveNode } from './fleet.js';
import type { Roster } from './roster.js';
import type { Trust } from './trust.js';

const EVERY_MS = 1000;
/** In a mesh that has one root again, those who trust the old one still are looked for this often. */
const SETTLING_MS = 30_000;

export interface Laggard {
  role: string;
  name: string;
  live: boolean;
  untilMs: number;
  missing: string;
}

export interface RotationStatus extends TrustRow {
  rootDigest: string;
  nextDigest: string | undefined;
  done: number;
  laggards: Laggard[];
  canFinish: boolean;
}

export interface RotationOptions {
  store: { trust: TrustStore; certificates: CertificateStore; tokens: TokenStore };
  trust: Trust;
  roster: Roster;
  /** Of the fleet; undefined while another coordinator leads. */
  nodes: () => Iterable<LiveNode> | undefined;
  hasRootKey: () => boolean;
  /** Makes the other root, PEM, and endorses it with the key of the present one; the same again when it was made before. */
  prepareNextRoot: () => Promise<{ pem: string; endorsement: string }>;
  audit: Audit;
  clock: Clock;
  log: Logger;
}

export class Rotation implements Service {
  readonly name = 'rotation';
  readonly #options: RotationOptions;
  readonly #loop: Loop;
  readonly #asked: Asked;
  /** Serials of the certificates whose holders have to renew them. */
  #behind: ReadonlySet<string> = new Set();
  #judgedAtMs = Number.NEGATIVE_INFINITY;

  constructor(options: RotationOptions) {
    this.#options = options;
    this.#asked = new Asked(options.clock);
    this.#loop = new Loop({
      name: 'rotation.advance',
      clock: options.clock,
      everyMs: EVERY_MS,
      turn: () => this.#turn(),
      onError: (error) => options.log.warn({ event: 'rotation.stalled', err: error }),
    });
  }

  start(): Promise<void> {
    return this.#loop.start();
  }

  stop(): Promise<void> {
    return this.#loop.stop();
  }

  /** For which step the holder of this certificate is to renew it now; 0 for none. */
  wants(serial: string): number {
    const { trust } = this.#options;
    const { generation } = trust.state;
    return this.#behind.has(serial) && trust.generation === generation && this.#asked.ask(serial) ? generation : 0;
  }

  async status(): Promise<RotationStatus> {
    const { store, trust, roster, clock } = this.#options;
    const state = (await store.trust.read()) ?? trust.state;
    const [rootDigest = ''] = readRoots(state.root).digests;
    const nextDigest = state.nextRoot && readRoots(state.nextRoot).digests[0];
    const { laggards, done } = await this.#judge(state);
    for (const { name, trustGeneration } of roster.list()) {
      if (trustGeneration < state.generation)
        laggards.push({ role: 'coordinator', name, live: true, untilMs: 0, missing: MISSING_STEP[state.phase] });
    }
    if (state.phase === 'moving')
      for (const { id, usesLeft, expiresAtMs } of await store.tokens.list())
        if (usesLeft > 0 && expiresAtMs > clock.wallMs())
          laggards.push({ role: 'token', name: id, live: false, untilMs: expiresAtMs, missing: 'pins the old root' });
    const canFinish = state.phase === 'moving' && laggards.length === 0;
    return { ...state, rootDigest, nextDigest, done, laggards, canFinish };
  }

  /** @throws MeshError CONFLICT when the root's key is not here */
  async begin(actor: Actor): Promise<RotationStatus> {
    const { store, trust, hasRootKey, prepareNextRoot, audit, clock, log } = this.#options;
    await trust.refresh();
    const { state } = trust;
    if (state.phase !== 'steady') return this.status();
    if (!hasRootKey())
      throw new MeshError(
        'CONFLICT',
        'the root key ca.key is not on this coordinator, so it cannot make another root',
        {
          hint: 'bring ca.key back into its ca/ for the time of the rotation, or name the coordinator that has it: --coordinator HOST',
        },
      );
    const { pem: nextRoot, endorsement: nextRootEndorsement } = await prepareNextRoot();
    const { root } = state;
    const next = { nextRoot, nextRootEndorsement, startedAtMs: clock.wallMs() };
    const begun = { phase: 'spreading', root, ...next } as const;
    if (await store.trust.change(state.generation, begun)) {
      const [digest = ''] = readRoots(nextRoot).digests;
      await audit.record(actor, 'rotation.started', digest);
      log.warn({ event: 'rotation.started', root: digest, actor: actor.name });
    }
    await trust.refresh();
    return this.status();
  }

  /**
   * Lets the old root go. Forced, it does so whoever needs it still, but for coordinators that have no intermediate of the
   * other one; and a rotation that waits for agents which do not answer goes on without them.
   * @throws MeshError CONFLICT with names
   */
  async finish(actor: Actor, force: boolean): Promise<RotationStatus> {
    const { store, trust, audit, log } = this.#options;
    const status = await this.status();
    const { phase, generation, nextRoot, laggards, rootDigest } = status;
    if (phase === 'steady' || nextRoot === undefined)
      throw new MeshError('CONFLICT', 'no rotation is under way', { hint: 'begin one: mesh-ca rotate' });
    const needed = force ? laggards.filter(({ role }) => role === 'coordinator') : laggards;
    if (needed.length > 0 || (phase === 'spreading' && !force)) throw stillNeeded(phase, needed);
    if (phase === 'spreading') {
      await this.#move(trust.state, actor);
      return this.status();
    }
    const alone = { nextRoot: undefined, nextRootEndorsement: undefined, startedAtMs: undefined };
    const steady = { phase: 'steady', root: nextRoot, ...alone } as const;
    if (await store.trust.change(generation, steady)) {
      const left = laggards.map(({ role, name }) => `${role}/${name}`);
      await audit.record(actor, 'rotation.finished', rootDigest, { forced: force, left: left.slice(0, NAMES_MAX) });
      log.warn({ event: 'rotation.finished', removed: rootDigest, actor: actor.name, forced: force, left });
    }
    await trust.refresh();
    return this.status();
  }

  async #turn(): Promise<void> {
    const { trust, roster, nodes, clock, audit } = this.#options;
    const { state } = trust;
    const isOver = state.phase === 'steady' && state.generation === 1;
    if (nodes() === undefined || isOver) {
      this.#behind = new Set();
      this.#judgedAtMs = Number.NEGATIVE_INFINITY;
      return;
    }
    const isSettled = state.phase === 'steady' && this.#behind.size === 0;
    if (isSettled && clock.monotonicMs() - this.#judgedAtMs < SETTLING_MS) return;
    const { laggards } = await this.#judge(state);
    const behind = roster.list().some(({ trustGeneration }) => trustGeneration < state.generation);
    if (state.phase === 'spreading' && !behind && !laggards.some(({ live }) => live))
      await this.#move(state, audit.self);
  }

  async #move(state: TrustRow, actor: Actor): Promise<void> {
    const { store, trust, audit, log } = this.#options;
    const { generation, ...rest } = state;
    if (await store.trust.change(generation, { ...rest, phase: 'moving' })) {
      const [digest = ''] = readRoots(state.nextRoot ?? '').digests;
      await audit.record(actor, 'rotation.moving', digest);
      log.info({ event: 'rotation.moving', root: digest });
    }
    await trust.refresh();
  }

  /** Who is done with the present step and who is not, coordinators aside: their own certificates follow at the end. */
  async #judge(state: TrustRow): Promise<{ done: number; laggards: Laggard[] }> {
    const { store, nodes, clock } = this.#options;
    const current = (await store.certificates.current()).filter(({ role }) => role !== 'coordinator');
    const isDone = judgeOf(state);
    const settled = new Set(current.filter(isDone).map(({ serial }) => serial));
    const sessions = new Map<string, string>();
    // Who is within its lease is waited for: after a change of the lead nobody is connected for a moment.
    const here = new Set<string>();
    for (const { row, session, liveness } of nodes() ?? []) {
      if (liveness.state !== 'OFFLINE') here.add(row.name);
      if (session?.open) sessions.set(row.name, row.certificateSerial);
    }
    const laggards: Laggard[] = [];
    const late = new Set<string>();
    for (const { role, name, serial, notAfterMs } of current) {
      const connected = role === 'agent' ? sessions.get(name) : undefined;
      if (settled.has(connected ?? serial)) continue;
      late.add(connected ?? serial);
      const missing = role === 'metrics' ? BY_HAND : MISSING[state.phase];
      laggards.push({ role, name, live: role === 'agent' && here.has(name), untilMs: notAfterMs, missing });
    }
    if (state.generation === this.#options.trust.state.generation) {
      this.#behind = late;
      this.#judgedAtMs = clock.monotonicMs();
    }
    return { done: current.length - laggards.length, laggards };
  }
}

const NAMES_MAX = 8;
const BY_HAND = 'its files are renewed by hand: mesh-ca renew';
const MISSING = {
  spreading: 'does not trust the new root yet',
  moving: 'has no certificate of the new root yet',
  steady: 'trusts the old root still',
};
const MISSING_STEP = {
  spreading: 'does not trust the new root yet',
  moving: 'has no intermediate of the new root yet',
  steady: 'presents the old root still',
};

function judgeOf({ phase, root, nextRoot }: TrustRow): (certificate: CurrentCertificate) => boolean {
  const [present = ''] = readRoots(root).digests;
  const [next = ''] = nextRoot === undefined ? [] : readRoots(nextRoot).digests;
  switch (phase) {
    case 'spreading':
      return ({ trusts = [] }) => trusts.includes(present) && trusts.includes(next);
    case 'moving':
      return (certificate) => certificate.root === next;
    case 'steady':
      return (certificate) => certificate.root === present && certificate.trusts?.length === 1;
  }
}

function stillNeeded(phase: TrustRow['phase'], laggards: readonly Laggard[]): MeshError {
  const names = laggards.slice(0, NAMES_MAX).map(({ role, name }) => `${role} ${name}`);
  const others = laggards.length > NAMES_MAX ? ` and ${laggards.length - NAMES_MAX} more` : '';
  const who = names.length === 0 ? '' : `: ${names.join(', ')}${others}`;
  const what = phase === 'spreading' ? 'not everybody knows the new root yet' : 'the old root is needed still';
  return new MeshError('CONFLICT', `${what}${who}`, {
    hint: 'see mesh-ca rotate status; with --force they come back only with a token or a login',
  });
}
