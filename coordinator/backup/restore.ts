/**
 * From a backup to a data directory that a coordinator can be started on. The whole backup is read and checked before
 * anything is written. What is written stays only when all of it was: a file says so meanwhile, with which no coordinator
 * starts. The coordinator that was lost must not run any more: both would be it.
 */
import { createHash } from 'node:crypto';
import { createReadStream, createWriteStream, existsSync, readdirSync, rmSync } from 'node:fs';
import { open } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { pipeline } from 'node:stream/promises';
import type { Clock } from '../../common/clock.js';
import { MeshError, systemCode } from '../../common/errors.js';
import { makePrivateDir, removeIfEmpty, syncDirectory, writeFileAtomic } from '../../common/files.js';
import { silentLogger } from '../../common/log.js';
import type { Passphrase } from '../../common/passphrase.js';
import { EmbeddedPostgres } from '../postgres/embedded.js';
import { fromConnection, fromUrl, type Target } from '../store/connection.js';
import { migrate } from '../store/migrate.js';
import { isUnused, loadRows, type TableShape } from '../store/rows.js';
import { decrypted, isEncrypted } from './envelope.js';
import { DATABASE, FILES, MANIFEST, type Manifest, parseManifest } from './manifest.js';
import { FILE_PATHS, IDENTITY_PATHS, UNFINISHED } from './paths.js';
import { markRestored } from './restored.js';
import { damaged, readTar } from './tar.js';

export interface RestoreOptions {
  file: string;
  /** Must be empty or not exist. */
  dataDir: string;
  /** Asked for only when the backup is encrypted. */
  passphrase: () => Promise<Passphrase>;
  /** An empty database to put the rows into; the directory's own when absent. */
  databaseUrl: string | undefined;
  clock: Clock;
}

const MANIFEST_BYTES_MAX = 256 * 2 ** 20;
const MIGRATE_ALL = undefined;

type Entries = ReturnType<typeof readTar>;

/** @throws MeshError DATA_DIR when the backup is damaged or the directory not empty, PASSPHRASE, DATABASE_NEWER */
export async function restoreBackup(options: RestoreOptions): Promise<Manifest> {
  const { file, dataDir } = options;
  const isNew = !existsSync(dataDir);
  if (!isNew && readdirSync(dataDir).length > 0)
    throw new MeshError('DATA_DIR', `${dataDir} is not empty`, { hint: 'restore into a new directory with --data' });
  const passphrase = (await startsEncrypted(file)) ? await options.passphrase() : undefined;
  const entries = (): Entries => {
    const bytes = createReadStream(file, { highWaterMark: 2 ** 20 }) as AsyncIterable<Buffer>;
    return readTar(passphrase ? decrypted(bytes, passphrase) : bytes);
  };
  const manifest = await checked(entries());
  makePrivateDir(dataDir);
  writeFileAtomic(join(dataDir, UNFINISHED), `from ${file}\n`);
  try {
    await writeFiles(entries(), dataDir);
    if (manifest.database) await writeRows(manifest.database, entries, options);
    markRestored(dataDir, manifest.createdAt);
    rmSync(join(dataDir, UNFINISHED));
    syncDirectory(dataDir);
  } catch (error) {
    for (const name of readdirSync(dataDir)) rmSync(join(dataDir, name), { recursive: true, force: true });
    if (isNew) removeIfEmpty(dataDir);
    throw error;
  }
  return manifest;
}

async function startsEncrypted(file: string): Promise<boolean> {
  try {
    const handle = await open(file);
    try {
      return isEncrypted((await handle.read(Buffer.alloc(64), 0, 64, 0)).buffer);
    } finally {
      await handle.close();
    }
  } catch (error) {
    throw new MeshError('DATA_DIR', `cannot read the backup ${file} (${systemCode(error)})`, {
      hint: 'name the file that mesh backup made',
      cause: error,
    });
  }
}

