/**
 * A join token buys one certificate. The token names the role and may bind the name; of the request only the public key
 * is taken, after its signature proved possession. Spending the token is one guarded statement, so of many racing
 * callers exactly one is served; a repeated request with the same key gets the same certificate again. Where operators
 * approve new machines, an agent's token buys a place in their queue (approvals.ts), and the approval the certificate.
 */
import { randomBytes, timingSafeEqual } from 'node:crypto';
import { decodeToken, encodeToken, secretDigest } from '../../common/identity/token.js';
import { isOfMachines, isRole } from '../../common/identity/identity.js';
import type { Clock } from '../../common/clock.js';
import { MeshError, toMeshError } from '../../common/errors.js';
import { isName } from '../../common/ids.js';
import type { Logger } from '../../common/log.js';
import type { CertificateRow, NodeStore, TokenRow, TokenStore } from '../ports.js';
import { type Approvals, nameClaimed, notApproved } from './approvals.js';
import { type Actor, type Audit, bearerOf, NOBODY } from './audit.js';
import type { Issuance } from './issuance.js';

const TTL_MS_MAX = 30 * 86_400_000;
const USES_MAX = 1000;
const NAME_TRIES = 1000;
const ADDRESSES_MAX = 10_000;

export interface EnrollmentOptions {
  tokens: TokenStore;
  nodes: NodeStore;
  issuance: Issuance;
  audit: Audit;
  clock: Clock;
  log: Logger;
  /** Whether the database is one that other machines can reach: not the embedded one. */
  sharedDatabase: boolean;
  approvals: Approvals;
  /** Whether new agents wait for an operator. */
  approveNodes: boolean;
  /** Addresses whose failures are remembered, the oldest forgotten first; 10,000 when absent. */
  addressesMax?: number;
  onOutcome: (outcome: 'joined' | 'replayed' | 'waiting' | 'refused') => void;
  /** Failed joins an address may make per minute; a guess hits a 128-bit secret, so this only spares the log and CPU. */
  failuresPerMinute: number;
}

export interface Joining {
  token: string;
  csr: Uint8Array;
  name: string;
  address: string;
  /** Of a coordinator: the request for its issuing key. */
  issuerCsr?: Uint8Array;
  /** What it can be; absent or none: whatever the token is for. */
  roles?: readonly string[];
}

/** Who is let in, or would be. */
interface Entrant {
  csr: Uint8Array;
  keyDigest: string;
  /** Free when it was looked at. */
  name: string;
  wish: string;
  address: string;
}

/** What a token of this role is for. */
const useOf = (role: string): string =>
  `it is not spent; use it with: ${isOfMachines(role) ? `mesh-${role} --join` : 'mesh login'}`;

export class Enrollment {
  readonly #options: EnrollmentOptions;
  readonly #failures = new Map<string, { count: number; sinceMs: number }>();
  /** Keys for which a certificate is being made. */
  readonly #approving = new Set<string>();

  constructor(options: EnrollmentOptions) {
    this.#options = options;
  }

  async createToken(
    actor: Actor,
    request: { role: string; name: string; ttlMs: number; uses: number; replace: boolean },
  ): Promise<{ row: TokenRow; token: string }> {
    const { tokens, audit, clock, issuance } = this.#options;
    const role = request.role === '' ? 'agent' : request.role;
    if (!isRole(role)) throw new MeshError('USAGE', `a token cannot be made for the role "${role}"`);
    if (role === 'coordinator') this.#requireSharedDatabase();
    if (request.name !== '' && !isName(request.name))
      throw new MeshError('BAD_NAME', `"${request.name}" is not a name`);
    if (request.ttlMs < 1000 || request.ttlMs > TTL_MS_MAX)
      throw new MeshError('USAGE', 'a token lives between 1 second and 30 days');
    if (request.uses < 1 || request.uses > USES_MAX)
      throw new MeshError('USAGE', `a token can be used 1 to ${USES_MAX} times`);
    if (request.name !== '' && request.uses > 1)
      throw new MeshError('USAGE', 'a token that binds a name can be used once');
    const id = randomBytes(6).toString('hex');
    const secret = randomBytes(16).toString('hex');
    const row: TokenRow = {
      id,
      secretDigest: secretDigest(secret),
      role,
      name: request.name || undefined,
      replace: request.replace,
      usesLeft: request.uses,
      expiresAtMs: clock.wallMs() + request.ttlMs,
      createdBy: actor.name,
    };
    await tokens.create(row);
    const { name, uses, replace } = request;
    const expiresAt = new Date(row.expiresAtMs).toISOString();
    await audit.record(actor, 'token.created', id, { role, name: name || undefined, uses, replace, expiresAt });
    return { row, token: encodeToken({ id, secret, rootDigest: issuance.rootDigest }) };
  }

