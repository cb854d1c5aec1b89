import { finding } from '../../../common/finding.js';
import { DEFAULT_NAMESPACE } from '../../ports.js';
import type { Check } from './check.js';

export const database: Check = ({ databaseWarning }) =>
  databaseWarning === undefined
    ? []
    : [
        finding(
          'database.tls',
          'weak',
          databaseWarning,
          'give --database-url sslmode=verify-full, with sslrootcert=FILE for a CA of your own',
        ),
      ];

export const quotas: Check = async ({ store }) => {
  const everybody = (await store.namespaces.list()).find(({ name }) => name === DEFAULT_NAMESPACE);
  const bounded = Object.values(everybody?.quotas ?? {}).some((quota) => quota !== undefined);
  if (bounded) return [];
  return [
    finding(
      'quotas.unlimited',
      'notice',
      'a submitter of the default namespace may take as much as there is',
      'mesh namespace set default --queued 100000 --bytes 100GiB',
    ),
  ];
};

export const audit: Check = ({ witness }) =>
  witness.broken === undefined
    ? []
    : [
        finding(
          'audit.chain',
          'problem',
          `the audit is not in order at entry ${witness.broken.seq}: ${witness.broken.why}`,
          'mesh audit --verify, and find out who writes to the database',
        ),
      ];
