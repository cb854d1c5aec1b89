/**
 * The profile (profile.ts) as rules, one at a time: each is given what stands in a certificate and the row of the kind it
 * claims to be, and says in what the two differ. The first that objects is the reason people read. Every rule is needed:
 * a test holds a certificate against it that no other rule refuses.
 */
import type { CertificateFields } from './fields.js';
import { NAME_TAGS } from './fields.js';
import { publicKeyProblem, readKey, SIGNATURES } from './keys.js';
import { BACKDATE_MS, EXTENDED_KEY_USAGE_OIDS, EXTENSION_OIDS, isHostName, type Profile } from './profile.js';
import { quoted } from './spiffe.js';

export interface Rule {
  name: string;
  /** What is wrong, to follow "it does not fit the profile: "; undefined when nothing is. */
  problem: (fields: CertificateFields, profile: Profile) => string | undefined;
}

/** RFC 5280 §4.1.2.2: at most 20 octets, the sign bit among them. */
const SERIAL_BITS_MAX = 159;

const KNOWN_EXTENSIONS: ReadonlySet<string> = new Set(Object.values(EXTENSION_OIDS));

/** @param wanted without repeats, as the profile has it */
const sameSet = (found: readonly string[], wanted: readonly string[]): boolean =>
  found.length === wanted.length && wanted.every((entry) => found.includes(entry));

const words = (list: readonly string[]): string => (list.length === 0 ? 'nothing' : list.join(' + '));

const usageName = (oid: string): string =>
  Object.entries(EXTENDED_KEY_USAGE_OIDS).find(([, known]) => known === oid)?.[0] ?? oid;

const isHost = (tag: number): boolean => tag === NAME_TAGS.dns || tag === NAME_TAGS.ip;

export const PROFILE_RULES: readonly Rule[] = [
  {
    name: 'version',
    problem: ({ version }) => (version === 3 ? undefined : `it is of X.509 version ${version}, not 3`),
  },
  {
    name: 'serial',
    problem: ({ serial }) => {
      const number = BigInt(`0x${serial}`);
      return number > 0n && number < 1n << BigInt(SERIAL_BITS_MAX)
        ? undefined
        : 'its serial number is zero or too long';
    },
  },
  {
    name: 'signature algorithm',
    problem: ({ signatureAlgorithm }) =>
      Object.hasOwn(SIGNATURES, signatureAlgorithm)
        ? undefined
        : `it is signed with the algorithm ${signatureAlgorithm}; ECDSA and RSA with SHA-2 are accepted`,
  },
  {
    name: 'basic constraints',
    problem: ({ basicConstraints }) => (basicConstraints ? undefined : 'it has no basic constraints'),
  },
  {
    name: 'authority or not',
    problem: ({ basicConstraints }, { ca }) =>
      basicConstraints && basicConstraints.ca !== ca
        ? `its CA bit is ${basicConstraints.ca}, and ${ca} in the profile`
        : undefined,
  },
  {
    name: 'path length',
    problem: ({ basicConstraints }, { pathLength }) =>
      basicConstraints && basicConstraints.pathLength !== pathLength
        ? `its path length is ${basicConstraints.pathLength ?? 'unlimited'}, and ${pathLength ?? 'absent'} in the profile`
        : undefined,
  },
  {
    name: 'key usage',
    problem: ({ keyUsage }, profile) =>
      sameSet(keyUsage, profile.keyUsage)
        ? undefined
        : `its key usage is ${words(keyUsage)}, and ${words(profile.keyUsage)} in the profile`,
  },
  {
    name: 'extended key usage',
    problem: ({ extendedKeyUsage }, profile) => {
      const usages = extendedKeyUsage.map(usageName);
      if (sameSet(usages, profile.extendedKeyUsage)) return undefined;
      return `its extended key usage is ${words(usages)}, and ${words(profile.extendedKeyUsage)} in the profile`;
    },
  },
  {
    name: 'critical where it must be',
    problem: ({ extensions, critical }) => {
      const lax = (['basicConstraints', 'keyUsage'] as const).find(
        (name) => extensions.has(EXTENSION_OIDS[name]) && !critical.has(EXTENSION_OIDS[name]),
      );
      return lax && `its ${lax} is not critical`;
    },
  },
  {
    name: 'nothing critical that is unknown',
    problem: ({ critical }) => {
      const foreign = [...critical].find((oid) => !KNOWN_EXTENSIONS.has(oid));
      return foreign && `it has an unknown critical extension (${foreign})`;
    },
  },
  {
    name: 'dates in order',
    problem: ({ notBeforeMs, notAfterMs }) =>
      notAfterMs > notBeforeMs ? undefined : 'it ends before it begins to be valid',
  },
  {
    name: 'lifetime',
    problem: ({ notBeforeMs, notAfterMs }, { lifetimeMsMax }) => {
      const livesMs = notAfterMs - notBeforeMs;
      if (livesMs <= lifetimeMsMax + BACKDATE_MS) return undefined;
      return `it is valid for ${Math.ceil(livesMs / 86_400_000)} days, longer than the profile allows`;
    },
  },
  {
    name: 'kinds of names',
    problem: ({ alternativeNames }) =>
      alternativeNames.every(({ tag }) => tag === NAME_TAGS.uri || isHost(tag))
        ? undefined
        : 'it has an alternative name of a foreign kind',
  },
  {
    name: 'hosts',
    problem: ({ alternativeNames }, { hosts }) =>
      !hosts && alternativeNames.some(({ tag }) => isHost(tag))
        ? 'it has host names or addresses, which only a coordinator has'
        : undefined,
  },
  {
    name: 'host names',
    problem: ({ alternativeNames }, { hosts }) => {
      const names = hosts ? alternativeNames.filter(({ tag }) => tag === NAME_TAGS.dns) : [];
      const foreign = names.find(({ bytes }) => !isHostName(bytes.toString('latin1')));
      return foreign && `${quoted(foreign.bytes)} is not a host name`;
    },
  },
  {
    name: 'addresses',
    problem: ({ alternativeNames }, { hosts }) =>
      hosts && alternativeNames.some(({ tag, bytes }) => tag === NAME_TAGS.ip && ![4, 16].includes(bytes.length))
        ? 'it has an address of impossible size'
        : undefined,
  },
  {
    name: 'key',
    problem: ({ publicKeyDer }) => {
      const key = readKey(publicKeyDer);
      return key ? publicKeyProblem(key) : 'its public key does not parse';
    },
  },
];
