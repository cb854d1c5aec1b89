/**
 * Secrets: set, listed, removed, and read when attempts are assigned. Values come in and go to the agents that run what
 * asked for them; nothing here gives one back to a person. They are decrypted for a message at a time and never kept.
 */
import { randomBytes } from 'node:crypto';
import { isUtf8 } from 'node:buffer';
import { MeshError } from '../../common/errors.js';
import type { Logger } from '../../common/log.js';
import type { SecretUse } from '../../proto/gen/mesh/v1/common.js';
import {
  checkSecretName,
  chosenOwner,
  EVERYONE,
  JOB_SECRETS_BYTES_MAX,
  mayUse,
  SECRET_BYTES_MAX,
  seenBy,
} from '../core/secret.js';
import type { JobRow, SealedSecret, SecretRef, SecretRow, SecretStore } from '../ports.js';
import type { Actor, Audit } from './audit.js';
import type { SecretKey } from './secret-key.js';

export interface KeyHolder {
  /** Undefined while this coordinator does not have it. */
  readonly key: SecretKey | undefined;
  /** Nobody has it any more, and nothing is left that it could open: from now on another one counts. */
  abandon(): Promise<void>;
}

export interface SecretsOptions {
  /** Secrets of one owner. */
  countMax: number;
  store: SecretStore;
  audit: Audit;
  holder: KeyHolder | undefined;
  log: Logger;
}

/** What a job's secrets are worth now, in order; or why the job cannot be given them. */
export type Values = { values: Buffer[] } | { problem: string };

export class Secrets {
  readonly #options: SecretsOptions;

  constructor(options: SecretsOptions) {
    this.#options = options;
  }

  /** Whether this coordinator can read secrets. */
  get open(): boolean {
    return this.#options.holder?.key !== undefined;
  }

  /** @throws MeshError NOT_READY while this coordinator does not have it */
  key(): SecretKey {
    const key = this.#options.holder?.key;
    if (key) return key;
    throw new MeshError('NOT_READY', 'this coordinator does not have the key for secrets', {
      hint: 'start a coordinator that has ca/secrets.key, restore it from a backup, or remove all secrets',
    });
  }

  /** For another coordinator of the mesh, which will read and seal what this one does. @throws MeshError NOT_READY */
  async shareKey(actor: Actor): Promise<Buffer> {
    const key = this.key();
    await this.#options.audit.record(actor, 'secret.key-shared', actor.name, { key: key.id });
    this.#options.log.info({ event: 'secret.key-shared', with: actor.name, key: key.id });
    return key.export();
  }

  /** @throws MeshError BAD_NAME, USAGE, DENIED, CONFLICT, NOT_READY */
  async set(actor: Actor, request: { name: string; value: Uint8Array; owner: string }): Promise<SecretRow> {
    const { countMax, store, audit, log } = this.#options;
    const { name, value } = request;
    checkSecretName(name);
    if (value.length === 0) throw new MeshError('USAGE', 'a secret cannot be empty');
    if (value.length > SECRET_BYTES_MAX)
      throw new MeshError('USAGE', `the value has ${value.length} bytes, more than ${SECRET_BYTES_MAX}`, {
        hint: 'keep a key to the data as the secret, and the data elsewhere',
      });
    const owner = chosenOwner(actor.name, request.owner);
    const key = this.key();
    const context = { owner, name, revision: randomBytes(12).toString('hex') };
    const sealed = key.seal(value, context);
    const isText = isUtf8(value) && !value.includes(0);
    const secret = { ...context, keyId: key.id, sealed, sizeBytes: value.length, isText };
    const row = await store.put(secret, actor.name, countMax);
    if (!row)
      throw new MeshError('CONFLICT', `${owner} has ${countMax} secrets, the most there may be`, {
        hint: 'remove one: mesh secret remove NAME; the limit is --max-secrets of the coordinator',
      });
    await audit.record(actor, 'secret.set', `${owner}/${name}`, { bytes: value.length });
    log.info({ event: 'secret.set', owner, name, by: actor.name });
    return row;
  }