  #requireSharedDatabase(): void {
    if (this.#options.sharedDatabase) return;
    throw new MeshError(
      'CONFLICT',
      'two coordinators need one database that both reach, and this one runs on its embedded PostgreSQL',
      { hint: 'run PostgreSQL where both reach it and start both coordinators with --database-url' },
    );
  }

  listTokens(): Promise<TokenRow[]> {
    return this.#options.tokens.list();
  }

  async revokeToken(actor: Actor, id: string): Promise<void> {
    if (!(await this.#options.tokens.revoke(id)))
      throw new MeshError('NOT_FOUND', `there is no token "${id}"`, { hint: 'see: mesh token list' });
    await this.#options.audit.record(actor, 'token.revoked', id);
  }

  /** @throws MeshError BAD_TOKEN, TOKEN_REFUSED, NOT_APPROVED, DENIED, OVERLOADED, BAD_NAME, CONFLICT, BAD_CERTIFICATE */
  async join(request: Joining): Promise<CertificateRow> {
    const { audit, log, onOutcome } = this.#options;
    this.#throttle(request.address);
    try {
      return await this.#join(request);
    } catch (error) {
      // It waits and asks again, as it should.
      if (toMeshError(error).code === 'NOT_APPROVED') throw error;
      this.#countFailure(request.address);
      onOutcome('refused');
      const { code, message } = toMeshError(error);
      audit.tally({ name: NOBODY, address: request.address, certificate: '' }, 'enroll.refused', code, {
        why: message,
      });
      log.warn({ event: 'enroll.refused', address: request.address, wish: request.name.slice(0, 63), err: error });
      throw error;
    }
  }

  async #join(request: Joining): Promise<CertificateRow> {
    const { tokens, issuance, approvals, clock, onOutcome } = this.#options;
    const presented = decodeToken(request.token);
    if (!issuance.rootDigests.includes(presented.rootDigest))
      throw new MeshError('TOKEN_REFUSED', 'the token belongs to another mesh');
    const token = await tokens.get(presented.id);
    if (!token || !sameText(token.secretDigest, secretDigest(presented.secret)))
      throw new MeshError('TOKEN_REFUSED', 'the token is not known here');
    if (request.roles?.length && !request.roles.includes(token.role))
      throw new MeshError('TOKEN_REFUSED', `the token is for the role ${token.role}`, { hint: useOf(token.role) });
    if (token.role === 'coordinator') {
      this.#requireSharedDatabase();
      issuance.checkIssuer(request.issuerCsr ?? new Uint8Array());
    }
    const keyDigest = issuance.publicKeyDigest(request.csr);
    // In this order: an approval makes the certificate before it forgets the request.
    const asked = await approvals.asked(token.id, keyDigest);
    const bought = await tokens.boughtWith(token.id, keyDigest);
    if (bought && bought.revokedAtMs === undefined && bought.notAfterMs > clock.wallMs()) {
      onOutcome('replayed');
      return bought;
    }
    const mustWait = token.role === 'agent' && this.#options.approveNodes;
    if (asked && mustWait) throw notApproved(asked.name);
    const expired = clock.wallMs() > token.expiresAtMs;
    if (expired)
      throw new MeshError('TOKEN_REFUSED', `the token expired at ${new Date(token.expiresAtMs).toISOString()}`);
    // Spent for this key and nothing bought: somebody did not hear what came of it. It is spent no second time.
    const purchase = bought ? `${keyDigest}/${bought.serial}` : keyDigest;
    const isRepeat = token.spentBy?.includes(purchase) === true;
    if (token.usesLeft < 1 && !isRepeat) throw new MeshError('TOKEN_REFUSED', 'the token is spent');
    const name = await this.#chooseName(token, request.name, keyDigest);
    if (mustWait) await approvals.requireRoom();
    if (!(await tokens.spend(token.id, purchase, clock.wallMs())))
      throw new MeshError('TOKEN_REFUSED', 'the token is spent');
    const entrant = { csr: request.csr, keyDigest, name, wish: request.name, address: request.address };
    if (!mustWait) return this.#admit(token, entrant);
    const waiting = await this.#underFreeName(token, entrant, async (free) => {
      await approvals.wait({ ...entrant, name: free, tokenId: token.id, publicKeyDigest: keyDigest });
      return notApproved(free);
    });
    onOutcome('waiting');
    throw waiting;
  }

  /**
   * Lets the machine in that waits under this name with this key. It has its certificate when it asks next.
   * @throws MeshError NOT_FOUND, CONFLICT when another key waits under the name now, or somebody else holds it
   */
  async approve(actor: Actor, name: string, publicKeyDigest: string): Promise<CertificateRow> {
    const { tokens, approvals, audit, log } = this.#options;
    const { csr, tokenId, address } = await approvals.find(name, publicKeyDigest);
    const token = await tokens.get(tokenId);
    if (!token) throw new MeshError('NOT_FOUND', `the token that ${name} came with was revoked`);
    if (this.#approving.has(publicKeyDigest)) throw new MeshError('CONFLICT', `${name} is being approved already`);
    this.#approving.add(publicKeyDigest);
    try {
      await audit.record(actor, 'enroll.approved', `agent/${name}`, { from: address, publicKeyDigest, token: tokenId });
      log.info({ event: 'enroll.approved', name, actor: actor.name, address });
      return await this.#admit(token, { csr, keyDigest: publicKeyDigest, name, wish: name, address });
    } finally {
      this.#approving.delete(publicKeyDigest);
    }
  }

  /** The token is spent for this key and nothing stands in the way any more. */
  async #admit(token: TokenRow, entrant: Entrant): Promise<CertificateRow> {
    const { issuance, nodes, approvals, audit, log, onOutcome } = this.#options;
    const { keyDigest, wish, address } = entrant;
    const actor = bearerOf(token.id, address);
    if (token.replace && token.name) await issuance.revokeHolder(actor, token.role, token.name, 'it was replaced');
    const certificate = await this.#sign(token, entrant);
    const { name } = certificate;
    if (token.role === 'agent') await nodes.setRevoked(name, false);
    await approvals.forget(keyDigest);
    await audit.record(actor, 'enroll.joined', `${token.role}/${name}`, { serial: certificate.serial });
    log.info({ event: 'enroll.joined', role: token.role, name, address, wish });
    onOutcome('joined');
    return certificate;
  }

  #sign(token: TokenRow, entrant: Entrant): Promise<CertificateRow> {
    const { csr, address } = entrant;
    const actor = bearerOf(token.id, address);
    const common = { csr, role: token.role, lifetimeMs: undefined, actor, tokenId: token.id };
    return this.#underFreeName(token, entrant, (name) => this.#options.issuance.sign({ ...common, name }));
  }

  /** Of many that wish for one name at a moment each gets a free one; the token is spent, so none may be turned away. */
  async #underFreeName<T>(token: TokenRow, entrant: Entrant, take: (name: string) => Promise<T>): Promise<T> {
    for (let name = entrant.name, tries = 1; ; tries++) {
      try {
        return await take(name);
      } catch (error) {
        if (token.name || toMeshError(error).code !== 'CONFLICT' || tries === NAME_TRIES) throw error;
        name = await this.#chooseName(token, entrant.wish, entrant.keyDigest);
      }
    }
  }

  /** The token's name, or the wish; a taken wish gets a number. A revoked name needs a token that names it. */
  async #chooseName(token: TokenRow, wish: string, keyDigest: string): Promise<string> {
    const { issuance, nodes, approvals } = this.#options;
    const claimed = token.role === 'agent' ? await approvals.claimedNames(keyDigest) : new Set<string>();
    const isHeld = async (name: string) => (await issuance.holders(token.role, name)).length > 0;
    if (token.name) {
      if (claimed.has(token.name)) throw nameClaimed(token.name);
      if (!token.replace && (await isHeld(token.name)))
        throw new MeshError('CONFLICT', `the name ${token.name} is taken`, {
          hint: `make a token with --name ${token.name} --replace to move it to this machine`,
        });
      return token.name;
    }
    if (!isName(wish)) throw new MeshError('BAD_NAME', `"${wish.slice(0, 80)}" is not a name`);
    const revoked = new Set(await nodes.revokedNames());
    for (let suffix = 1; suffix <= NAME_TRIES; suffix++) {
      const name = suffix === 1 ? wish : `${wish.slice(0, 58)}-${suffix}`;
      if (!revoked.has(name) && !claimed.has(name) && !(await isHeld(name))) return name;
    }
    throw new MeshError('CONFLICT', `the name ${wish} and its numbered forms are taken`, {
      hint: 'choose another --name',
    });
  }

  #throttle(address: string): void {
    const entry = this.#failures.get(address);
    if (!entry) return;
    if (this.#options.clock.monotonicMs() - entry.sinceMs > 60_000) this.#failures.delete(address);
    else if (entry.count >= this.#options.failuresPerMinute)
      throw new MeshError('OVERLOADED', `${address} had ${entry.count} joins refused within a minute`, {
        hint: 'try again in a minute; the limit is --max-failed-joins of the coordinator',
      });
  }

  #countFailure(address: string): void {
    const entry = this.#failures.get(address);
    if (entry) {
      entry.count++;
      return;
    }
    // The oldest makes room: a flood of addresses must not switch the throttle off.
    for (const oldest of this.#failures.keys()) {
      if (this.#failures.size < (this.#options.addressesMax ?? ADDRESSES_MAX)) break;
      this.#failures.delete(oldest);
    }
    this.#failures.set(address, { count: 1, sinceMs: this.#options.clock.monotonicMs() });
  }
}

function sameText(a: string, b: string): boolean {
  const [left, right] = [Buffer.from(a), Buffer.from(b)];
  return left.length === right.length && timingSafeEqual(left, right);
}
