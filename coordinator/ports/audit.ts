import type { AuditEntry, AuditHead } from '../../common/audit-chain.js';

/** An entry before it has its place in the chain. */
export type NewAuditEntry = Omit<AuditEntry, 'seq' | 'previous' | 'hash'>;

export interface AuditQuery {
  /** Of this actor exactly; all of a role with `role/`. */
  actor?: string | undefined;
  /** This action exactly; all of a kind with `kind.`. */
  action?: string | undefined;
  target?: string | undefined;
  sinceMs?: number | undefined;
  untilMs?: number | undefined;
  /** Only entries before this one. */
  before?: number | undefined;
  limit: number;
}

/** Append-only. Nothing removes an entry, retention neither. */
export interface AuditStore {
  /**
   * Puts entries at the end of the chain; returns its head.
   * @param again the answer to the same call was lost: what it wrote is not written a second time
   */
  append(entries: readonly NewAuditEntry[], again: boolean): Promise<AuditHead>;
  /** Entries from `seq` on, in the order of the chain. */
  from(seq: number, limit: number): Promise<AuditEntry[]>;
  /** The latest first. */
  find(query: AuditQuery): Promise<AuditEntry[]>;
}
