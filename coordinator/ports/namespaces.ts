/** Groups of submitters, and what each may take of the mesh. */

import type { Quotas } from '../core/quotas.js';

export interface NamespaceRow {
  name: string;
  quotas: Quotas;
  /** Submitters, in order. */
  members: string[];
}

export interface NamespaceStore {
  /** All, by name; `default` is always there and has no members of its own. */
  list(): Promise<NamespaceRow[]>;
  /**
   * Makes the namespace or changes it; a submitter is a member of one, and leaves the one it was in. Those in `without`
   * that are members go to `default`.
   */
  set(row: { name: string; quotas: Quotas; members: readonly string[]; without: readonly string[] }): Promise<void>;
  /** Its members are in `default` afterwards. False when there is none. */
  remove(name: string): Promise<boolean>;
  /** Bytes of the files that its retained jobs were given. */
  storedBytes(name: string): Promise<number>;
}

/** The namespace of everybody who is in no other. */
export const DEFAULT_NAMESPACE = 'default';
