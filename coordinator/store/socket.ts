import { once } from 'node:events';
import { connect, isIP, type Socket } from 'node:net';
import { connect as connectTls } from 'node:tls';
import type { Address, Target, TlsTerms } from './connection.js';

/**
 * Opens the socket the driver speaks over: dials, asks for TLS, checks the certificate. The driver could do the first two,
 * but not check a certificate as libpq's modes say; and when a server closes a connection before it is ready (a proxy
 * without a backend does), it reconnects at once and for ever. A close that we did not ask for is an error here, so the
 * statement that waits is refused and its caller decides.
 *
 * See "SSL Session Encryption" in PostgreSQL's protocol documentation.
 */
const SSL_REQUEST = Buffer.from([0, 0, 0, 8, 4, 210, 22, 47]);
const OPEN_MS_MAX = 10_000;

const failure = (code: string, message: string): Error => Object.assign(new Error(message), { code });

/** @returns a function that opens a connected socket, starting at the next address each time one fails */
export function socketOpener(target: Target): () => Promise<Socket> {
  let first = 0;
  return async () => {
    let error: unknown;
    for (let tried = 0; tried < target.addresses.length; tried++) {
      const address = target.addresses[first % target.addresses.length] as Address;
      try {
        return await open(address, target.tls);
      } catch (cause) {
        error = cause;
        first++;
      }
    }
    throw error;
  };
}

async function open(address: Address, tls: TlsTerms): Promise<Socket> {
  const signal = AbortSignal.timeout(OPEN_MS_MAX);
  const raw = connect('path' in address ? { path: address.path } : { host: address.host, port: address.port });
  try {
    await once(raw, 'connect', { signal });
    raw.setNoDelay(true);
    const socket = 'host' in address && tls.mode !== 'off' ? await encrypt(raw, address.host, tls, signal) : raw;
    socket.once('end', () => socket.destroy(failure('ECONNRESET', 'the server closed the connection')));
    return socket;
  } catch (error) {
    raw.destroy();
    throw signal.aborted ? failure('CONNECT_TIMEOUT', 'the connection was not made in time') : error;
  }
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
