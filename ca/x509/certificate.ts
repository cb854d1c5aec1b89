/**
 * Certificates as DER, built with node-forge's ASN.1 and signed by node:crypto (forge signs in slow JavaScript and knows
 * no elliptic curves). This is the low-level builder: it makes whatever it is told to, nonsense included, which is what
 * the tests of the checking side need. What ought to be made is decided in ca/policy.ts.
 */
import { createHash, createPublicKey, type KeyObject, sign } from 'node:crypto';
import forge from 'node-forge';
import { writeTime } from '../../common/identity/der.js';
import { NAME_TAGS, type AlternativeName } from '../../common/identity/fields.js';
import { ECDSA_SHA256, RSA_SHA256 } from '../../common/identity/keys.js';
import { EXTENSION_OIDS, KEY_USAGES, type KeyUsage } from '../../common/identity/profile.js';

type Asn1 = forge.asn1.Asn1;
const { asn1 } = forge;
const { Class, Type } = asn1;

const OID_COMMON_NAME = '2.5.4.3';
const OID_ORGANIZATION = '2.5.4.10';

export interface ExtensionTemplate {
  oid: string;
  critical: boolean;
  /** The DER inside the octet string. */
  value: Buffer;
}

export interface CertificateTemplate {
  /** Big-endian, positive. */
  serial: Buffer;
  /** Name, DER; see `nameDer`. */
  issuerDer: Buffer;
  subjectDer: Buffer;
  /** Whole seconds count. */
  notBeforeMs: number;
  notAfterMs: number;
  /** SubjectPublicKeyInfo. */
  publicKeyDer: Buffer;
  extensions: readonly ExtensionTemplate[];
  /** Of X.509; 3 unless a test wants otherwise. */
  version?: number;
}

const binary = (bytes: Uint8Array): string => Buffer.from(bytes).toString('latin1');
const toDer = (value: Asn1): Buffer => Buffer.from(asn1.toDer(value).getBytes(), 'latin1');
const fromDer = (der: Buffer): Asn1 =>
  asn1.fromDer(forge.util.createBuffer(binary(der)), { strict: true, decodeBitStrings: false } as never);

const sequence = (...values: Asn1[]): Asn1 => asn1.create(Class.UNIVERSAL, Type.SEQUENCE, true, values);
const set = (...values: Asn1[]): Asn1 => asn1.create(Class.UNIVERSAL, Type.SET, true, values);
const context = (number: number, ...values: Asn1[]): Asn1 =>
  asn1.create(Class.CONTEXT_SPECIFIC, number as forge.asn1.Type, true, values);
const primitive = (type: forge.asn1.Type, value: string): Asn1 => asn1.create(Class.UNIVERSAL, type, false, value);
const oid = (text: string): Asn1 => primitive(Type.OID, asn1.oidToDer(text).getBytes());
const boolean = (value: boolean): Asn1 => primitive(Type.BOOLEAN, value ? '\xff' : '\x00');
const integer = (value: number): Asn1 => primitive(Type.INTEGER, asn1.integerToDer(value).getBytes());
const octets = (bytes: Uint8Array): Asn1 => primitive(Type.OCTETSTRING, binary(bytes));
const bits = (bytes: Uint8Array, unused = 0): Asn1 =>
  primitive(Type.BITSTRING, String.fromCharCode(unused) + binary(bytes));

/** A Name of an organization (the mesh) and a common name, for people to read. */
export function nameDer(organization: string, commonName: string): Buffer {
  const attribute = (type: string, text: string) =>
    set(sequence(oid(type), primitive(Type.UTF8, binary(Buffer.from(text)))));
  return toDer(sequence(attribute(OID_ORGANIZATION, organization), attribute(OID_COMMON_NAME, commonName)));
}

/** Signs with SHA-256 and the key's own algorithm, EC or RSA. Returns DER. */
export function buildCertificate(template: CertificateTemplate, signer: KeyObject): Buffer {
  const algorithm = () =>
    signer.asymmetricKeyType === 'rsa'
      ? sequence(oid(RSA_SHA256), primitive(Type.NULL, ''))
      : sequence(oid(ECDSA_SHA256));
  const extensions = template.extensions.map((extension) =>
    sequence(oid(extension.oid), ...(extension.critical ? [boolean(true)] : []), octets(extension.value)),
  );
  const toBeSigned = sequence(
    context(0, integer((template.version ?? 3) - 1)),
    primitive(Type.INTEGER, binary(template.serial)),
    algorithm(),
    fromDer(template.issuerDer),
    sequence(fromDer(writeTime(template.notBeforeMs)), fromDer(writeTime(template.notAfterMs))),
    fromDer(template.subjectDer),
    fromDer(template.publicKeyDer),
    ...(extensions.length > 0 ? [context(3, sequence(...extensions))] : []),
  );
  const signature = sign('sha256', toDer(toBeSigned), signer);
  return toDer(sequence(toBeSigned, algorithm(), bits(signature)));
}

