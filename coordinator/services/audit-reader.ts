import type { AuditEntry, AuditHead } from '../../common/audit-chain.js';
import { MeshError } from '../../common/errors.js';
import type { AuditQuery, AuditStore } from '../ports.js';
import type { AuditWitness } from './audit-witness.js';

const LIMIT = 50;
const LIMIT_MAX = 1000;
/** About 200 KB a message. */
const PAGE = 500;

/** The audit for operators, from the store: every coordinator can answer. */
export class AuditReader {
  constructor(
    private readonly store: AuditStore,
    private readonly witness: AuditWitness,
    /** Of this coordinator. */
    readonly coordinator: string,
  ) {}

  /** What this coordinator holds outside the database. */
  get kept(): AuditHead {
    return this.witness.head;
  }

  /** The latest first. @throws MeshError USAGE */
  async list(query: Omit<AuditQuery, 'before'> & { cursor: string }): Promise<{ entries: AuditEntry[]; next: string }> {
    const limit = Math.min(query.limit || LIMIT, LIMIT_MAX);
    const before = query.cursor === '' ? undefined : Number(query.cursor);
    if (before !== undefined && !Number.isSafeInteger(before))
      throw new MeshError('USAGE', `"${query.cursor.slice(0, 40)}" is not a cursor of this list`);
    const given = (text: string | undefined) => text || undefined;
    const { actor, action, target, sinceMs, untilMs } = query;
    const filters = { actor: given(actor), action: given(action), target: given(target), sinceMs, untilMs };
    const found = await this.store.find({ ...filters, before, limit: limit + 1 });
    const entries = found.slice(0, limit);
    return { entries, next: found.length > limit ? String(entries.at(-1)?.seq) : '' };
  }

  /** The whole chain, a page at a time. */
  async *pages(): AsyncGenerator<AuditEntry[]> {
    for (let from = 1; ; ) {
      const page = await this.store.from(from, PAGE);
      if (page.length > 0) yield page;
      if (page.length < PAGE) return;
      from = (page.at(-1) as AuditEntry).seq + 1;
    }
  }
}