/** Reads all of it; what the manifest says is there, in that order, and nothing else. @throws MeshError DATA_DIR */
async function checked(entries: Entries): Promise<Manifest> {
  const found: Manifest['parts'] = [];
  let text: string | undefined;
  for await (const { name, bytes, content } of entries) {
    if (text !== undefined) throw damaged('something follows its manifest');
    if (name === MANIFEST) {
      if (bytes > MANIFEST_BYTES_MAX) throw damaged('its manifest is too large');
      const chunks: Buffer[] = [];
      for await (const chunk of content) chunks.push(chunk);
      text = Buffer.concat(chunks).toString();
      continue;
    }
    if (name.startsWith(FILES)) pathOf(name);
    const hash = createHash('sha256');
    for await (const chunk of content) hash.update(chunk);
    found.push({ name, bytes, sha256: hash.digest('hex') });
  }
  if (text === undefined) throw damaged('it has no manifest');
  const manifest = parseManifest(text);
  manifest.parts.forEach((part, i) => {
    if (part.name !== found[i]?.name) throw damaged(`${part.name} is missing`);
    if (part.sha256 !== found[i]?.sha256) throw damaged(`${part.name} was changed`);
  });
  if (found.length > manifest.parts.length) throw damaged('more is in it than its manifest says');
  for (const { name } of manifest.parts) if (!name.startsWith(FILES)) tableOf(name, manifest.database?.tables ?? []);
  return manifest;
}

/** The relative path of a file's part; never one that a backup does not hold. @throws MeshError DATA_DIR */
function pathOf(name: string): string {
  const path = name.slice(FILES.length);
  const segments = path.split('/');
  const isPlain = segments.every((segment) => /^[A-Za-z0-9_-][A-Za-z0-9_.-]*$/.test(segment));
  if (!isPlain || ![...IDENTITY_PATHS, ...FILE_PATHS].includes(segments[0] as string))
    throw damaged(`it would write ${JSON.stringify(path)}`);
  return path;
}

function tableOf(name: string, tables: readonly TableShape[]): TableShape {
  const table = tables.find((one) => name.startsWith(`${DATABASE}${one.name}/`));
  if (!table) throw damaged(`${JSON.stringify(name)} is no part of a backup`);
  return table;
}

async function writeFiles(entries: Entries, dataDir: string): Promise<void> {
  for await (const { name, mode, content } of entries) {
    if (!name.startsWith(FILES)) {
      await exhaust(content);
      continue;
    }
    const path = join(dataDir, pathOf(name));
    makePrivateDir(dirname(path));
    await pipeline(content, createWriteStream(path, { flags: 'wx', mode: mode & 0o777, flush: true }));
  }
}

async function exhaust(content: AsyncIterable<Buffer>): Promise<void> {
  for await (const _ of content);
}

async function writeRows(
  { migration, tables }: NonNullable<Manifest['database']>,
  entries: () => Entries,
  { dataDir, databaseUrl, clock }: RestoreOptions,
): Promise<void> {
  const into = async (target: Target): Promise<void> => {
    await migrate(target, silentLogger, MIGRATE_ALL, MIGRATE_ALL, migration);
    await loadRows(target, tables, rowsIn(entries(), tables));
    await migrate(target, silentLogger);
  };
  if (databaseUrl !== undefined) {
    const target = fromUrl(databaseUrl);
    if (!(await isUnused(target)))
      throw new MeshError('CONFLICT', 'the database is in use already', { hint: 'make an empty one and name it' });
    return into(target);
  }
  const postgres = new EmbeddedPostgres({ directory: join(dataDir, 'postgres'), log: silentLogger, clock });
  try {
    await postgres.start();
    await into(fromConnection(postgres.connection));
  } finally {
    await postgres.stop();
  }
}

/** Each table that has rows, with all of its parts one after the other. */
async function* rowsIn(
  entries: Entries,
  tables: readonly TableShape[],
): AsyncGenerator<[TableShape, AsyncIterable<Buffer>]> {
  let next = await entries.next();
  const isRows = () => next.done !== true && next.value.name.startsWith(DATABASE);
  while (isRows()) {
    const table = tableOf((next.value as { name: string }).name, tables);
    async function* rows(): AsyncGenerator<Buffer> {
      while (isRows() && tableOf(next.value!.name, tables) === table) {
        yield* next.value!.content;
        next = await entries.next();
      }
    }
    yield [table, rows()];
  }
  // What follows is files.
  if (next.done !== true) await exhaust(next.value.content);
  for await (const { content } of entries) await exhaust(content);
}