  list(actor: Actor): Promise<SecretRow[]> {
    return this.#options.store.list(seenBy(actor.name));
  }

  /** @throws MeshError NOT_FOUND, DENIED */
  async remove(actor: Actor, request: { name: string; owner: string }): Promise<void> {
    const { store, audit, holder, log } = this.#options;
    const { name } = request;
    checkSecretName(name);
    const owner = chosenOwner(actor.name, request.owner);
    if (!(await store.remove({ owner, name })))
      throw new MeshError('NOT_FOUND', `${owner} has no secret ${name}`, { hint: 'see: mesh secret list' });
    await audit.record(actor, 'secret.removed', `${owner}/${name}`);
    log.info({ event: 'secret.removed', owner, name, by: actor.name });
    if (!this.open && (await store.list()).length === 0) await holder?.abandon();
  }

  /**
   * Finds what a submission means, with owners filled in: what the job then refers to whoever sets secrets of the same
   * name later. @throws MeshError BAD_SPEC for what there is not, or is not this person's to use
   */
  async resolve(actor: Actor, uses: readonly SecretUse[]): Promise<SecretUse[]> {
    if (uses.length === 0) return [];
    const candidates = ({ owner }: SecretUse) =>
      owner === '' ? [actor.name, EVERYONE] : [owner].filter((named) => mayUse(actor.name, named));
    const found = await this.#options.store.read(
      uses.flatMap((use) => candidates(use).map((owner) => ({ owner, name: use.name }))),
    );
    const resolved = uses.map((use) => {
      const owner = candidates(use).find((candidate) => secretOf({ owner: candidate, name: use.name }, found));
      if (owner === undefined)
        throw new MeshError('BAD_SPEC', `there is no secret ${use.name} that ${actor.name} may use`, {
          hint: `set it first: mesh secret set ${use.name}`,
        });
      return { ...use, owner };
    });
    const problem = problemWith(resolved, found);
    if (problem !== undefined) throw new MeshError('BAD_SPEC', problem);
    return resolved;
  }

  /** A job was submitted that will be given them. */
  used(actor: Actor, { id, spec }: JobRow): void {
    for (const { owner, name } of spec.secrets)
      this.#options.audit.note(actor, 'secret.used', `${owner}/${name}`, { job: id });
  }

  /** What each of these jobs is given now. @throws MeshError NOT_READY, DATABASE_DOWN */
  async read(jobs: ReadonlyMap<number, readonly SecretUse[]>): Promise<Map<number, Values>> {
    if (jobs.size === 0) return new Map();
    const key = this.key();
    const found = await this.#options.store.read([...jobs.values()].flat());
    return new Map([...jobs].map(([job, uses]) => [job, this.#valuesOf(key, uses, found)] as const));
  }

  #valuesOf(key: SecretKey, uses: readonly SecretUse[], found: readonly SealedSecret[]): Values {
    const problem = problemWith(uses, found);
    if (problem !== undefined) return { problem };
    try {
      return { values: uses.map((use) => key.open(secretOf(use, found) as SealedSecret)) };
    } catch (error) {
      if (!(error instanceof MeshError)) throw error;
      return { problem: error.message };
    }
  }
}

const secretOf = (use: SecretRef, found: readonly SealedSecret[]): SealedSecret | undefined =>
  found.find(({ owner, name }) => owner === use.owner && name === use.name);

/** Why a job cannot be given these; undefined when it can. */
function problemWith(uses: readonly SecretUse[], found: readonly SealedSecret[]): string | undefined {
  let bytes = 0;
  for (const use of uses) {
    const secret = secretOf(use, found);
    if (!secret) return `the secret ${use.name} of ${use.owner} was removed`;
    if (!use.file && !secret.isText)
      return `the secret ${use.name} is no text and fits in no variable: use --secret-file ${use.name}`;
    bytes += secret.sizeBytes;
  }
  return bytes > JOB_SECRETS_BYTES_MAX
    ? `the job's secrets have ${bytes} bytes together, more than ${JOB_SECRETS_BYTES_MAX}`
    : undefined;
}
