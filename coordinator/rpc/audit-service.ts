import type { AuditEntry as Entry } from '../../common/audit-chain.js';
import {
  type AuditEntry,
  type AuditServiceServer,
  AuditServiceService as Definition,
  type ListAuditRequest,
  type ListAuditResponse,
  type ReadAuditRequest,
  type ReadAuditResponse,
} from '../../proto/gen/mesh/v1/audit.js';
import type { AuditReader } from '../services/audit-reader.js';
import type { Gate } from './authorize.js';

const present = (entry: Entry): AuditEntry => ({
  ...entry,
  previous: Buffer.from(entry.previous, 'hex'),
  hash: Buffer.from(entry.hash, 'hex'),
});

export function makeAuditService(gate: Gate, { auditReader }: { auditReader: AuditReader }): AuditServiceServer {
  return {
    listAudit: gate.unary<ListAuditRequest, ListAuditResponse>(Definition.listAudit.path, async (query) => {
      const { entries, next } = await auditReader.list(query);
      return { items: entries.map(present), next };
    }),
    readAudit: gate.serverStream<ReadAuditRequest, ReadAuditResponse>(Definition.readAudit.path, async function* () {
      const { kept, coordinator } = auditReader;
      yield { entries: [], coordinator, kept: { seq: kept.seq, hash: Buffer.from(kept.hash, 'hex') } };
      for await (const page of auditReader.pages())
        yield { entries: page.map(present), coordinator: '', kept: undefined };
    }),
  };
}
