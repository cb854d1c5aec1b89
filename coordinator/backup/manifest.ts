/** The last file of a backup: what is in it, with a digest of every part. Without it a backup is cut off. */
import { z } from 'zod';
import { damaged } from './tar.js';

export const FORMAT = 1;
export const MANIFEST = 'manifest.json';
/** Parts below this prefix are files of the data directory. */
export const FILES = 'files/';
/** `database/TABLE/NNNNNN`: a table's rows in COPY's text format, in order. */
export const DATABASE = 'database/';

const schema = z.object({
  format: z.literal(FORMAT),
  createdAt: z.iso.datetime(),
  meshId: z.string(),
  /** Of the program that made it. */
  version: z.string(),
  /** Null when the rows are not in it. */
  database: z
    .object({
      migration: z.string(),
      tables: z.array(z.object({ name: z.string(), columns: z.array(z.string()).min(1) })).min(1),
    })
    .nullable(),
  /** Whether staged files and the output of tasks are in it. */
  withFiles: z.boolean(),
  parts: z.array(z.object({ name: z.string(), bytes: z.number().int().nonnegative(), sha256: z.string() })),
});

export type Manifest = z.infer<typeof schema>;

/** @throws MeshError DATA_DIR */
export function parseManifest(text: string): Manifest {
  try {
    return schema.parse(JSON.parse(text));
  } catch {
    throw damaged(`its manifest is not of format ${FORMAT}`);
  }
}