export function toPem(der: Uint8Array, label = 'CERTIFICATE'): string {
  const lines =
    Buffer.from(der)
      .toString('base64')
      .match(/.{1,64}/g) ?? [];
  return `-----BEGIN ${label}-----\n${lines.join('\n')}\n-----END ${label}-----\n`;
}

export const uriName = (uri: string): AlternativeName => ({ tag: NAME_TAGS.uri, bytes: Buffer.from(uri, 'latin1') });
export const dnsName = (name: string): AlternativeName => ({ tag: NAME_TAGS.dns, bytes: Buffer.from(name, 'latin1') });

/** @param address IPv4 or IPv6 as people write it, already known to be one */
export function ipName(address: string): AlternativeName {
  if (!address.includes(':')) return { tag: NAME_TAGS.ip, bytes: Buffer.from(address.split('.').map(Number)) };
  // The URL parser writes every IPv6 address as hexadecimal groups with at most one gap.
  const canonical = new URL(`http://[${address}]/`).hostname.slice(1, -1);
  const [head = [], tail = []] = canonical.split('::').map((half) => (half === '' ? [] : half.split(':')));
  const gap = new Array<string>(8 - head.length - tail.length).fill('0');
  const groups = [...head, ...gap, ...tail].map((group) => group.padStart(4, '0'));
  return { tag: NAME_TAGS.ip, bytes: Buffer.from(groups.join(''), 'hex') };
}

export function basicConstraints(ca: boolean, pathLength?: number): ExtensionTemplate {
  const parts = ca ? [boolean(true), ...(pathLength === undefined ? [] : [integer(pathLength)])] : [];
  return { oid: EXTENSION_OIDS.basicConstraints, critical: true, value: toDer(sequence(...parts)) };
}

export function keyUsage(usages: readonly KeyUsage[]): ExtensionTemplate {
  const indexes = usages.map((usage) => KEY_USAGES.indexOf(usage));
  const last = Math.max(...indexes);
  const bytes = Buffer.alloc((last >> 3) + 1);
  for (const index of indexes) bytes[index >> 3] = (bytes[index >> 3] as number) | (0x80 >> (index & 7));
  return { oid: EXTENSION_OIDS.keyUsage, critical: true, value: toDer(bits(bytes, 7 - (last & 7))) };
}

/** @param oids of the purposes, at least one */
export const extendedKeyUsage = (oids: readonly string[]): ExtensionTemplate => ({
  oid: EXTENSION_OIDS.extendedKeyUsage,
  critical: false,
  value: toDer(sequence(...oids.map(oid))),
});

export function subjectAltName(names: readonly AlternativeName[]): ExtensionTemplate {
  const entries = names.map(({ tag, bytes }) =>
    asn1.create(Class.CONTEXT_SPECIFIC, (tag & 0x1f) as forge.asn1.Type, false, binary(bytes)),
  );
  return { oid: EXTENSION_OIDS.subjectAltName, critical: false, value: toDer(sequence(...entries)) };
}

/** RFC 7093 §2 method 1: the leftmost 160 bits of the SHA-256 of the key. */
function keyIdentifier(publicKeyDer: Buffer): Buffer {
  return createHash('sha256').update(publicKeyDer).digest().subarray(0, 20);
}

export const subjectKeyIdentifier = (publicKeyDer: Buffer): ExtensionTemplate => ({
  oid: EXTENSION_OIDS.subjectKeyIdentifier,
  critical: false,
  value: toDer(octets(keyIdentifier(publicKeyDer))),
});

/** @param signer the issuer's private or public key */
export function authorityKeyIdentifier(signer: KeyObject): ExtensionTemplate {
  const key = signer.type === 'private' ? createPublicKey(signer) : signer;
  const identifier = keyIdentifier(key.export({ type: 'spki', format: 'der' }));
  const keyId = asn1.create(Class.CONTEXT_SPECIFIC, 0 as forge.asn1.Type, false, binary(identifier));
  return { oid: EXTENSION_OIDS.authorityKeyIdentifier, critical: false, value: toDer(sequence(keyId)) };
}
