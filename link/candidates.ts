/**
 * What mDNS claimed so far, bounded. Anybody on the network can claim anything, so a claim is a hint: it is shaped,
 * counted and dropped here, and believed nowhere. A flood from one machine fills that machine's share and no more.
 */
import { isIPv4, isIPv6 } from 'node:net';
import { type Endpoint, formatEndpoint } from './endpoints.js';
import { parseTxt } from './mdns.js';

export interface Candidate extends Endpoint {
  /** The first 16 hex digits of the mesh's root fingerprint, as claimed. */
  id: string;
  protocol: { min: number; max: number };
}

/** A service as bonjour-service hands it over, with nothing taken for granted. */
export interface Claim {
  port?: unknown;
  txt?: unknown;
  addresses?: unknown;
  referer?: { address?: unknown } | undefined;
}

export const CANDIDATES_MAX = 64;
/** Held at a time from one sender; a sender is who the packet came from. */
const PER_SENDER_MAX = 8;
const ADDRESSES_MAX = 4;

export class Candidates {
  readonly #held = new Map<string, { candidate: Candidate; sender: string }>();
  readonly #rootDigests: readonly string[] | undefined;
  #dropped = 0;
  #foreign = 0;

  /** @param rootDigests SHA-256 of the root certificates, hex; claims of other meshes are skipped. */
  constructor(rootDigests: readonly string[] | undefined) {
    this.#rootDigests = rootDigests;
  }

  get list(): Candidate[] {
    return [...this.#held.values()].map(({ candidate }) => candidate);
  }

  /** How many claims were malformed or came in excess of the bounds. */
  get dropped(): number {
    return this.#dropped;
  }

  /** How many claims were of other meshes. */
  get foreign(): number {
    return this.#foreign;
  }

  /** Takes a claim in; returns the candidates that are new with it. */
  observe(claim: Claim): Candidate[] {
    const advertisement = parseTxt(claim.txt);
    const port = claim.port;
    if (!advertisement || typeof port !== 'number' || !Number.isInteger(port) || port < 1 || port > 65535) {
      this.#dropped++;
      return [];
    }
    if (this.#rootDigests && !this.#rootDigests.some((digest) => digest.startsWith(advertisement.id))) {
      this.#foreign++;
      return [];
    }
    const sender = String(claim.referer?.address);
    return usableAddresses(claim).flatMap((host) => {
      const candidate = { host, port, ...advertisement };
      return this.#hold(candidate, sender) ? [candidate] : [];
    });
  }

  #hold(candidate: Candidate, sender: string): boolean {
    const key = formatEndpoint(candidate);
    if (this.#held.has(key)) return false;
    let fromSender = 0;
    for (const held of this.#held.values()) if (held.sender === sender) fromSender++;
    if (this.#held.size >= CANDIDATES_MAX || fromSender >= PER_SENDER_MAX) {
      this.#dropped++;
      return false;
    }
    this.#held.set(key, { candidate, sender });
    return true;
  }

  /** Gives the place of a candidate that led nowhere to others; when it is claimed again it is new again. */
  forget(endpoint: Endpoint): void {
    this.#held.delete(formatEndpoint(endpoint));
  }
}

/** The sender's own address first: it is the one that certainly reached us. */
function usableAddresses(claim: Claim): string[] {
  const sender = claim.referer?.address;
  const claimed = (Array.isArray(claim.addresses) ? claim.addresses : [])
    .filter((address): address is string => typeof address === 'string')
    .filter((address) => (isIPv4(address) ? usableV4(address) : isIPv6(address) && usableV6(address)))
    .sort((a, b) => rank(a, sender) - rank(b, sender));
  if (claimed.length === 0) return typeof sender === 'string' && isIPv4(sender) && usableV4(sender) ? [sender] : [];
  return [...new Set(claimed)].slice(0, ADDRESSES_MAX);
}

const rank = (address: string, sender: unknown): number => (address === sender ? 0 : isIPv4(address) ? 1 : 2);

/** Not "this network", multicast or broadcast. */
const usableV4 = (address: string): boolean => {
  const first = Number(address.split('.')[0]);
  return first > 0 && first < 224;
};

/** Not unspecified, not multicast, and not link-local, which would need an interface beside it. */
const usableV6 = (address: string): boolean => address !== '::' && !/^f(?:f|e[89ab])/i.test(address);
