/** What every implementation of the Store port (coordinator/ports.ts) does; each has a test file that calls this. */
import { copiesConform } from './copies.js';
import { jobsConform } from './jobs.js';
import { leaderConforms } from './leader.js';
import { namespacesConform } from './namespaces.js';
import { secretsConform } from './secrets.js';
import type { Subject } from './subject.js';
import { tasksConform } from './tasks.js';

export function storeConforms(subject: Subject): void {
  jobsConform(subject);
  tasksConform(subject);
  leaderConforms(subject);
  copiesConform(subject);
  namespacesConform(subject);
  secretsConform(subject);
}
