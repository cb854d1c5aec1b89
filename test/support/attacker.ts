/** Whoever attacks a running coordinator from outside, and what the coordinator and its agents make of it. */
import { once } from 'node:events';
import { readFileSync, writeFileSync } from 'node:fs';
import { connect as netConnect, type Socket } from 'node:net';
import { join } from 'node:path';
import { type ConnectionOptions, connect as tlsConnect, type TLSSocket } from 'node:tls';
import type { Test } from 'tap';
import type { Credential } from '../../link/credentials.js';
import { residentBytes } from './leftovers.js';
import type { Mesh } from './mesh.js';

const MEBIBYTE = 2 ** 20;

/** The certificate of a profile's holder, or of an agent. */
export function credentialIn(folder: string, name: 'client' | 'agent'): Credential {
  const read = (file: string) => readFileSync(join(folder, file), 'utf8');
  return { certificateChain: read(`${name}.crt`), privateKey: read(`${name}.key`), root: read('ca.crt') };
}

export const portOf = (mesh: Mesh): number => Number(mesh.coordinator.ready.address.split(':').at(-1));

/** A TCP connection from an address of its own, so that the caps of others are not used up. */
export const dial = (mesh: Mesh, localAddress: string): Socket => {
  const socket = netConnect({ host: '127.0.0.1', port: portOf(mesh), localAddress });
  socket.on('error', () => undefined);
  return socket;
};

/** With a finished handshake. */
export async function secure(
  t: Test,
  mesh: Mesh,
  localAddress: string,
  more: ConnectionOptions & { credential?: Credential } = {},
): Promise<TLSSocket> {
  const { credential, ...options } = more;
  const socket = tlsConnect({
    socket: dial(mesh, localAddress),
    rejectUnauthorized: false,
    servername: 'coordinator',
    ...(credential ? { cert: credential.certificateChain, key: credential.privateKey } : {}),
    ...options,
  });
  t.teardown(() => socket.destroy());
  await once(socket, 'secureConnect');
  socket.on('error', () => undefined);
  return socket;
}

export const closed = (socket: Socket): Promise<void> =>
  socket.closed ? Promise.resolve() : new Promise((resolve) => socket.once('close', () => resolve()));

/** Pieces for `pour`, each made when it is wanted. */
export function* times(count: number, piece: (i: number) => Buffer): Generator<Buffer> {
  for (let i = 0; i < count; i++) yield piece(i);
}

/** Writes until everything is written or the other side has closed; returns how many were written. */
export async function pour(socket: Socket, pieces: Iterable<Buffer>): Promise<number> {
  let written = 0;
  const gone = closed(socket);
  for (const piece of pieces) {
    if (socket.destroyed || socket.closed) break;
    written++;
    if (!socket.write(piece)) await Promise.race([once(socket, 'drain').catch(() => undefined), gone]);
  }
  return written;
}

/** The most memory that a process has held since `watchMemory`, beyond what it held then. */
export function watchMemory(pid: number): () => number {
  // 5 sets the high-water mark back to what is held now (man 5 proc).
  writeFileSync(`/proc/${pid}/clear_refs`, '5');
  const before = residentBytes(pid).now;
  return () => residentBytes(pid).peak - before;
}

/**
 * Runs an attack; meanwhile and afterwards memory stays flat, heartbeats are heard, and others are served.
 * @param attacker a node whose own state is its own affair
 */
export async function endures(
  t: Test,
  mesh: Mesh,
  growthMebibytesMax: number,
  attack: () => Promise<void>,
  attacker = '',
): Promise<void> {
  const { program } = mesh.coordinator;
  const mark = program.mark();
  const grown = watchMemory(program.pid);
  await attack();
  const nodes = (await mesh.nodes()).filter(({ name }) => name !== attacker);
  const mebibytes = Math.round(grown() / MEBIBYTE);
  t.comment(`the coordinator grew by ${mebibytes} MiB at most`);
  t.ok(mebibytes <= growthMebibytesMax, `it grew by at most ${growthMebibytesMax} MiB`);
  t.ok(nodes.length > 0 && nodes.every(({ state }) => state === 'HEALTHY'), 'its nodes are healthy');
  const bad = program.events
    .slice(mark)
    .filter(({ event, level, node }) => (event === 'node.suspect' && node !== attacker) || level === 'fatal');
  t.strictSame(bad, [], 'and were at every moment');
  t.ok(program.running);
}
