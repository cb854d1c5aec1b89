import type { CertificateStore } from '../ports.js';
import type { Audit, AuditAction } from './audit.js';

/**
 * The same, for certificates that `Issuance` does not see: those of the CA directory, the first operator's, and the
 * coordinator's own renewed ones. One that is recorded again is not news.
 */
export function auditedCertificates(
  certificates: CertificateStore,
  audit: Audit,
  action: AuditAction & `certificate.${string}`,
): CertificateStore {
  let known: Set<string> | undefined;
  return {
    ...certificates,
    record: async (row, options) => {
      known ??= new Set((await certificates.list()).map(({ serial }) => serial));
      await certificates.record(row, options);
      if (known.has(row.serial)) return;
      known.add(row.serial);
      audit.note(audit.self, action, `${row.role}/${row.name}`, { serial: row.serial });
    },
  };
}
