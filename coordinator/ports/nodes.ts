/** Nodes as they are stored; how they are now only the leader knows. */
import type { Capabilities } from '../../proto/gen/mesh/v1/common.js';

export interface NodeRow {
  seq: number;
  id: string;
  name: string;
  capabilities: Capabilities;
  version: string;
  bootId: string;
  reliability: number;
  finished: number;
  draining: boolean;
  revoked: boolean;
  /** Forgotten by an operator: shown nowhere, and back when it joins again. */
  removed: boolean;
  certificateSerial: string;
  certificateFingerprint: string;
  certificateExpiresAtMs: number;
  lastHeartbeatAtMs: number | undefined;
}

export interface NodeStore {
  all(): Promise<NodeRow[]>;
  /** Of every node that is marked as revoked. */
  revokedNames(): Promise<string[]>;
  /** By name: a node that returns keeps its id and number; one that was removed is there again. */
  upsert(
    node: Omit<NodeRow, 'seq' | 'draining' | 'revoked' | 'removed' | 'reliability' | 'finished' | 'lastHeartbeatAtMs'>,
  ): Promise<NodeRow>;
  setDraining(name: string, draining: boolean): Promise<NodeRow | undefined>;
  setRevoked(name: string, revoked: boolean): Promise<void>;
  /** The operator's flags are lowered, so that whoever joins under the name begins afresh. */
  remove(name: string): Promise<NodeRow | undefined>;
  /** Marks those as revoked of whom no certificate holds; returns their names. */
  revokeUncertified(names: readonly string[]): Promise<string[]>;
  /** Heartbeat times and learned reliability, in one statement every few seconds. */
  saveVitals(rows: { seq: number; reliability: number; finished: number; lastHeartbeatAtMs: number }[]): Promise<void>;
}
