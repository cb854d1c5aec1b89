import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { systemClock } from '../common/clock.js';
import { silentLogger } from '../common/log.js';
import { EmbeddedPostgres } from '../coordinator/postgres/embedded.js';
import { DUMP_FILE, dumpSchema } from '../coordinator/store/dump.js';
import { openStore } from '../coordinator/store/index.js';

/** What the migrations add up to in a new database: printed, or with `--write` put into migrations/schema.sql. */
const directory = mkdtempSync(join(tmpdir(), 'mesh-dump-'));
const embedded = new EmbeddedPostgres({ directory, log: silentLogger, clock: systemClock });
try {
  await embedded.start();
  const store = await openStore({ connection: embedded.connection, log: silentLogger, clock: systemClock });
  await store.migrate();
  const text = await dumpSchema(store.database.kysely);
  await store.close();
  if (process.argv.includes('--write')) writeFileSync(DUMP_FILE, text);
  else process.stdout.write(text);
} finally {
  await embedded.stop();
  rmSync(directory, { recursive: true, force: true });
}
