import { once } from 'node:events';
import { connect, isIP, type Socket } from 'node:net';
import { connect as connectTls } from 'node:tls';
import type { Address, Target, TlsTerms } from './connection.js';

/**
 * Opens the sockets the driver speaks over: dials, asks for TLS, checks the certificate, and turns away from a server
 * that only reads. The driver could do the first two, but not check a certificate as libpq's modes say; and when a server
 * closes a connection before it is ready (a proxy without a backend does), it reconnects at once and for ever. A close
 * that we did not ask for is an error here, so the statement that waits is refused and its caller decides.
 *
 * See "SSL Session Encryption" and "ParameterStatus" in PostgreSQL's protocol documentation.
 */
const SSL_REQUEST = Buffer.from([0, 0, 0, 8, 4, 210, 22, 47]);
const OPEN_MS_MAX = 10_000;
const HEADER_BYTES = 5;
/** Of what a server says at the start of a session; much more than any says. */
const GREETING_BYTES_MAX = 64 * 1024;

/** The server is a standby, or its database is set to read only. */
export const READ_ONLY_SERVER = 'READ_ONLY_SERVER';

const failure = (code: string, message: string): Error => Object.assign(new Error(message), { code });

/** Remembers which address of a target serves; pools that replace one another share it. */
export class Dialer {
  readonly #target: Target;
  readonly #cut: AbortSignal | undefined;
  #first = 0;

  /** @param cut aborts when every socket is to be cut, and none opened any more */
  constructor(target: Target, cut?: AbortSignal) {
    this.#target = target;
    this.#cut = cut;
  }

  /** A connected socket, starting at the next address each time one fails. */
  async open(): Promise<Socket> {
    const { addresses, tls } = this.#target;
    let error: unknown;
    for (let tried = 0; tried < addresses.length; tried++) {
      const used = this.#first;
      try {
        const socket = await open(addresses[used % addresses.length] as Address, tls, this.#cut);
        refuseReadOnly(socket, () => this.turn(used));
        return socket;
      } catch (cause) {
        error = cause;
        this.turn(used);
      }
    }
    throw error;
  }

  /** The number of the address that is tried next. */
  get address(): number {
    return this.#first;
  }

  /** That address does not serve, whatever it answers; of many connections that find out the same the first counts. */
  turn(used: number): void {
    if (this.#first === used) this.#first++;
  }
}

async function open(address: Address, tls: TlsTerms, cut?: AbortSignal): Promise<Socket> {
  if (cut?.aborted) throw failure('CONNECTION_ENDED', 'no connection is made any more');
  const patience = AbortSignal.timeout(OPEN_MS_MAX);
  const signal = cut ? AbortSignal.any([patience, cut]) : patience;
  const raw = connect('path' in address ? { path: address.path } : { host: address.host, port: address.port });
  try {
    await once(raw, 'connect', { signal });
    raw.setNoDelay(true);
    const socket = 'host' in address && tls.mode !== 'off' ? await encrypt(raw, address.host, tls, signal) : raw;
    socket.once('end', () => socket.destroy(failure('ECONNRESET', 'the server closed the connection')));
    if (cut) destroyWhen(cut, socket);
    return socket;
  } catch (error) {
    raw.destroy();
    throw signal.aborted ? failure('CONNECT_TIMEOUT', 'the connection was not made in time') : error;
  }
}

function destroyWhen(cut: AbortSignal, socket: Socket): void {
  const destroy = () => socket.destroy(failure('ECONNRESET', 'the connection was cut'));
  cut.addEventListener('abort', destroy, { once: true });
  socket.once('close', () => cut.removeEventListener('abort', destroy));
}

async function encrypt(raw: Socket, host: string, tls: TlsTerms, signal: AbortSignal): Promise<Socket> {
  raw.write(SSL_REQUEST);
  const closed = once(raw, 'close', { signal }).then(() => {
    throw failure('ECONNRESET', 'the server closed the connection');
  });
  const [answer] = (await Promise.race([once(raw, 'data', { signal }), closed])) as [Buffer];
  // More than one byte would be data that somebody put in before the encryption began.
  if (answer.length !== 1) throw failure('ERR_TLS_REFUSED', 'the server sent plain data before TLS');
  if (answer.toString() === 'N' && tls.mode === 'prefer') return raw;
  if (answer.toString() !== 'S') throw failure('ERR_TLS_REFUSED', 'the server offers no TLS');
  const secure = connectTls({ socket: raw, host, ...(isIP(host) ? {} : { servername: host }), ...tls.options });
  await Promise.race([once(secure, 'secureConnect', { signal }), closed]);
  return secure;
}

/**
 * Reads along until the server is ready for the first statement. From version 14 on PostgreSQL says by then whether it
 * takes writes. What a standby answers may be older than what was committed, so nothing may be asked of it: neither
 * whether a lost commit took effect, nor who leads.
 */
function refuseReadOnly(socket: Socket, onReadOnly: () => void): void {
  let rest: Buffer = Buffer.alloc(0);
  const read = (bytes: Buffer): void => {
    rest = Buffer.concat([rest, bytes]);
    while (rest.length >= HEADER_BYTES) {
      const length = rest.readUInt32BE(1) + 1;
      if (rest.length < length) break;
      const type = String.fromCharCode(rest[0] as number);
      const [name, value] = rest.toString('utf8', HEADER_BYTES, length).split('\0');
      rest = rest.subarray(length);
      if (type === 'S' && (name === 'in_hot_standby' || name === 'default_transaction_read_only') && value === 'on') {
        onReadOnly();
        socket.destroy(failure(READ_ONLY_SERVER, 'the server takes no writes'));
      }
      if (type === 'Z') return void socket.off('data', read);
    }
    if (rest.length > GREETING_BYTES_MAX) socket.off('data', read);
  };
  socket.on('data', read);
}
