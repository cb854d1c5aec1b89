import { z } from 'zod';
import { MeshError } from '../common/errors.js';
import { readIfExists, writeFileAtomic } from '../common/files.js';
import { ROLES, type Role } from '../common/identity/identity.js';
import { filesOf } from './layout.js';

/** How long the index remembers a certificate after its end. */
const REMEMBER_MS = 90 * 86_400_000;

const entrySchema = z.object({
  serial: z.string(),
  role: z.enum(ROLES),
  name: z.string(),
  fingerprint: z.string(),
  publicKeyDigest: z.string(),
  notBeforeMs: z.number(),
  notAfterMs: z.number(),
  revokedAtMs: z.number().optional(),
  lifetimeMs: z.number().optional(),
  root: z.string().optional(),
  trusts: z.array(z.string()).readonly().optional(),
  /** Leaf, then intermediate. */
  pem: z.string(),
});
const indexSchema = z.object({
  version: z.literal(1),
  meshId: z.string(),
  certificates: z.array(entrySchema),
  /** Of the latest revocation list. */
  crlNumber: z.number().optional(),
});

export type IndexEntry = z.infer<typeof entrySchema>;
export type Index = z.infer<typeof indexSchema>;

/** @throws MeshError DATA_DIR when it is missing or damaged */
export function loadIndex(directory: string): Index {
  const path = filesOf(directory).index;
  const text = readIfExists(path);
  if (text === undefined)
    throw new MeshError('DATA_DIR', `the index ${path} is missing`, { hint: 'restore it from a backup' });
  try {
    return indexSchema.parse(JSON.parse(text));
  } catch (error) {
    throw new MeshError('DATA_DIR', `the index ${path} is damaged`, { hint: 'restore it from a backup', cause: error });
  }
}

/** Replaces the index; what ended long ago is forgotten. The caller holds the directory's lock. */
export function saveIndex(directory: string, index: Index, nowMs: number): void {
  const certificates = index.certificates.filter(({ notAfterMs }) => notAfterMs + REMEMBER_MS > nowMs);
  writeFileAtomic(filesOf(directory).index, `${JSON.stringify({ ...index, certificates }, null, 1)}\n`, 0o600);
}

/**
 * Every certificate the directory has issued, oldest first; what the coordinator imports when it starts.
 * @throws MeshError DATA_DIR when it is missing or damaged
 */
export const readIndex = (directory: string): IndexEntry[] => loadIndex(directory).certificates;

/** Whether a certificate stands for this role and name now: neither revoked nor expired. */
export const isHolder = (entry: IndexEntry, role: Role, name: string, nowMs: number): boolean =>
  entry.role === role && entry.name === name && entry.revokedAtMs === undefined && entry.notAfterMs > nowMs;
