/**
 * A backup under a passphrase: scrypt makes a key from it and a salt of this file; AES-256-GCM encrypts chunks of 64 KiB,
 * each with its number and whether it is the last in the nonce, so that no chunk can be changed, moved, left out or cut
 * off at the end without its tag failing. What is given out has been authenticated.
 *
 *   MESHBACKUP 1\n   salt (16 bytes)   chunk (65,536 + 16 bytes) …   last chunk (0 to 65,536 + 16 bytes)
 */
import { createCipheriv, createDecipheriv, randomBytes, scrypt } from 'node:crypto';
import { MeshError } from '../../common/errors.js';
import type { Passphrase } from '../../common/passphrase.js';
import { ByteReader } from './tar.js';

const MAGIC = Buffer.from('MESHBACKUP 1\n');
const SALT_BYTES = 16;
const CHUNK_BYTES = 64 * 1024;
const TAG_BYTES = 16;
/** 128 MiB and 0.44 s on the machine it was measured on; what OWASP asks for. */
const SCRYPT = { N: 2 ** 17, r: 8, p: 1, maxmem: 256 * 2 ** 20 } as const;

const keyFrom = (passphrase: Passphrase, salt: Buffer): Promise<Buffer> =>
  new Promise((resolve, reject) =>
    scrypt(passphrase.reveal(), salt, 32, SCRYPT, (error, key) => (error ? reject(error) : resolve(key))),
  );

function nonce(number: number, last: boolean): Buffer {
  const bytes = Buffer.alloc(12);
  bytes.writeBigUInt64BE(BigInt(number));
  bytes[11] = last ? 1 : 0;
  return bytes;
}

/** Chunks of exactly `CHUNK_BYTES`, the last one shorter or empty, each with whether it is the last. */
async function* chunksOf(source: AsyncIterable<Buffer>, bytes: number): AsyncGenerator<[Buffer, boolean]> {
  const reader = new ByteReader(source);
  for (let chunk = await reader.read(bytes); ; ) {
    const next = chunk.length < bytes ? Buffer.alloc(0) : await reader.read(bytes);
    yield [chunk, next.length === 0];
    if (next.length === 0) return;
    chunk = next;
  }
}

export async function* encrypted(source: AsyncIterable<Buffer>, passphrase: Passphrase): AsyncGenerator<Buffer> {
  const salt = randomBytes(SALT_BYTES);
  const key = await keyFrom(passphrase, salt);
  yield Buffer.concat([MAGIC, salt]);
  let number = 0;
  for await (const [chunk, last] of chunksOf(source, CHUNK_BYTES)) {
    const cipher = createCipheriv('aes-256-gcm', key, nonce(number++, last));
    yield Buffer.concat([cipher.update(chunk), cipher.final(), cipher.getAuthTag()]);
  }
}

export const isEncrypted = (start: Buffer): boolean => start.subarray(0, MAGIC.length).equals(MAGIC);

/** @throws MeshError PASSPHRASE when it is wrong or the first chunk was changed, DATA_DIR when a later one was */
export async function* decrypted(source: AsyncIterable<Buffer>, passphrase: Passphrase): AsyncGenerator<Buffer> {
  const reader = new ByteReader(source);
  const start = await reader.read(MAGIC.length + SALT_BYTES);
  const key = await keyFrom(passphrase, start.subarray(MAGIC.length));
  let number = 0;
  for await (const [chunk, last] of chunksOf(reader.stream(Number.POSITIVE_INFINITY), CHUNK_BYTES + TAG_BYTES)) {
    const cut = Math.max(0, chunk.length - TAG_BYTES);
    const decipher = createDecipheriv('aes-256-gcm', key, nonce(number, last), { authTagLength: TAG_BYTES });
    let content: Buffer;
    try {
      decipher.setAuthTag(chunk.subarray(cut));
      content = Buffer.concat([decipher.update(chunk.subarray(0, cut)), decipher.final()]);
    } catch {
      throw number === 0
        ? new MeshError('PASSPHRASE', 'the passphrase does not open the backup, or its beginning was changed', {
            hint: 'give the one it was made with',
          })
        : new MeshError('DATA_DIR', 'the backup is damaged: it was changed or cut off', { hint: 'use another copy' });
    }
    number++;
    yield content;
  }
}
