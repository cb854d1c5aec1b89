/**
 * Machines that wait to be let in. With `--approve-nodes` a good token buys an agent no certificate but a place here,
 * until an operator has compared the words that both sides show (common/identity/phrase.ts). What is approved or refused
 * is a key: a decision names the key that was shown, so a request that took the name meanwhile is not what was meant.
 *
 * Bounded in number and in time: one use of a token is one place, a place lasts a day, and when all are taken nobody's
 * token is spent. A refusal lasts as long as any token can.
 */
import { readCsr } from '../../common/identity/csr.js';
import { approvalPhrase } from '../../common/identity/phrase.js';
import type { Clock } from '../../common/clock.js';
import { MeshError } from '../../common/errors.js';
import type { Logger } from '../../common/log.js';
import type { JoinRequestRow, JoinRequestStore } from '../ports.js';
import { type Actor, type Audit, bearerOf } from './audit.js';

const WAITING_MAX = 256;
const WAITING_MS = 86_400_000;
const REFUSED_MS = 30 * 86_400_000;

export interface ApprovalsOptions {
  requests: JoinRequestStore;
  audit: Audit;
  clock: Clock;
  log: Logger;
  /** SHA-256 of the root certificate's DER, lower-case hex. */
  rootDigest: () => string;
}

export type NewRequest = Pick<JoinRequestRow, 'publicKeyDigest' | 'tokenId' | 'name' | 'csr' | 'address'>;

/** What a machine that waits is told; it works out its phrase itself. */
export const notApproved = (name: string): MeshError =>
  new MeshError('NOT_APPROVED', `${name} waits for approval`, {
    hint: `on the coordinator: mesh nodes approve ${name}`,
  });

export const nameClaimed = (name: string): MeshError =>
  new MeshError('CONFLICT', `another machine waits for approval as ${name}`, {
    hint: 'look at it on the coordinator (mesh nodes --waiting) and refuse it, or choose another --name',
  });

export class Approvals {
  readonly #options: ApprovalsOptions;

  constructor(options: ApprovalsOptions) {
    this.#options = options;
  }

  waiting(): Promise<JoinRequestRow[]> {
    return this.#options.requests.waiting();
  }

  /** What the machines that wait are going to be called, that of this key left out. */
  async claimedNames(publicKeyDigest: string): Promise<Set<string>> {
    const others = (await this.waiting()).filter((row) => row.publicKeyDigest !== publicKeyDigest);
    return new Set(others.map(({ name }) => name));
  }

  /** What this key asked for with this token, if it still counts. @throws MeshError DENIED when it was refused */
  async asked(tokenId: string, publicKeyDigest: string): Promise<JoinRequestRow | undefined> {
    const row = await this.#options.requests.get(tokenId, publicKeyDigest);
    if (row?.refusedBy !== undefined)
      throw new MeshError('DENIED', `an operator has refused this machine (${row.name})`, {
        hint: 'ask them; another try needs another token',
      });
    return row;
  }

  /** Whether one more may wait. @throws MeshError OVERLOADED */
  async requireRoom(): Promise<void> {
    if ((await this.waiting()).length >= WAITING_MAX)
      throw new MeshError('OVERLOADED', `${WAITING_MAX} machines wait for approval, and no more can`, {
        hint: 'approve or refuse some: mesh nodes --waiting',
      });
  }

  /** @throws MeshError CONFLICT when another key waits under the name */
  async wait(request: NewRequest): Promise<void> {
    const { requests, audit, clock, log } = this.#options;
    const requestedAtMs = clock.wallMs();
    const expiresAtMs = requestedAtMs + WAITING_MS;
    if (!(await requests.record({ ...request, requestedAtMs, expiresAtMs, refusedBy: undefined })))
      throw nameClaimed(request.name);
    const { name, address, tokenId, publicKeyDigest } = request;
    await audit.record(bearerOf(tokenId, address), 'enroll.waiting', `agent/${name}`, { publicKeyDigest });
    log.warn({ event: 'enroll.waiting', name, address, token: tokenId, phrase: this.#phraseOf(request.csr) });
  }

  /**
   * The request that an operator means: it waits under this name, with this key.
   * @throws MeshError NOT_FOUND when nothing waits under the name, CONFLICT when its key is another one
   */
  async find(name: string, publicKeyDigest: string): Promise<JoinRequestRow> {
    const row = (await this.waiting()).find((waiting) => waiting.name === name);
    const hint = 'see: mesh nodes --waiting';
    if (!row) throw new MeshError('NOT_FOUND', `no machine waits for approval as "${name.slice(0, 80)}"`, { hint });
    if (row.publicKeyDigest !== publicKeyDigest)
      throw new MeshError('CONFLICT', `another machine waits as ${name} now, with another key`, {
        hint: 'compare the words again: mesh nodes --waiting',
      });
    return row;
  }

  async forget(publicKeyDigest: string): Promise<void> {
    await this.#options.requests.forget(publicKeyDigest);
  }

  /** @throws MeshError NOT_FOUND, CONFLICT, as `find` */
  async refuse(actor: Actor, name: string, publicKeyDigest: string): Promise<JoinRequestRow> {
    const { requests, audit, clock, log } = this.#options;
    const row = await this.find(name, publicKeyDigest);
    if (!(await requests.refuse(publicKeyDigest, actor.name, clock.wallMs() + REFUSED_MS)))
      throw new MeshError('NOT_FOUND', `${name} waits no more`, { hint: 'see: mesh nodes' });
    const { address, tokenId } = row;
    await audit.record(actor, 'enroll.rejected', `agent/${name}`, { from: address, publicKeyDigest, token: tokenId });
    log.warn({ event: 'enroll.rejected', name, actor: actor.name, address });
    return row;
  }

  #phraseOf(csr: Uint8Array): string {
    return approvalPhrase(this.#options.rootDigest(), readCsr(csr).publicKeyDer);
  }
}
