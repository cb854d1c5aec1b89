/**
 * Certificate requests (PKCS#10, RFC 2986). We take nothing from one but the public key, and its signature as proof that
 * the sender holds the private half: name, role and extensions are decided elsewhere, so what a request asks for is not
 * even read.
 */
import { createPublicKey, sign, verify, type KeyObject } from 'node:crypto';
import { MeshError } from '../errors.js';
import {
  contextTag,
  DerError,
  readBitString,
  readChildren,
  readDer,
  readOid,
  readPositiveInteger,
  TAG,
  writeBitString,
  writeDer,
  writeOid,
  writeSequence,
} from './der.js';
import { ECDSA_SHA256, publicKeyDigest, readPublicKey, RSA_SHA256, SIGNATURES } from './keys.js';

const OID_COMMON_NAME = '2.5.4.3';
export const CSR_BYTES_MAX = 16 * 1024;

/**
 * A request for a certificate on this key, DER. The name is a remark for people; whoever issues decides on the real one.
 * @param privateKey EC or RSA
 */
export function makeCsr(privateKey: KeyObject, name: string): Buffer {
  const rsa = privateKey.asymmetricKeyType === 'rsa';
  if (!rsa && privateKey.asymmetricKeyType !== 'ec')
    throw new MeshError('BAD_CERTIFICATE', `a key of the kind ${privateKey.asymmetricKeyType} cannot be certified`);
  const commonName = writeSequence(writeOid(OID_COMMON_NAME), writeDer(TAG.utf8String, Buffer.from(name)));
  const information = writeSequence(
    writeDer(TAG.integer, Buffer.of(0)),
    writeSequence(writeDer(TAG.set, commonName)),
    createPublicKey(privateKey).export({ type: 'spki', format: 'der' }),
    writeDer(contextTag(0)),
  );
  const algorithm = rsa ? [writeOid(RSA_SHA256), writeDer(TAG.null)] : [writeOid(ECDSA_SHA256)];
  return writeSequence(
    information,
    writeSequence(...algorithm),
    writeBitString(sign('sha256', information, privateKey)),
  );
}

export interface ProvenKey {
  publicKey: KeyObject;
  publicKeyDer: Buffer;
  /** SHA-256 of the SubjectPublicKeyInfo, lower-case hex. */
  digest: string;
}

/**
 * The public key of a request whose sender has shown that it holds the private one.
 * @throws MeshError BAD_CERTIFICATE when it does not parse, its key is not of a kind we certify, or the proof fails
 */
export function readCsr(der: Uint8Array): ProvenKey {
  const parts = parseCsr(der);
  const publicKey = readPublicKey(parts.publicKeyDer);
  const algorithm = SIGNATURES[parts.algorithm];
  if (!algorithm || algorithm.keyType !== publicKey.asymmetricKeyType)
    throw new MeshError('BAD_CERTIFICATE', `the certificate request is signed with an unknown algorithm`);
  if (!verify(algorithm.hash, parts.signed, publicKey, parts.signature))
    throw new MeshError('BAD_CERTIFICATE', 'the certificate request is not signed by its own key');
  const publicKeyDer = publicKey.export({ type: 'spki', format: 'der' });
  return { publicKey, publicKeyDer, digest: publicKeyDigest(publicKeyDer) };
}

function parseCsr(der: Uint8Array) {
  if (der.length > CSR_BYTES_MAX)
    throw new MeshError('BAD_CERTIFICATE', `the certificate request is larger than ${CSR_BYTES_MAX} bytes`);
  try {
    const outer = readChildren(readDer(der, TAG.sequence));
    const [information, algorithm, signature] = outer;
    const [version, subject, publicKey, attributes, ...others] = readChildren(information);
    if (outer.length !== 3 || others.length > 0) throw new DerError('it has parts that do not belong there');
    if (readPositiveInteger(version) !== '0') throw new DerError('it is of an unknown version');
    readChildren(subject);
    readChildren(publicKey);
    if (attributes) readChildren(attributes, contextTag(0));
    return {
      signed: (information as { raw: Buffer }).raw,
      publicKeyDer: (publicKey as { raw: Buffer }).raw,
      algorithm: readOid(readChildren(algorithm)[0]),
      signature: readBitString(signature).bytes,
    };
  } catch (error) {
    if (!(error instanceof DerError)) throw error;
    throw new MeshError('BAD_CERTIFICATE', `the certificate request does not parse: ${error.message}`, {
      cause: error,
    });
  }
}
