/** Secrets as they are stored: sealed. */
export interface SecretRef {
  /** "operator/NAME", "submitter/NAME" or "everyone". */
  owner: string;
  name: string;
}

export interface SecretRow extends SecretRef {
  sizeBytes: number;
  /** It can be given in a variable: UTF-8 without NUL. */
  isText: boolean;
  /** As "role/name". */
  setBy: string;
  setAtMs: number;
}

export interface SealedSecret extends SecretRef {
  /** Drawn anew with every value. */
  revision: string;
  /** Which key it is sealed with. */
  keyId: string;
  sealed: Uint8Array;
  sizeBytes: number;
  isText: boolean;
}

export interface SecretStore {
  /**
   * Makes it or replaces its value; undefined when that would be one more than `countMax` of this owner. Callers that
   * race for the last places may exceed it by as many as there are.
   */
  put(secret: SealedSecret, setBy: string, countMax: number): Promise<SecretRow | undefined>;
  /** Of these owners, or of all; by name. */
  list(owners?: readonly string[]): Promise<SecretRow[]>;
  /** False when there was none. */
  remove(key: SecretRef): Promise<boolean>;
  /** Those of them that there are. */
  read(keys: readonly SecretRef[]): Promise<SealedSecret[]>;
}
