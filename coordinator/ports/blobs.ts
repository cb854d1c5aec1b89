/** Staged files: what is known of them, and their bytes where the database keeps those. */

export interface BlobStore {
  /** Of those that are stored. */
  sizes(digests: string[]): Promise<Map<string, number>>;
  /** Stored now; known ones count as used now. */
  record(blobs: readonly { digest: string; sizeBytes: number }[]): Promise<void>;
  unusedSince(ms: number, limit: number): Promise<string[]>;
  /** Sizes of those that are stored, which count as used now; that is written at most once an hour for each. */
  use(digests: string[]): Promise<Map<string, number>>;
  forget(digests: string[]): Promise<void>;
}

/** Bytes of stored files in parts of BLOB_PART_BYTES, the last one shorter; an empty file has one empty part. */
export interface BlobContentStore {
  /** Which of these are not there as a whole. */
  absent(digests: string[]): Promise<string[]>;
  /** Part 0 last: it says that the others are there. Repeating is harmless. */
  put(digest: string, part: number, bytes: Uint8Array): Promise<void>;
  get(digest: string, part: number): Promise<Buffer | undefined>;
}

export const BLOB_PART_BYTES = 1 << 20;
