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
  certificateSerial: string;
  certificateFingerprint: string;
  certificateExpiresAtMs: number;
  lastHeartbeatAtMs: number | undefined;
}

export interface NodeStore {
  all(): Promise<NodeRow[]>;
  /** By name: a node that returns keeps its id and number. */
  upsert(
    node: Omit<NodeRow, 'seq' | 'draining' | 'revoked' | 'reliability' | 'finished' | 'lastHeartbeatAtMs'>,
  ): Promise<NodeRow>;
  setDraining(name: string, draining: boolean): Promise<NodeRow | undefined>;
  setRevoked(name: string, revoked: boolean): Promise<void>;
  /** Heartbeat times and learned reliability, in one statement every few seconds. */
  saveVitals(rows: { seq: number; reliability: number; finished: number; lastHeartbeatAtMs: number }[]): Promise<void>;
}
