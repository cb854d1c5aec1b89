/**
 * The audit: who did what to what, from where, with which certificate. Services say what happened, in one of the words
 * of `AUDIT_ACTIONS`, and choose by how much it matters:
 *
 * - `record` resolves once the entry is in the chain: for what people and machines do that changes who may do what.
 * - `note` does not wait: for what comes in bursts and has rows of its own, such as jobs. A kill at once may lose it.
 * - `tally` is for noise that a peer can make at will: the first at once, then one entry a minute with how many.
 *
 * Entries are appended group by group: while one statement is under way the next group gathers, so the lock on the end of
 * the chain is taken once for many. Notes gather for a moment, too: a job that is done in a few milliseconds is answered
 * before the entry about it is written. A database that is away is waited for; entries are kept, in bounded
 * number, and what has no room is counted in an entry of its own. An answer that was lost is asked for again in a way that
 * writes nothing twice.
 */
import { type Clock, pause, type Timer } from '../../common/clock.js';
import { MeshError } from '../../common/errors.js';
import type { Identity } from '../../common/identity/identity.js';
import type { Service } from '../../common/lifecycle.js';
import type { Logger } from '../../common/log.js';
import type { AuditStore, NewAuditEntry } from '../ports.js';

/** What is audited, and what its target is. docs/audit.md is made from this. */
export const AUDIT_ACTIONS = {
  'mesh.restored': 'the mesh goes on from a backup (target: when that was made)',
  'token.created': 'a join token was made (target: its id)',
  'token.revoked': 'a join token was made useless (target: its id)',
  'enroll.joined': 'a token was spent and a machine or person joined (target: role/name)',
  'enroll.waiting': 'a token was spent by a machine that waits for approval (target: role/name)',
  'enroll.approved': 'an operator let a machine in that waited (target: role/name)',
  'enroll.rejected': 'an operator refused a machine that waited (target: role/name)',
  'enroll.refused': 'a join was refused (target: the reason; counted)',
  'certificate.issued': 'a certificate was issued (target: role/name)',
  'certificate.imported': 'a certificate that mesh-ca issued in the CA directory was taken in (target: role/name)',
  'certificate.renewed': 'a certificate was renewed by its holder (target: role/name)',
  'certificate.recovered': 'an agent that was off past the end of its certificate came back (target: role/name)',
  'recovery.refused': 'an expired certificate bought no new one (target: role/name; counted)',
  'certificate.revoked': 'a certificate was revoked (target: role/name)',
  'issuer.signed': "a coordinator's issuing certificate was signed (target: coordinator/name)",
  'rotation.started': 'another root was made beside the present one (target: its digest)',
  'rotation.moving': 'certificates are issued under the other root from now on (target: its digest)',
  'rotation.finished': 'the old root is trusted no more (target: its digest)',
  'node.drained': 'a node gets no more work (target: its name)',
  'node.undrained': 'a node gets work again (target: its name)',
  'namespace.changed': 'quotas or members of a namespace were set (target: its name)',
  'namespace.removed': 'a namespace was removed (target: its name)',
  'node.removed': 'a node that was gone was forgotten (target: its name)',
  'job.submitted': 'a job was submitted (target: its id)',
  'job.cancelled': 'a job was cancelled (target: its id)',
  'job.retried': 'what a job left undone was submitted again (target: the id of the new job)',
  'secret.set': 'a secret was made or its value replaced (target: owner/name)',
  'secret.removed': 'a secret was removed (target: owner/name)',
  'secret.used': 'a job was submitted that is given a secret (target: owner/name)',
  'secret.key-shared': 'another coordinator was given the key for secrets (target: role/name)',
  'call.denied': 'a call was refused because of who made it (target: the method or path; counted)',
  'result.stale': 'an agent reported a result that another attempt has made void (target: the node; counted)',
  'audit.dropped': 'entries for which there was no room while the database was away (target: how many)',
} as const;

export type AuditAction = keyof typeof AUDIT_ACTIONS;

/** Who did it: from the context of a call by `actorOf`, or `audit.self` for what a coordinator does by itself. */
export interface Actor {
  /** `role/name` of the certificate, `token/ID`, or `nobody`. */
  readonly name: string;
  readonly address: string;
  /** The certificate's serial. */
  readonly certificate: string;
}

export const NOBODY = 'nobody';

export const actorOf = (caller: { identity: Identity | undefined; address: string }): Actor => ({
  name: caller.identity ? `${caller.identity.role}/${caller.identity.name}` : NOBODY,
  address: caller.address,
  certificate: caller.identity?.serial ?? '',
});

/** Whoever came with a join token, before there is a certificate. */
export const bearerOf = (tokenId: string, address: string): Actor => ({
  name: `token/${tokenId}`,
  address,
  certificate: '',
});

/** Further facts, few and small. Never a secret. */
export type AuditDetail = Readonly<Record<string, string | number | boolean | readonly string[] | undefined>>;

export interface AuditOptions {
  store: AuditStore;
  /** This coordinator's name. */
  name: string;
  clock: Clock;
  log: Logger;
}

const ENTRIES_PER_STATEMENT = 500;
const WAITING_MAX = 20_000;
/** How long a note waits for others when nobody waits for an entry. */
const GATHER_MS = 20;
const RETRY_MS = 500;
const TALLY_MS = 60_000;
/** Kinds of noise that are counted apart in a minute; the rest is counted together, action by action. */
const TALLIES_MAX = 64;
const TEXT_MAX = 256;

interface Waiting {
  entry: NewAuditEntry;
  settled?: { resolve: () => void; reject: (error: unknown) => void };
}

interface Tally {
  actor: Actor;
  action: AuditAction;
  target: string;
  detail: AuditDetail;
  /** Since the last entry. */
  times: number;
}

