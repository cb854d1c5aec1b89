/**
 * What is exactly in a certificate, read by our own strict reader: node:crypto tells neither the path length nor the key
 * usage bits nor whether an extension is critical, and it prints names as text, where `\0` and quoting have hidden things.
 * Nothing is judged here; check.ts compares it with the profile.
 */
import {
  contextTag,
  DerError,
  type DerValue,
  readBitString,
  readBoolean,
  readChildren,
  readDer,
  readOctets,
  readOid,
  readPositiveInteger,
  readTime,
  TAG,
} from './der.js';
import { EXTENSION_OIDS, KEY_USAGES, type KeyUsage } from './profile.js';

/** GeneralName tags (RFC 5280 §4.2.1.6). */
export const NAME_TAGS = {
  dns: contextTag(2, false),
  uri: contextTag(6, false),
  ip: contextTag(7, false),
} as const;

export interface AlternativeName {
  tag: number;
  bytes: Buffer;
}

export interface CertificateFields {
  version: number;
  /** Lower-case hex without leading zeros. */
  serial: string;
  /** OID. */
  signatureAlgorithm: string;
  /** The Name, DER. */
  issuerDer: Buffer;
  subjectDer: Buffer;
  notBeforeMs: number;
  notAfterMs: number;
  publicKeyDer: Buffer;
  basicConstraints: { ca: boolean; pathLength: number | undefined } | undefined;
  keyUsage: KeyUsage[];
  /** OIDs. */
  extendedKeyUsage: string[];
  alternativeNames: AlternativeName[];
  /** OIDs of the extensions there are. */
  extensions: Set<string>;
  critical: Set<string>;
}

interface Extension {
  critical: boolean;
  value: Buffer;
}

/** @throws DerError when it is not one strictly encoded certificate */
export function readCertificate(der: Uint8Array): CertificateFields {
  const outer = readChildren(readDer(der, TAG.sequence));
  if (outer.length !== 3) throw new DerError('a certificate has three parts');
  const [toBeSigned, outerAlgorithm, signature] = outer;
  if (readBitString(signature).unused !== 0) throw new DerError('a signature that is no whole number of bytes');
  const parts = readChildren(toBeSigned);
  const version = parts[0]?.tag === contextTag(0) ? readVersion(parts.shift()) : 1;
  const [serial, algorithm, issuer, validity, subject, publicKey, ...rest] = parts;
  if (!algorithm || !outerAlgorithm?.raw.equals(algorithm.raw)) throw new DerError('it names two signature algorithms');
  const times = readChildren(validity);
  if (times.length !== 2) throw new DerError('a validity has two times');
  const extensions = readExtensions(rest);
  return {
    version,
    serial: readPositiveInteger(serial),
    signatureAlgorithm: readOid(readChildren(algorithm)[0]),
    issuerDer: sequence(issuer),
    notBeforeMs: readTime(times[0]),
    notAfterMs: readTime(times[1]),
    subjectDer: sequence(subject),
    publicKeyDer: sequence(publicKey),
    ...interpret(extensions),
    extensions: new Set(extensions.keys()),
    critical: new Set([...extensions].filter(([, { critical }]) => critical).map(([oid]) => oid)),
  };
}

function sequence(value: DerValue | undefined): Buffer {
  readChildren(value);
  return (value as DerValue).raw;
}

function readVersion(value: DerValue | undefined): number {
  const children = readChildren(value, contextTag(0));
  if (children.length !== 1) throw new DerError('a version is one number');
  return Number.parseInt(readPositiveInteger(children[0]), 16) + 1;
}

function readExtensions(rest: DerValue[]): Map<string, Extension> {
  const found = new Map<string, Extension>();
  if (rest.length === 0) return found;
  const wrapped = readChildren(rest[0], contextTag(3));
  if (rest.length > 1 || wrapped.length !== 1) throw new DerError('it has parts that do not belong there');
  for (const entry of readChildren(wrapped[0])) {
    const parts = readChildren(entry);
    const oid = readOid(parts[0]);
    if (found.has(oid)) throw new DerError(`the extension ${oid} stands there twice`);
    const critical = parts.length === 3;
    if (critical && !readBoolean(parts[1])) throw new DerError('a default value that is written out');
    if (parts.length < 2 || parts.length > 3) throw new DerError('an extension of impossible form');
    found.set(oid, { critical, value: readOctets(parts.at(-1)) });
  }
  return found;
}

function interpret(extensions: Map<string, Extension>) {
  const list = (oid: string): DerValue[] => {
    const extension = extensions.get(oid);
    if (!extension) return [];
    const values = readChildren(readDer(extension.value, TAG.sequence));
    if (values.length === 0) throw new DerError(`the extension ${oid} is empty`);
    return values;
  };
  const constraints = extensions.get(EXTENSION_OIDS.basicConstraints);
  const usage = extensions.get(EXTENSION_OIDS.keyUsage);
  return {
    basicConstraints: constraints && readBasicConstraints(constraints.value),
    keyUsage: usage ? readKeyUsage(usage.value) : [],
    extendedKeyUsage: list(EXTENSION_OIDS.extendedKeyUsage).map(readOid),
    alternativeNames: list(EXTENSION_OIDS.subjectAltName).map(({ tag, content }) => ({ tag, bytes: content })),
  };
}

function readBasicConstraints(der: Buffer): { ca: boolean; pathLength: number | undefined } {
  const [ca, pathLength, ...more] = readChildren(readDer(der, TAG.sequence));
  if (more.length > 0) throw new DerError('basic constraints of impossible form');
  if (!ca) return { ca: false, pathLength: undefined };
  if (!readBoolean(ca)) throw new DerError('a default value that is written out');
  return { ca: true, pathLength: pathLength && Number.parseInt(readPositiveInteger(pathLength), 16) };
}

function readKeyUsage(der: Buffer): KeyUsage[] {
  const { bytes, unused } = readBitString(readDer(der, TAG.bitString));
  const count = bytes.length * 8 - unused;
  if (count > KEY_USAGES.length) throw new DerError('a key usage of impossible length');
  // X.690 §11.2.2: a named bit list ends with its last bit that is set.
  if (count > 0 && ((bytes.at(-1) ?? 0) & (1 << unused)) === 0) throw new DerError('a key usage that is not minimal');
  return KEY_USAGES.filter((_, bit) => bit < count && ((bytes[bit >> 3] ?? 0) & (0x80 >> (bit & 7))) !== 0);
}
