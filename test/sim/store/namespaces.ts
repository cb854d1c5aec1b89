/** Namespaces, as coordinator/store/namespaces.ts has them in SQL. */
import { NO_QUOTAS } from '../../../coordinator/core/quotas.js';
import { DEFAULT_NAMESPACE, type NamespaceStore } from '../../../coordinator/ports.js';
import type { RunStatement } from './memory-store.js';
import type { Tables } from './tables.js';

export function namespaceStore(tables: Tables, read: RunStatement, write: RunStatement): NamespaceStore {
  const leave = (submitters: readonly string[]) => {
    for (const row of tables.namespaces.values())
      row.members = row.members.filter((member) => !submitters.includes(member));
  };
  return {
    list: () =>
      read('namespaces.list', () =>
        structuredClone([...tables.namespaces.values()].sort((a, b) => (a.name < b.name ? -1 : 1))),
      ),
    set: ({ name, quotas, members, without }) =>
      write('namespaces.set', () => {
        const row = tables.namespaces.get(name) ?? { name, quotas: NO_QUOTAS, members: [] };
        tables.namespaces.set(name, row);
        row.quotas = { ...quotas };
        row.members = row.members.filter((member) => !without.includes(member));
        leave(members);
        if (name !== DEFAULT_NAMESPACE) row.members = [...row.members, ...members].sort();
      }),
    remove: (name) => write('namespaces.remove', () => tables.namespaces.delete(name)),
    storedBytes: (name) =>
      read('namespaces.storedBytes', () =>
        [...tables.jobs.values()].reduce((sum, job) => sum + (job.namespace === name ? job.stagedBytes : 0), 0),
      ),
  };
}
