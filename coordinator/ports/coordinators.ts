/** Which coordinators there are, and who leads. */

export interface LeaderRow {
  epoch: number;
  holder: string;
  renewals: number;
}

export interface LeaderStore {
  read(): Promise<LeaderRow | undefined>;
  /** Takes the lease if the row is still as it was seen; returns the new epoch. */
  take(seen: LeaderRow | undefined, holder: string): Promise<number | undefined>;
  /** False when another epoch rules. */
  renew(epoch: number): Promise<boolean>;
  /** Gives the lease back: nobody holds it then (holder ''), and whoever looks next may take it. */
  release(epoch: number): Promise<void>;
}

export interface CoordinatorRow {
  /** As the holder in the leader's lease. */
  id: string;
  name: string;
  /** As `host:port`. */
  addresses: string[];
  version: string;
  /** The step of a rotation of the root that it has taken; see `TrustStore`. */
  trustGeneration: number;
}

export interface CoordinatorStore {
  /** Writes one's own row, as seen now. */
  announce(row: CoordinatorRow): Promise<void>;
  /** Those seen within the time, by name; ages by the database's clock alone. */
  list(maxAgeMs: number): Promise<(CoordinatorRow & { ageMs: number; leader: boolean })[]>;
  /** Takes one's own row away. */
  withdraw(id: string): Promise<void>;
}
