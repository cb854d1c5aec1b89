/**
 * Join tokens. One carries everything a machine needs to enter a mesh it has never met: which token it is, the secret
 * that makes it worth something, and the digest of the mesh's root certificate, so that the coordinator is verified
 * before the secret is sent. A checksum tells a damaged copy from a refused token without asking anybody.
 *
 *   mesh1_ + base64url( version 1 | id 6 | secret 16 | SHA-256 of the root's DER 32 | checksum 4 )
 */
import { createHash } from 'node:crypto';
import { MeshError } from '../errors.js';

const PREFIX = 'mesh1_';
const VERSION = 1;
const PAYLOAD_BYTES = 1 + 6 + 16 + 32;
const CHECKSUM_BYTES = 4;
const TEXT_LENGTH = PREFIX.length + Math.ceil(((PAYLOAD_BYTES + CHECKSUM_BYTES) * 8) / 6);

/** All three are lower-case hex. */
export interface JoinToken {
  /** 6 bytes; not secret, it is what lists and logs show. */
  id: string;
  /** 16 random bytes. */
  secret: string;
  /** SHA-256 of the root certificate's DER. */
  rootDigest: string;
}

const checksum = (payload: Uint8Array): Buffer =>
  createHash('sha256').update(payload).digest().subarray(0, CHECKSUM_BYTES);

function bytesOf(hex: string, length: number, what: string): Buffer {
  if (!new RegExp(`^[0-9a-f]{${length * 2}}$`).test(hex))
    throw new MeshError('BAD_TOKEN', `the ${what} of a token is ${length} bytes in lower-case hex`);
  return Buffer.from(hex, 'hex');
}

/** @throws MeshError BAD_TOKEN when a part is not of its length */
export function encodeToken(token: JoinToken): string {
  const payload = Buffer.concat([
    Buffer.of(VERSION),
    bytesOf(token.id, 6, 'id'),
    bytesOf(token.secret, 16, 'secret'),
    bytesOf(token.rootDigest, 32, 'root digest'),
  ]);
  return PREFIX + Buffer.concat([payload, checksum(payload)]).toString('base64url');
}

/** @throws MeshError BAD_TOKEN with what is wrong with it; the text itself is never repeated, it may be a secret */
export function decodeToken(text: string): JoinToken {
  const trimmed = text.trim();
  if (!trimmed.startsWith(PREFIX)) {
    const newer = /^mesh\d+_/.exec(trimmed);
    throw newer
      ? new MeshError('BAD_TOKEN', `the token is of another version (${newer[0]})`, {
          hint: 'use the same release of the program on both machines',
        })
      : new MeshError('BAD_TOKEN', `this is not a join token: one begins with ${PREFIX}`, {
          hint: 'make one: mesh token create',
        });
  }
  const bad = trimmed.slice(PREFIX.length).search(/[^A-Za-z0-9_-]/);
  if (bad >= 0)
    throw new MeshError(
      'BAD_TOKEN',
      `the token has a character that does not belong there at ${PREFIX.length + bad + 1}`,
    );
  if (trimmed.length !== TEXT_LENGTH) {
    const how = trimmed.length < TEXT_LENGTH ? 'it was cut off when copying' : 'something follows it';
    throw new MeshError('BAD_TOKEN', `the token has ${trimmed.length} characters, not ${TEXT_LENGTH}: ${how}`);
  }
  const encoded = trimmed.slice(PREFIX.length);
  const bytes = Buffer.from(encoded, 'base64url');
  const payload = bytes.subarray(0, PAYLOAD_BYTES);
  if (!checksum(payload).equals(bytes.subarray(PAYLOAD_BYTES)) || bytes.toString('base64url') !== encoded)
    throw new MeshError('BAD_TOKEN', 'the checksum of the token is wrong: a character was changed when copying');
  if (payload[0] !== VERSION)
    throw new MeshError('BAD_TOKEN', `the token is of version ${payload[0]}, this program knows ${VERSION}`, {
      hint: 'use the same release of the program on both machines',
    });
  return {
    id: payload.toString('hex', 1, 7),
    secret: payload.toString('hex', 7, 23),
    rootDigest: payload.toString('hex', 23, 55),
  };
}

/** What is stored in place of the secret. The secret is 128 random bits, so one round of SHA-256 suffices. */
export const secretDigest = (secretHex: string): string =>
  createHash('sha256')
    .update(bytesOf(secretHex, 16, 'secret'))
    .digest('hex');
