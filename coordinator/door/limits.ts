/**
 * What one peer may take of this process. Counts are of TCP connections, times in milliseconds, sizes in bytes. The
 * settings behind them, with their defaults, are declared in services/limits.ts; see docs/limits.md.
 */
export interface DoorLimits {
  /** From accept to the end of the TLS handshake. */
  handshakeMs: number;
  /** Connections in all. Beyond it nobody gets in. */
  connectionsMax: number;
  /** From one address, of any kind. */
  perAddressMax: number;
  /** Of one identity, from wherever it comes. */
  perIdentityMax: number;
  /** From one address, still in their handshake. */
  handshakesPerAddressMax: number;
  /** From one address, without an identity of this mesh. */
  nobodiesPerAddressMax: number;
  /** New ones from one address, or of one identity. */
  connectionsPerSecond: number;
  connectionsBurst: number;
  /** How long a connection without an identity lives: enough to join, or to ask for health. */
  nobodyLifeMs: number;
  streamsMax: number;
  messageBytesMax: number;
  /** Memory that one HTTP/2 session may hold, in megabytes (the unit of Node's `maxSessionMemory`). */
  sessionMemoryMb: number;
}

/** A peer without an identity has one thing to ask, and it is short. */
export const NOBODY_STREAMS_MAX = 1;
export const NOBODY_MESSAGE_BYTES_MAX = 64 * 1024;
export const NOBODY_SESSION_MEMORY_MB = 1;
