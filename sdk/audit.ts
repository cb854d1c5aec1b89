/** The audit for programs: its entries, and the proof that none was changed or dropped. */
import { type AuditEntry, type AuditHead, type ChainBreak, ChainReader } from '../common/audit-chain.js';
import type {
  AuditEntry as WireEntry,
  AuditHead as WireHead,
  AuditServiceService,
} from '../proto/gen/mesh/v1/audit.js';
import type { Api, CallOptions } from './api.js';

export interface AuditVerdict {
  /** In order, from the first on. */
  entries: number;
  /** Where what is in order ends. */
  head: AuditHead;
  /** The first entry that is not in order; undefined when all are. */
  broken: ChainBreak | undefined;
  /** What the coordinator that answered holds outside the database. */
  kept: AuditHead & { coordinator: string };
}

const hex = (bytes: Uint8Array): string => Buffer.from(bytes).toString('hex');

const toEntry = (entry: WireEntry): AuditEntry => ({
  ...entry,
  previous: hex(entry.previous),
  hash: hex(entry.hash),
});

const toHead = (head: WireHead | undefined): AuditHead => ({
  seq: head?.seq ?? 0,
  hash: hex(head?.hash ?? new Uint8Array()),
});

/**
 * Reads the whole chain and recomputes it here: nobody's word is taken for it. A page is held at a time.
 * @param expected a head that was kept elsewhere
 */
export async function verifyAudit(
  audit: Api<typeof AuditServiceService>,
  expected?: AuditHead,
  options: CallOptions & { onEntries?: (entries: number) => void } = {},
): Promise<AuditVerdict> {
  let kept = { ...toHead(undefined), coordinator: '' };
  let chain: ChainReader | undefined;
  for await (const message of audit.readAudit({}, options)) {
    if (!chain) {
      kept = { ...toHead(message.kept), coordinator: message.coordinator };
      chain = new ChainReader([
        { ...kept, by: `coordinator ${kept.coordinator}` },
        ...(expected ? [{ ...expected, by: 'whoever asks' }] : []),
      ]);
    }
    const reader = chain;
    if (!message.entries.every((entry) => reader.take(toEntry(entry)))) break;
    options.onEntries?.(chain.head.seq);
  }
  chain ??= new ChainReader();
  chain.end();
  return { entries: chain.head.seq, head: chain.head, broken: chain.broken, kept };
}

/** Details that are no JSON, because somebody wrote them past the coordinator, are shown as they are. */
function parseDetail(text: string): unknown {
  try {
    return JSON.parse(text) as unknown;
  } catch {
    return text;
  }
}

export type AuditShape = ReturnType<typeof auditShape>;

export function auditShape(entry: WireEntry) {
  const { seq, atUs, actor, address, certificate, action, target, detail, previous, hash } = entry;
  return {
    seq,
    at: new Date(atUs / 1000).toISOString(),
    ...{ actor, address, certificate, action, target },
    detail: parseDetail(detail),
    ...{ previous: hex(previous), hash: hex(hash) },
  };
}

export const verdictShape = ({ entries, head, broken, kept }: AuditVerdict) => ({
  ...{ verified: broken === undefined, entries, head, broken: broken ?? null, kept },
});
