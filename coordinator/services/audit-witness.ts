/**
 * What a coordinator remembers of the audit outside the database: the end of the chain as it last saw it, in the file
 * `audit.head` of its data directory. It follows the chain from there, entry by entry, and writes down a new end only when
 * everything up to it is in order; so the file never goes back, and entries that are dropped or replaced afterwards
 * are missed by everybody who compares (`mesh audit --verify`). Who changes the database changes no file, unless it is the
 * same machine's root.
 *
 * Every coordinator does this, whether it leads or not, once a second when there is something new. Where the chain is not
 * in order it says so in its log, every time it looks, and goes no further.
 */
import { type AuditHead, auditHash, CHAIN_START, type ChainBreak, ChainReader } from '../../common/audit-chain.js';
import type { Clock } from '../../common/clock.js';
import { readIfExists, writeFileAtomic } from '../../common/files.js';
import type { Service } from '../../common/lifecycle.js';
import type { Logger } from '../../common/log.js';
import { Loop } from '../../common/loop.js';
import type { AuditStore } from '../ports.js';

export interface AuditWitnessOptions {
  store: AuditStore;
  /** Where the head is kept; without one nothing is followed. */
  file: string | undefined;
  clock: Clock;
  log: Logger;
}

const EVERY_MS = 1000;
const PAGE = 500;

export class AuditWitness implements Service {
  readonly name = 'audit-witness';
  readonly #options: AuditWitnessOptions;
  readonly #loop: Loop;
  #head: AuditHead = CHAIN_START;
  #broken: ChainBreak | undefined;

  constructor(options: AuditWitnessOptions) {
    this.#options = options;
    this.#loop = new Loop({
      name: 'audit-witness.turn',
      clock: options.clock,
      everyMs: EVERY_MS,
      turn: () => this.look(),
      onError: (error) => options.log.warn({ event: 'audit.unwitnessed', err: error }),
    });
  }

  /** The last entry that was seen in order. */
  get head(): AuditHead {
    return this.#head;
  }

  /** What is wrong after it, as of the last look. */
  get broken(): ChainBreak | undefined {
    return this.#broken;
  }

  async start(): Promise<void> {
    const { file, log } = this.#options;
    if (file === undefined) return;
    const text = readIfExists(file);
    const kept = text === undefined ? CHAIN_START : parseHead(text);
    if (!kept) {
      this.#broken = { seq: 0, why: `${file} does not hold the head of a chain` };
      log.error(
        { event: 'audit.broken', ...this.#broken },
        'nothing is compared with it until it is mended or removed',
      );
      return;
    }
    this.#head = kept;
    await this.#loop.start();
  }

  async stop(): Promise<void> {
    await this.#loop.stop();
  }

  /** Follows the chain to its end, a page at a time. */
  async look(): Promise<void> {
    const { file, log } = this.#options;
    const { head, broken } = await this.#follow(this.#head);
    this.#broken = broken;
    if (broken) log.error({ event: 'audit.broken', ...broken }, 'the audit was tampered with; see mesh audit --verify');
    if (broken || head.seq === this.#head.seq) return;
    if (file !== undefined) writeFileAtomic(file, `${JSON.stringify(head)}\n`, 0o600);
    this.#head = head;
  }

  async #follow(kept: AuditHead): Promise<{ head: AuditHead; broken: ChainBreak | undefined }> {
    const { store } = this.#options;
    if (kept.seq > 0) {
      const [entry] = await store.from(kept.seq, 1);
      if (entry?.seq !== kept.seq) return { head: kept, broken: { seq: kept.seq, why: 'it is missing' } };
      if (entry.hash !== kept.hash || auditHash(entry) !== entry.hash)
        return { head: kept, broken: { seq: kept.seq, why: 'it, or one before it, was replaced' } };
    }
    const chain = new ChainReader([], kept);
    for (;;) {
      const page = await store.from(chain.head.seq + 1, PAGE);
      const inOrder = page.every((entry) => chain.take(entry));
      if (!inOrder || page.length < PAGE) return chain;
    }
  }
}

function parseHead(text: string): AuditHead | undefined {
  try {
    const { seq, hash } = JSON.parse(text) as Partial<AuditHead>;
    if (!Number.isSafeInteger(seq) || typeof hash !== 'string' || !/^[0-9a-f]{64}$/.test(hash)) return undefined;
    return { seq: seq as number, hash };
  } catch {
    return undefined;
  }
}