export class Audit implements Service {
  readonly name = 'audit';
  /** This coordinator itself. */
  readonly self: Actor;
  readonly #options: AuditOptions;
  #waiting: Waiting[] = [];
  #dropped = 0;
  #draining: Promise<void> | undefined;
  #gathering: Timer | undefined;
  readonly #tallies = new Map<string, Tally>();
  #timer: Timer | undefined;
  readonly #stopping = new AbortController();

  constructor(options: AuditOptions) {
    this.#options = options;
    this.self = { name: `coordinator/${options.name}`, address: '', certificate: '' };
  }

  /** Resolves once it is written. @throws MeshError OVERLOADED, or DATABASE_DOWN when the coordinator stops before that */
  record(actor: Actor, action: AuditAction, target: string, detail: AuditDetail = {}): Promise<void> {
    return new Promise((resolve, reject) => {
      const taken = this.#add({ entry: this.#entry(actor, action, target, detail), settled: { resolve, reject } });
      if (!taken) reject(new MeshError('OVERLOADED', 'the audit waits for the database and takes no more'));
    });
  }

  note(actor: Actor, action: AuditAction, target: string, detail: AuditDetail = {}): void {
    if (!this.#add({ entry: this.#entry(actor, action, target, detail) })) this.#dropped++;
  }

  tally(actor: Actor, action: AuditAction, target: string, detail: AuditDetail = {}, times = 1): void {
    const key = JSON.stringify([actor.name, actor.address, actor.certificate, action, target]);
    const known = this.#tallies.get(key);
    if (known) {
      known.times += times;
      return;
    }
    if (this.#tallies.size >= TALLIES_MAX && actor !== OTHERS) return this.tally(OTHERS, action, '', {}, times);
    this.#tallies.set(key, { actor, action, target, detail, times: 0 });
    this.note(actor, action, target, { ...detail, times });
    this.#timer ??= this.#options.clock.after(TALLY_MS, () => this.#writeTallies(), { background: true });
  }

  async start(): Promise<void> {}

  /** What was counted is written too; a database that is away is not waited for any longer. */
  async stop(): Promise<void> {
    this.#timer?.cancel();
    this.#writeTallies();
    this.#timer?.cancel();
    this.#stopping.abort();
    await this.idle();
  }

  /** Resolves when everything said so far is written. */
  async idle(): Promise<void> {
    this.#begin();
    while (this.#draining) await this.#draining;
  }

  /** What goes on keeps its place, with one entry a minute; what has ceased is forgotten. */
  #writeTallies(): void {
    for (const [key, tally] of this.#tallies) {
      if (tally.times === 0) this.#tallies.delete(key);
      else this.note(tally.actor, tally.action, tally.target, { ...tally.detail, times: tally.times });
      tally.times = 0;
    }
    const goOn = this.#tallies.size > 0;
    const { clock } = this.#options;
    this.#timer = goOn ? clock.after(TALLY_MS, () => this.#writeTallies(), { background: true }) : undefined;
  }

  #entry(actor: Actor, action: AuditAction, target: string, detail: AuditDetail): NewAuditEntry {
    return {
      atUs: Math.floor(this.#options.clock.wallMs()) * 1000,
      actor: bounded(actor.name),
      address: bounded(actor.address),
      certificate: bounded(actor.certificate),
      action,
      target: bounded(target),
      detail: JSON.stringify(detail, (_, value: unknown) => (typeof value === 'string' ? bounded(value) : value)),
    };
  }

  #add(item: Waiting): boolean {
    if (this.#waiting.length >= WAITING_MAX) return false;
    this.#waiting.push(item);
    if (item.settled || this.#waiting.length >= ENTRIES_PER_STATEMENT) this.#begin();
    else this.#gathering ??= this.#options.clock.after(GATHER_MS, () => this.#begin(), { background: true });
    return true;
  }

  #begin(): void {
    this.#gathering?.cancel();
    this.#gathering = undefined;
    this.#draining ??= this.#drain();
  }

  async #drain(): Promise<void> {
    await Promise.resolve();
    while (this.#waiting.length > 0) {
      const group = this.#waiting.splice(0, ENTRIES_PER_STATEMENT);
      await this.#write(group);
      if (this.#dropped > 0) this.#sayDropped();
    }
    this.#draining = undefined;
  }

  async #write(group: readonly Waiting[]): Promise<void> {
    const { store, clock, log } = this.#options;
    const entries = group.map(({ entry }) => entry);
    for (let again = false; ; again = true) {
      try {
        await store.append(entries, again);
        for (const { settled } of group) settled?.resolve();
        return;
      } catch (error) {
        const over = this.#stopping.signal.aborted;
        if (!again || over)
          log.error({ event: 'audit.unwritten', entries: over ? entries : entries.length, err: error });
        if (over) {
          for (const { settled } of group) settled?.reject(error);
          return;
        }
        await pause(clock, RETRY_MS, this.#stopping.signal);
      }
    }
  }

  #sayDropped(): void {
    // There is room for this one, whatever came meanwhile: it stands for many.
    this.#waiting.push({ entry: this.#entry(this.self, 'audit.dropped', String(this.#dropped), {}) });
    this.#dropped = 0;
  }
}

const OTHERS: Actor = { name: 'others', address: '', certificate: '' };

/** Strangers choose some of these words: short, well-formed and without NUL, which PostgreSQL's text cannot hold. */
const bounded = (text: string): string => {
  const short = text.length > TEXT_MAX ? `${text.slice(0, TEXT_MAX - 1)}…` : text;
  return short.replace(/\p{Surrogate}|\0/gu, '\ufffd');
};
