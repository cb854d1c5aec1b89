/** Which root the mesh stands on. */

/**
 * - `steady`: there is one root. Left by `mesh-ca rotate`.
 * - `spreading`: another root was made, and everybody is told to trust both. Left once everybody who is there does.
 * - `moving`: issuers are signed by the other root, and everybody gets a certificate of its chain. Coordinators still
 *   present the old chain, so that whoever was away finds the way in. Left by `mesh-ca rotate finish`.
 */
export type TrustPhase = 'steady' | 'spreading' | 'moving';

export interface TrustRow {
  /** Rises with every step. */
  generation: number;
  phase: TrustPhase;
  /** PEM of the root whose chain coordinators present and which tokens pin. */
  root: string;
  /** PEM of the one that takes over; undefined when there is none. */
  nextRoot: string | undefined;
  /** The signature of the present root's key over it, base64 (ca/next-root.ts). */
  nextRootEndorsement: string | undefined;
  startedAtMs: number | undefined;
}

export interface TrustStore {
  /** What holds; of a new mesh, steady on this root. */
  claim(rootPem: string): Promise<TrustRow>;
  read(): Promise<TrustRow | undefined>;
  /** Takes a step if the generation is still the one it was seen with; false when somebody else took one. */
  change(seen: number, next: Omit<TrustRow, 'generation'>): Promise<boolean>;
}
