/**
 * The mesh's key for secrets on this coordinator: a file beside the CA's keys and kept like them (under a passphrase once
 * one is set, in every backup), never in the database. Its 32 bytes are written as an X25519 key, for which key files and
 * what encrypts them are made. The first
 * coordinator of a mesh makes it and notes its id in the database; from then on that key is the one. Another coordinator
 * that does not have it asks those that do, as itself and over mutual TLS, until one answers.
 *
 * Nobody has it any more when every copy of the file is lost. The values are lost with it; once all of those were
 * removed (`mesh secret remove`) the id is withdrawn, and a new key is made.
 */
import { createPrivateKey, type KeyObject } from 'node:crypto';
import { rmSync } from 'node:fs';
import { join } from 'node:path';
import type { Clock } from '../common/clock.js';
import { MeshError } from '../common/errors.js';
import type { Service } from '../common/lifecycle.js';
import type { Logger } from '../common/log.js';
import { Loop } from '../common/loop.js';
import type { Credential } from '../link/credentials.js';
import { SecretServiceClient, type ShareKeyResponse } from '../proto/gen/mesh/v1/secret.js';
import { callPeer } from './peer-call.js';
import type { SettingStore } from './ports.js';
import { SecretKey } from './services/secret-key.js';
import type { KeyHolder } from './services/secrets.js';

const SETTING = 'secret-key';
const FILE = 'secrets.key';
/** What stands before the 32 bytes of an X25519 key in PKCS#8 (RFC 8410). */
const X25519 = Buffer.from('302e020100300506032b656e04220420', 'hex');
const LOOK_MS = 2000;

export interface SecretKeeperOptions {
  dataDir: string;
  authority: {
    meshId: string;
    readKey(name: string): KeyObject | undefined;
    writeKey(name: string, key: KeyObject): void;
  };
  settings: SettingStore;
  credential: () => Credential;
  /** All coordinators, as `host:port`. */
  coordinators: () => readonly string[];
  clock: Clock;
  log: Logger;
}

export class SecretKeeper implements Service, KeyHolder {
  readonly name = 'secret-keeper';
  readonly #options: SecretKeeperOptions;
  readonly #loop: Loop;
  #key: SecretKey | undefined;
  #complained = false;

  constructor(options: SecretKeeperOptions) {
    this.#options = options;
    this.#loop = new Loop({
      name: 'secret-keeper.look',
      clock: options.clock,
      everyMs: LOOK_MS,
      turn: () => this.#look(),
      onError: (error) => options.log.warn({ event: 'secret.key-unavailable', err: error }),
    });
  }

  get key(): SecretKey | undefined {
    return this.#key;
  }

  /** @throws MeshError DATA_DIR when the file holds no key */
  async start(): Promise<void> {
    await this.#look();
    if (!this.#key) await this.#loop.start();
  }

  async stop(): Promise<void> {
    await this.#loop.stop();
  }

  async abandon(): Promise<void> {
    const { settings, log } = this.#options;
    await settings.release(SETTING);
    log.warn({ event: 'secret.key-abandoned' }, 'the key for secrets is lost; a new one is made');
    this.#loop.wake();
  }

  async #look(): Promise<void> {
    if (this.#key) return;
    const { settings, log } = this.#options;
    const id = await settings.get(SETTING);
    const kept = this.#read();
    if (kept && (id === undefined || id === kept.id)) return this.#claim(kept);
    if (id === undefined) return this.#make();
    if (!this.#complained)
      log.warn(
        { event: 'secret.key-missing', key: id, found: kept?.id },
        'this coordinator does not have the key for secrets: it asks the others, and gives nobody secrets until then',
      );
    this.#complained = true;
    await this.#ask(id);
  }

  #read(): SecretKey | undefined {
    const key = this.#options.authority.readKey(FILE);
    return key && new SecretKey(key.export({ type: 'pkcs8', format: 'der' }).subarray(X25519.length));
  }

  #write(key: SecretKey): void {
    const der = Buffer.concat([X25519, key.export()]);
    this.#options.authority.writeKey(FILE, createPrivateKey({ key: der, format: 'der', type: 'pkcs8' }));
  }

  /** Kept before it is claimed: a key that is the mesh's must not die with this process. */
  async #make(): Promise<void> {
    const key = SecretKey.make();
    this.#write(key);
    await this.#claim(key);
    if (!this.#key) rmSync(join(this.#options.dataDir, 'ca', FILE), { force: true });
  }

  /** Of two coordinators that begin at once one is second, and asks the first. */
  async #claim(key: SecretKey): Promise<void> {
    if ((await this.#options.settings.claim(SETTING, key.id)) === key.id) this.#key = key;
  }

  async #ask(id: string): Promise<void> {
    const { coordinators, credential, authority, clock, log } = this.#options;
    for (const address of coordinators()) {
      try {
        const peer = { address, credential: credential(), meshId: authority.meshId, clock };
        const response = await callPeer<SecretServiceClient, ShareKeyResponse>(
          peer,
          SecretServiceClient,
          (client, ...rest) => client.shareKey({}, ...rest),
        );
        const key = new SecretKey(response.key);
        if (key.id !== id) throw new MeshError('CONFLICT', `it has another key (${key.id})`);
        this.#write(key);
        this.#key = key;
        return log.info({ event: 'secret.key-received', coordinator: address, key: id });
      } catch (err) {
        log.debug({ event: 'secret.key-refused', coordinator: address, err });
      }
    }
  }
}
