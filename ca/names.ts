import { hostname } from 'node:os';
import { isIP } from 'node:net';
import { type AlternativeName, NAME_TAGS } from '../common/identity/fields.js';
import { isHostName } from '../common/identity/profile.js';
import { lanAddresses } from '../common/interfaces.js';

export const printable = (text: string): string => text.replace(/\n/g, ', ').replace(/[^\x20-\x7e]/g, '?');

/** An alternative name as OpenSSL writes it. */
export function nameText({ tag, bytes }: AlternativeName): string {
  const text = printable(bytes.toString('latin1'));
  if (tag === NAME_TAGS.uri) return `URI:${text}`;
  if (tag === NAME_TAGS.dns) return `DNS:${text}`;
  if (tag === NAME_TAGS.ip) return `IP:${addressText(bytes)}`;
  return `other:${bytes.toString('hex').slice(0, 64)}`;
}

/** The usual spelling of the 4 or 16 bytes of an address. */
export function addressText(bytes: Buffer): string {
  if (bytes.length === 4) return bytes.join('.');
  const groups = bytes.toString('hex').match(/.{4}/g)?.join(':') ?? '';
  return isIP(groups) ? new URL(`http://[${groups}]/`).hostname.slice(1, -1) : bytes.toString('hex');
}

export interface Hosts {
  dnsNames: string[];
  ipAddresses: string[];
}

/** Sorts names and addresses apart. */
export const hostsFrom = (entries: readonly string[]): Hosts => ({
  dnsNames: entries.filter((entry) => !isIP(entry)),
  ipAddresses: entries.filter((entry) => isIP(entry) !== 0),
});

/** What a coordinator on this machine is called by browsers and Prometheus: this host's names and addresses. */
export function hostsOfThisMachine(): Hosts {
  const name = hostname().toLowerCase();
  const names = ['localhost', name, `${name.split('.')[0]}.local`].filter(isHostName);
  const addresses = lanAddresses().map(({ address }) => address);
  return { dnsNames: [...new Set(names)], ipAddresses: ['127.0.0.1', '::1', ...addresses] };
}

/** The names and addresses a certificate carries beside its identity. */
export const hostsIn = (names: readonly AlternativeName[]): Hosts => ({
  dnsNames: names.filter(({ tag }) => tag === NAME_TAGS.dns).map(({ bytes }) => bytes.toString('latin1')),
  ipAddresses: names.filter(({ tag }) => tag === NAME_TAGS.ip).map(({ bytes }) => addressText(bytes)),
});
