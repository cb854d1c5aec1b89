/**
 * A backup: one file with a mesh's identity and state, made beside a running coordinator or without one. The rows come
 * first, in one snapshot of the database; then the files, so that what the rows speak of is there. The manifest is last,
 * with a digest of every part. The file gets its name when it is whole and on the disk.
 */
import { createHash, randomBytes } from 'node:crypto';
import { createWriteStream, existsSync, lstatSync, readdirSync, renameSync, rmSync } from 'node:fs';
import { type FileHandle, open } from 'node:fs/promises';
import { dirname, join, relative } from 'node:path';
import { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { filesOf } from '../../ca/layout.js';
import { withLock } from '../../ca/lock.js';
import type { Clock } from '../../common/clock.js';
import { DataLock } from '../../common/data-lock.js';
import { MeshError, systemCode } from '../../common/errors.js';
import { readIfExists, syncDirectory } from '../../common/files.js';
import { chainFromPem } from '../../common/identity/chain.js';
import { readMeshId } from '../../common/identity/check.js';
import { silentLogger } from '../../common/log.js';
import { packageVersion } from '../../common/package.js';
import type { Passphrase } from '../../common/passphrase.js';
import { runningConnection } from '../postgres/attach.js';
import { EmbeddedPostgres } from '../postgres/embedded.js';
import { fromConnection, fromUrl, type Target } from '../store/connection.js';
import { dumpRows, type RowSource } from '../store/rows.js';
import { encrypted } from './envelope.js';
import { DATABASE, FILES, FORMAT, MANIFEST, type Manifest } from './manifest.js';
import { FILE_PATHS, IDENTITY_PATHS, PASSING } from './paths.js';
import { tarEnd, tarEntry } from './tar.js';

export interface BackupOptions {
  dataDir: string;
  /** The file to make; it must not exist. */
  out: string;
  /** Encrypts it. */
  passphrase: Passphrase | undefined;
  /** The database of a coordinator that has none of its own. */
  databaseUrl: string | undefined;
  /** False leaves the rows out. */
  withDatabase: boolean;
  withFiles: boolean;
  clock: Clock;
}

/** Rows of a table are cut into parts, so that each part's length is known before it is written. */
const PART_BYTES = 4 * 2 ** 20;

/** @throws MeshError DATA_DIR when the directory is no coordinator's, CONFLICT when the file exists, DATABASE_DOWN */
export async function makeBackup(options: BackupOptions): Promise<Manifest> {
  const { dataDir, out } = options;
  const root = readIfExists(filesOf(join(dataDir, 'ca')).root);
  if (root === undefined)
    throw new MeshError('DATA_DIR', `there is no coordinator in ${dataDir} (ca/ca.crt is missing)`, {
      hint: "name its data directory with --data; 'mesh up' keeps it in coordinator/",
    });
  const meshId = readMeshId(chainFromPem(root)[0] ?? Buffer.alloc(0));
  if (existsSync(out))
    throw new MeshError('CONFLICT', `${out} exists already`, { hint: 'name another file with --out' });
  return withRows(options, async (source) => {
    const manifest: Manifest = {
      format: FORMAT,
      createdAt: new Date(options.clock.wallMs()).toISOString(),
      meshId,
      version: packageVersion,
      database: source ? { migration: source.migration, tables: source.tables } : null,
      withFiles: options.withFiles,
      parts: [],
    };
    const content = archive(options, manifest, source, root);
    await writeWhole(out, options.passphrase ? encrypted(content, options.passphrase) : content);
    return manifest;
  });
}

/** Runs `work` with the rows of the coordinator's database, which is started for it when it does not run. */
async function withRows<T>(options: BackupOptions, work: (source: RowSource | undefined) => Promise<T>): Promise<T> {
  const { dataDir, databaseUrl, clock } = options;
  if (!options.withDatabase) return work(undefined);
  const from = (target: Target) => dumpRows(target, work);
  if (databaseUrl !== undefined) return from(fromUrl(databaseUrl));
  const directory = join(dataDir, 'postgres');
  if (!existsSync(directory))
    throw new MeshError('USAGE', `the coordinator of ${dataDir} has no database of its own`, {
      hint: 'name the one it uses with --database-url, or leave the rows out with --no-database',
    });
  const running = await runningConnection(directory);
  if (running) return from(fromConnection(running));
  const lock = new DataLock(join(dataDir, 'coordinator.lock'), 'a coordinator');
  lock.acquire();
  const postgres = new EmbeddedPostgres({ directory, log: silentLogger, clock });
  try {
    await postgres.start();
    return await from(fromConnection(postgres.connection));
  } finally {
    await postgres.stop();
    lock.release();
  }
}

async function* archive(
  options: BackupOptions,
  manifest: Manifest,
  source: RowSource | undefined,
  root: string,
): AsyncGenerator<Buffer> {
  const { dataDir, withFiles, clock } = options;
  async function* part(name: string, mode: number, bytes: number, content: AsyncIterable<Buffer> | readonly Buffer[]) {
    const hash = createHash('sha256');
    async function* hashed() {
      for await (const chunk of content) {
        hash.update(chunk);
        yield chunk;
      }
    }
    yield* tarEntry({ name, mode, bytes }, hashed());
    manifest.parts.push({ name, bytes, sha256: hash.digest('hex') });
  }
  for (const table of source?.tables ?? []) {
    let number = 0;
    for await (const chunk of gathered(source!.rows(table)))
      yield* part(`${DATABASE}${table.name}/${String(number++).padStart(6, '0')}`, 0o600, chunk.length, [chunk]);
  }
  // Nobody may rewrite the CA's files between two of them; they are small.
  const identity = await withLock(filesOf(join(dataDir, 'ca')).lock, clock, () =>
    IDENTITY_PATHS.flatMap((path) => filesBelow(join(dataDir, path))).map((path) => ({
      path,
      mode: lstatSync(path).mode & 0o777,
      content: Buffer.from(readIfExists(path) ?? '', 'utf8'),
    })),
  );
  // The rows would speak of a root that the files do not have any more, and no coordinator starts on that.
  const rootPath = filesOf(join(dataDir, 'ca')).root;
  if (!identity.some(({ path, content }) => path === rootPath && content.equals(Buffer.from(root))))
    throw new MeshError('CONFLICT', 'the root of the mesh was replaced while the backup was made', {
      hint: 'make it again',
    });
  const nameOf = (path: string) => FILES + relative(dataDir, path).replaceAll('\\', '/');
  for (const { path, mode, content } of identity) yield* part(nameOf(path), mode, content.length, [content]);
  for (const path of withFiles ? FILE_PATHS.flatMap((top) => filesBelow(join(dataDir, top))) : []) {
    // Retention may have removed it; what is appended from now on is for the next backup.
    const file = await openIfThere(path);
    if (!file) continue;
    const { size, mode } = await file.stat();
    const content =
      size === 0 ? [] : (file.createReadStream({ end: size - 1, autoClose: false }) as AsyncIterable<Buffer>);
    yield* part(nameOf(path), mode & 0o777, size, content);
    await file.close();
  }
  const text = Buffer.from(`${JSON.stringify(manifest, null, 1)}\n`);
  yield* tarEntry({ name: MANIFEST, mode: 0o600, bytes: text.length }, Readable.from([text]));
  yield tarEnd();
}

async function openIfThere(path: string): Promise<FileHandle | undefined> {
  try {
    return await open(path);
  } catch (error) {
    if (systemCode(error) === 'ENOENT') return undefined;
    throw new MeshError('DATA_DIR', `cannot read ${path} (${systemCode(error)})`, {
      hint: 'run it as the user who owns it',
      cause: error,
    });
  }
}

/** Every plain file at or below a path, in order of name. */
function filesBelow(path: string): string[] {
  const stat = lstatSync(path, { throwIfNoEntry: false });
  if (stat?.isDirectory())
    return readdirSync(path)
      .sort()
      .flatMap((name) => filesBelow(join(path, name)));
  return stat?.isFile() && !PASSING.test(path) ? [path] : [];
}

async function* gathered(source: AsyncIterable<Buffer>): AsyncGenerator<Buffer> {
  let chunks: Buffer[] = [];
  let bytes = 0;
  for await (const chunk of source) {
    chunks.push(chunk);
    bytes += chunk.length;
    if (bytes < PART_BYTES) continue;
    yield Buffer.concat(chunks);
    [chunks, bytes] = [[], 0];
  }
  if (bytes > 0) yield Buffer.concat(chunks);
}

/** The file appears with all of its content or not at all, for its owner only. */
async function writeWhole(path: string, content: AsyncIterable<Buffer>): Promise<void> {
  const temporary = `${path}.${randomBytes(4).toString('hex')}.tmp`;
  try {
    await pipeline(content, createWriteStream(temporary, { flags: 'wx', mode: 0o600, flush: true }));
    renameSync(temporary, path);
    syncDirectory(dirname(path));
  } catch (error) {
    if (error instanceof MeshError) throw error;
    const code = systemCode(error);
    const full = code === 'ENOSPC';
    throw new MeshError(full ? 'DISK_FULL' : 'DATA_DIR', `cannot write ${path} (${code})`, {
      hint: full ? 'free some space, or name another disk with --out' : 'name a place you may write to with --out',
      cause: error,
    });
  } finally {
    rmSync(temporary, { force: true });
  }
}
