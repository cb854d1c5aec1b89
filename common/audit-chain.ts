/**
 * The chain of the audit. Each entry carries the hash of the entry before it (64 zeros before the first) and
 *
 *     hash = SHA-256( previous, 32 bytes ‖ seq ‖ at ‖ actor ‖ address ‖ certificate ‖ action ‖ target ‖ detail )
 *
 * with every field but the first written as its length in bytes, a colon, its UTF-8 and a comma, so that no two entries
 * have the same encoding; `seq` and `at` (microseconds since 1970) in decimal, `detail` the JSON text as it is stored.
 * The database computes the same in `audit_hash` (migrations/0007_audit_chain.sql), and a test compares the two.
 *
 * There is no secret in it. It shows that an entry was changed, dropped or put in between, to whoever knows a later
 * hash; the head is therefore kept outside the database too.
 */
import { createHash } from 'node:crypto';

export interface AuditEntry {
  /** From 1, without gaps. */
  seq: number;
  /** Microseconds since 1970. */
  atUs: number;
  /** `role/name` of a certificate, `token/ID`, or `nobody`. */
  actor: string;
  /** Where the call came from; empty for what a coordinator did by itself. */
  address: string;
  /** The serial of the certificate it came with; empty without one. */
  certificate: string;
  action: string;
  target: string;
  /** JSON, an object. */
  detail: string;
  /** Of the entry before, lower-case hex. */
  previous: string;
  hash: string;
}

/** Where a chain ends: its last entry, or what an empty one has. */
export interface AuditHead {
  seq: number;
  /** Lower-case hex. */
  hash: string;
}

export const CHAIN_START: AuditHead = { seq: 0, hash: '0'.repeat(64) };

/** An entry that is not what it was, or not where it was. */
export interface ChainBreak {
  seq: number;
  why: string;
}

export function auditHash(entry: Omit<AuditEntry, 'hash'>): string {
  const { seq, atUs, actor, address, certificate, action, target, detail } = entry;
  const hash = createHash('sha256').update(Buffer.from(entry.previous, 'hex'));
  for (const field of [String(seq), String(atUs), actor, address, certificate, action, target, detail])
    hash.update(`${Buffer.byteLength(field)}:${field},`);
  return hash.digest('hex');
}

/** What is wrong with `entry` as the one that follows `head`; undefined when nothing is. */
export function breakAt(head: AuditHead, entry: AuditEntry): ChainBreak | undefined {
  const expected = head.seq + 1;
  if (entry.seq > expected) return { seq: expected, why: 'it is missing' };
  if (entry.seq < expected) return { seq: entry.seq, why: 'it is there a second time' };
  if (auditHash(entry) !== entry.hash) return { seq: entry.seq, why: 'it was changed: its hash is of something else' };
  if (entry.previous !== head.hash)
    return {
      seq: entry.seq,
      why: 'it does not follow the entry before it: that one, or all from here on, was replaced',
    };
  return undefined;
}

/**
 * Follows a chain entry by entry, in constant memory, and compares it with heads that were kept elsewhere.
 * The first break ends it.
 */
export class ChainReader {
  #head: AuditHead;
  #broken: ChainBreak | undefined;
  readonly #kept: (AuditHead & { by: string })[];

  constructor(kept: readonly (AuditHead & { by: string })[] = [], from: AuditHead = CHAIN_START) {
    this.#head = from;
    this.#kept = [...kept].sort((a, b) => a.seq - b.seq);
  }

  /** The last entry that is in order. */
  get head(): AuditHead {
    return this.#head;
  }

  get broken(): ChainBreak | undefined {
    return this.#broken;
  }

  /** False when it need not be given any more. */
  take(entry: AuditEntry): boolean {
    this.#broken ??= breakAt(this.#head, entry) ?? this.#missed(entry);
    if (this.#broken) return false;
    this.#head = { seq: entry.seq, hash: entry.hash };
    return true;
  }

  #missed({ seq, hash }: AuditEntry): ChainBreak | undefined {
    const kept = this.#kept.find((head) => head.seq === seq && head.hash !== hash);
    return kept && { seq, why: `it is not the entry that ${kept.by} holds: this one, or one before it, was replaced` };
  }

  /** The chain ended here. */
  end(): void {
    const missed = this.#kept.find((kept) => kept.seq > this.#head.seq);
    if (missed)
      this.#broken ??= { seq: this.#head.seq + 1, why: `it is missing: ${missed.by} holds entry ${missed.seq}` };
  }
}
