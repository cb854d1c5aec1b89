import { MESSAGE_BYTES_MAX } from '../../link/credentials.js';

/** What one peer may take of this process. Counts are of TCP connections, times in milliseconds, sizes in bytes. */
export interface DoorLimits {
  /** From accept to the end of the TLS handshake. */
  handshakeMs: number;
  /** Connections in all. Beyond it nobody gets in: raise it together with the limit of open files. */
  connectionsMax: number;
  /** From one address, of any kind. Many agents behind one address (containers, NAT) need more. */
  perAddressMax: number;
  /** From one address, still in their handshake. */
  handshakesPerAddressMax: number;
  /** From one address, without an identity of this mesh. */
  nobodiesPerAddressMax: number;
  /** How long a connection without an identity lives: enough to join, or to ask for health. */
  nobodyLifeMs: number;
  nobodyStreamsMax: number;
  nobodyMessageBytesMax: number;
  streamsMax: number;
  messageBytesMax: number;
  /** Memory that one HTTP/2 session may hold, in megabytes (the unit of Node's `maxSessionMemory`). */
  sessionMemoryMb: number;
  /** How long calls that are under way get to end when the door closes. */
  drainMs: number;
}

export const DEFAULT_LIMITS: Readonly<DoorLimits> = {
  handshakeMs: 5000,
  connectionsMax: 4096,
  perAddressMax: 256,
  handshakesPerAddressMax: 64,
  nobodiesPerAddressMax: 16,
  nobodyLifeMs: 10_000,
  nobodyStreamsMax: 1,
  nobodyMessageBytesMax: 64 * 1024,
  streamsMax: 128,
  messageBytesMax: MESSAGE_BYTES_MAX,
  sessionMemoryMb: 64,
  drainMs: 2000,
};
