/**
 * PKCS#12 (RFC 7292): key and certificates in one file behind a password, the form browsers and phones import. forge's own
 * function takes RSA keys only, so the envelope is put together here: certificates in the clear, the key as PKCS#8 under
 * PBES2 (PBKDF2 with HMAC-SHA-256, AES-256-CBC), the whole under an HMAC-SHA-256.
 */
import { createHmac, type KeyObject, randomBytes, type X509Certificate } from 'node:crypto';
import forge from 'node-forge';
import { MeshError } from '../../common/errors.js';

type Asn1 = forge.asn1.Asn1;
const { asn1 } = forge;
const { Class, Type } = asn1;

const OID = {
  data: '1.2.840.113549.1.7.1',
  friendlyName: '1.2.840.113549.1.9.20',
  localKeyId: '1.2.840.113549.1.9.21',
  x509Certificate: '1.2.840.113549.1.9.22.1',
  shroudedKeyBag: '1.2.840.113549.1.12.10.1.2',
  certificateBag: '1.2.840.113549.1.12.10.1.3',
  sha256: '2.16.840.1.101.3.4.2.1',
} as const;

/** Rounds of key derivation, twice, in JavaScript: about half a second, a few seconds on the smallest machines. */
const ROUNDS = 20_000;
const SALT_BYTES = 16;
const MAC_BYTES = 32;
const MAC_PURPOSE = 3;

const create = (type: forge.asn1.Type, constructed: boolean, value: string | Asn1[]): Asn1 =>
  asn1.create(Class.UNIVERSAL, type, constructed, value);
const sequence = (...values: Asn1[]): Asn1 => create(Type.SEQUENCE, true, values);
const set = (...values: Asn1[]): Asn1 => create(Type.SET, true, values);
const oid = (text: string): Asn1 => create(Type.OID, false, asn1.oidToDer(text).getBytes());
const integer = (value: number): Asn1 => create(Type.INTEGER, false, asn1.integerToDer(value).getBytes());
const octets = (bytes: string): Asn1 => create(Type.OCTETSTRING, false, bytes);
const explicit = (value: Asn1): Asn1 => asn1.create(Class.CONTEXT_SPECIFIC, 0 as forge.asn1.Type, true, [value]);
const der = (value: Asn1): string => asn1.toDer(value).getBytes();
const contentInfo = (content: Asn1): Asn1 => sequence(oid(OID.data), explicit(octets(der(content))));

/** @throws MeshError USAGE when programs would read the password differently, or it protects nothing */
export function assertPkcs12Password(password: string): void {
  if (!/^[\x20-\x7e]{8,128}$/.test(password))
    throw new MeshError('USAGE', 'the password of a PKCS#12 file is 8 to 128 printable ASCII characters', {
      hint: 'choose another one; programs disagree about how other characters are encoded',
    });
}

export interface Pkcs12Content {
  key: KeyObject;
  /** Leaf first. */
  chain: readonly X509Certificate[];
  /** What import dialogs show. */
  friendlyName: string;
  password: string;
}

/** @throws MeshError USAGE when the password cannot be used */
export function buildPkcs12(content: Pkcs12Content): Buffer {
  assertPkcs12Password(content.password);
  const leafId = randomBytes(20).toString('latin1');
  const attributes = set(
    sequence(oid(OID.localKeyId), set(octets(leafId))),
    sequence(oid(OID.friendlyName), set(create(Type.BMPSTRING, false, content.friendlyName))),
  );
  const certificates = content.chain.map((certificate, index) =>
    sequence(
      oid(OID.certificateBag),
      explicit(sequence(oid(OID.x509Certificate), explicit(octets(certificate.raw.toString('latin1'))))),
      ...(index === 0 ? [attributes] : []),
    ),
  );
  const keyInfo = content.key.export({ type: 'pkcs8', format: 'der' }).toString('latin1');
  const encrypted = forge.pki.encryptPrivateKeyInfo(asn1.fromDer(keyInfo), content.password, {
    algorithm: 'aes256',
    prfAlgorithm: 'sha256',
    count: ROUNDS,
    saltSize: SALT_BYTES,
  });
  const keys = sequence(oid(OID.shroudedKeyBag), explicit(encrypted), attributes);
  const safe = sequence(contentInfo(sequence(...certificates)), contentInfo(sequence(keys)));
  return Buffer.from(der(sequence(integer(3), contentInfo(safe), macOf(der(safe), content.password))), 'latin1');
}

function macOf(safe: string, password: string): Asn1 {
  const salt = randomBytes(SALT_BYTES).toString('latin1');
  const buffer = forge.util.createBuffer(salt);
  const key = forge.pkcs12.generateKey(password, buffer, MAC_PURPOSE, ROUNDS, MAC_BYTES, forge.md.sha256.create());
  const mac = createHmac('sha256', Buffer.from(key.getBytes(), 'latin1'))
    .update(safe, 'latin1')
    .digest()
    .toString('latin1');
  const algorithm = sequence(oid(OID.sha256), create(Type.NULL, false, ''));
  return sequence(sequence(algorithm, octets(mac)), octets(salt), integer(ROUNDS));
}
