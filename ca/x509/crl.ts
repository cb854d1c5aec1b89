/**
 * Certificate revocation lists, version 2 (RFC 5280 §5), for programs that verify certificates of the mesh without asking
 * it. node-forge makes none, so they are written with our own DER. Every entry is revoked for a reason that is not given
 * (§5.3.1 wants such entries to carry no reason code at all).
 */
import { type KeyObject, sign } from 'node:crypto';
import {
  contextTag,
  TAG,
  writeBitString,
  writeDer,
  writeOid,
  writePositiveInteger,
  writeSequence,
  writeTime,
} from '../../common/identity/der.js';
import { ECDSA_SHA256, RSA_SHA256 } from '../../common/identity/keys.js';
import { authorityKeyIdentifier, type ExtensionTemplate } from './certificate.js';

const OID_CRL_NUMBER = '2.5.29.20';

export interface CrlTemplate {
  /** Rises with every list of an issuer. */
  number: number;
  /** Name, DER. */
  issuerDer: Buffer;
  thisUpdateMs: number;
  /** By then there will be another one. */
  nextUpdateMs: number;
  revoked: readonly { serial: string; revokedAtMs: number }[];
}

export const extensionDer = ({ oid, critical, value }: ExtensionTemplate): Buffer =>
  writeSequence(
    writeOid(oid),
    ...(critical ? [writeDer(TAG.boolean, Buffer.of(0xff))] : []),
    writeDer(TAG.octetString, value),
  );

/** Signs with SHA-256 and the key's own algorithm, EC or RSA. Returns DER. */
export function buildCrl(template: CrlTemplate, signer: KeyObject): Buffer {
  const algorithm =
    signer.asymmetricKeyType === 'rsa'
      ? writeSequence(writeOid(RSA_SHA256), writeDer(TAG.null))
      : writeSequence(writeOid(ECDSA_SHA256));
  const entries = template.revoked.map(({ serial, revokedAtMs }) =>
    writeSequence(writePositiveInteger(serial), writeTime(revokedAtMs)),
  );
  const number = writePositiveInteger(template.number);
  const extensions = [authorityKeyIdentifier(signer), { oid: OID_CRL_NUMBER, critical: false, value: number }];
  const toBeSigned = writeSequence(
    writePositiveInteger(1),
    algorithm,
    template.issuerDer,
    writeTime(template.thisUpdateMs),
    writeTime(template.nextUpdateMs),
    // An empty list of entries is none.
    ...(entries.length > 0 ? [writeSequence(...entries)] : []),
    writeDer(contextTag(0), writeSequence(...extensions.map(extensionDer))),
  );
  return writeSequence(toBeSigned, algorithm, writeBitString(sign('sha256', toBeSigned, signer)));
}
