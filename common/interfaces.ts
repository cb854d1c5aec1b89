import { networkInterfaces } from 'node:os';

export interface LanAddress {
  interface: string;
  address: string;
  family: 'IPv4' | 'IPv6';
}

/** Every address other machines may know this one by: no loopback, no link-local IPv6. */
export function lanAddresses(): LanAddress[] {
  const found: LanAddress[] = [];
  for (const [name, entries] of Object.entries(networkInterfaces())) {
    for (const entry of entries ?? []) {
      if (entry.internal || entry.address.startsWith('fe80:')) continue;
      found.push({ interface: name, address: entry.address, family: entry.family });
    }
  }
  return found;
}
