/**
 * A mesh that goes on from a backup says so in its own audit, before anything else it does: whoever reads the chain sees
 * that what came after the backup is missing. From the restore until the coordinator is first started on it a file stands
 * for the entry, so that there is one also where the rows come from elsewhere. A crash at that moment leaves two entries,
 * never none.
 */
import { rmSync } from 'node:fs';
import { join } from 'node:path';
import { readIfExists, syncDirectory, writeFileAtomic } from '../../common/files.js';

const FILE = 'restore.unaudited';

/** @param backupAt when the backup was made */
export const markRestored = (dataDir: string, backupAt: string): void =>
  writeFileAtomic(join(dataDir, FILE), `${backupAt}\n`);

/** Calls `record`, which makes the entry, if one is due, and forgets about it once that has resolved. */
export async function auditRestored(dataDir: string, record: (backupAt: string) => Promise<void>): Promise<void> {
  const path = join(dataDir, FILE);
  const backupAt = readIfExists(path)?.trim();
  if (backupAt === undefined) return;
  await record(backupAt);
  rmSync(path);
  syncDirectory(dataDir);
}
