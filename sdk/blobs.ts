/**
 * Files on their way to the nodes: hashed as streams, asked for by digest, and only what the coordinator lacks is sent,
 * many blobs on one stream. Memory is one chunk per blob in flight, and one short record per distinct file.
 */
import { createHash } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { stat } from 'node:fs/promises';
import { MeshError, systemCode } from '../common/errors.js';
import type { MeshServiceService, PutBlobRequest } from '../proto/gen/mesh/v1/mesh.js';
import type { Api } from './api.js';

export const CHUNK_BYTES = 256 * 1024;
/** Digests asked about at a time. */
const BATCH_FILES = 1000;
/** Files read at the same time while hashing. */
const HASHING_MAX = 8;

export interface StoredFile {
  /** SHA-256, lower-case hex. */
  digest: string;
  sizeBytes: number;
  executable: boolean;
}

export interface UploadProgress {
  files: number;
  /** Bytes that had to be sent so far; what the coordinator already had is not counted. */
  sentBytes: number;
}

type BlobApi = Pick<Api<typeof MeshServiceService>, 'missingBlobs' | 'putBlob'>;

/** @throws MeshError BAD_SPEC that names the file when it cannot be read or is no regular file */
export async function hashFile(path: string): Promise<StoredFile> {
  try {
    const info = await stat(path);
    if (!info.isFile()) throw new MeshError('BAD_SPEC', `${path} is not a regular file`, { hint: 'name files only' });
    const hash = createHash('sha256');
    let sizeBytes = 0;
    for await (const chunk of createReadStream(path, { highWaterMark: CHUNK_BYTES }) as AsyncIterable<Buffer>) {
      hash.update(chunk);
      sizeBytes += chunk.length;
    }
    return { digest: hash.digest('hex'), sizeBytes, executable: (info.mode & 0o111) !== 0 };
  } catch (error) {
    throw unreadable(path, error);
  }
}

function unreadable(path: string, error: unknown): MeshError {
  if (error instanceof MeshError) return error;
  return new MeshError('BAD_SPEC', `cannot read ${path} (${systemCode(error) ?? 'unknown'})`, {
    hint: 'is it there, and may you read it?',
    cause: error,
  });
}

/** Makes sure that the coordinator holds every file; returns how each is known there, by local path. */
export async function uploadFiles(
  mesh: BlobApi,
  paths: Iterable<string>,
  onProgress: (progress: UploadProgress) => void = () => undefined,
): Promise<Map<string, StoredFile>> {
  const stored = new Map<string, StoredFile>();
  const progress: UploadProgress = { files: 0, sentBytes: 0 };
  for (const batch of batches(new Set(paths), BATCH_FILES)) {
    await hashAll(batch, stored);
    const pathByDigest = new Map(batch.map((path) => [stored.get(path)!.digest, path]));
    const missing = (await mesh.missingBlobs({ digests: [...pathByDigest.keys()] })).digests;
    if (missing.length > 0) {
      const sources = missing.flatMap((digest) => {
        const path = pathByDigest.get(digest);
        return path === undefined ? [] : [{ digest, path }];
      });
      const sent = (bytes: number) => {
        progress.sentBytes += bytes;
        onProgress(progress);
      };
      await mesh.putBlob(blobMessages(sources, sent));
    }
    progress.files += batch.length;
    onProgress(progress);
  }
  return stored;
}

async function hashAll(paths: readonly string[], into: Map<string, StoredFile>): Promise<void> {
  const waiting = paths.values();
  const worker = async () => {
    for (const path of waiting) into.set(path, await hashFile(path));
  };
  await Promise.all(Array.from({ length: HASHING_MAX }, worker));
}

/** The messages of one PutBlob stream: the digest on the first of each blob, at least one message per blob. */
async function* blobMessages(
  sources: readonly { digest: string; path: string }[],
  onSent: (bytes: number) => void,
): AsyncGenerator<PutBlobRequest> {
  for (const { digest, path } of sources) {
    const hash = createHash('sha256');
    let first = true;
    try {
      for await (const data of createReadStream(path, { highWaterMark: CHUNK_BYTES }) as AsyncIterable<Buffer>) {
        hash.update(data);
        yield { digest: first ? digest : '', data };
        onSent(data.length);
        first = false;
      }
    } catch (error) {
      throw unreadable(path, error);
    }
    if (first) yield { digest, data: Buffer.alloc(0) };
    if (hash.digest('hex') !== digest)
      throw new MeshError('BAD_SPEC', `${path} changed while it was being sent`, { hint: 'submit again' });
  }
}

function* batches<T>(items: Iterable<T>, size: number): Generator<T[]> {
  let batch: T[] = [];
  for (const item of items) {
    batch.push(item);
    if (batch.length < size) continue;
    yield batch;
    batch = [];
  }
  if (batch.length > 0) yield batch;
}
