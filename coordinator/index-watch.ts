/**
 * What `mesh-ca --dir` does in this coordinator's CA directory while it runs or stands still: certificates that were issued
 * there become known, and revoked ones are refused, within a second. The index is replaced as a whole, so it is read
 * without its lock, and only when it is another file than at the last look.
 */
import type { CaDirectory, IndexEntry } from '../ca/directory.js';
import type { Clock } from '../common/clock.js';
import { toMeshError } from '../common/errors.js';
import type { Service } from '../common/lifecycle.js';
import type { Logger } from '../common/log.js';
import { Loop } from '../common/loop.js';
import type { CertificateStore } from './ports.js';

const LOOK_MS = 1000;

export interface IndexWatchOptions {
  directory: CaDirectory;
  certificates: Pick<CertificateStore, 'record'>;
  /** Of one certificate. NOT_FOUND when that was done before. */
  revoke: (serial: string) => Promise<unknown>;
  clock: Clock;
  log: Logger;
}

export class IndexWatch implements Service {
  readonly name = 'index-watch';
  readonly #options: IndexWatchOptions;
  readonly #look: Loop;
  #stamp = '';
  /** Serials the database has, and whether it has them as revoked. */
  readonly #imported = new Map<string, boolean>();

  constructor(options: IndexWatchOptions) {
    this.#options = options;
    const { clock, log } = options;
    this.#look = new Loop({
      name: 'index-watch.look',
      clock,
      everyMs: LOOK_MS,
      turn: () => this.#import(),
      onError: (error) => log.warn({ event: 'ca-index.unread', err: error }, 'could not take over the CA index'),
    });
  }

  /** @throws MeshError DATA_DIR when the index is missing or damaged */
  async start(): Promise<void> {
    await this.#import();
    await this.#look.start();
  }

  async stop(): Promise<void> {
    await this.#look.stop();
  }

  async #import(): Promise<void> {
    const { directory } = this.#options;
    const stamp = directory.indexStamp;
    if (stamp === this.#stamp) return;
    for (const entry of directory.list())
      if (this.#imported.get(entry.serial) !== (entry.revokedAtMs !== undefined)) await this.#take(entry);
    this.#stamp = stamp;
  }

  async #take({ revokedAtMs, ...entry }: IndexEntry): Promise<void> {
    const { certificates, revoke } = this.#options;
    if (!this.#imported.has(entry.serial))
      await certificates.record({ ...entry, revokedAtMs: undefined, tokenId: undefined }, { sameHolder: true });
    if (revokedAtMs !== undefined)
      await revoke(entry.serial).catch((error: unknown) => {
        if (toMeshError(error).code !== 'NOT_FOUND') throw error;
      });
    this.#imported.set(entry.serial, revokedAtMs !== undefined);
  }
}
