import { isIP, isIPv6 } from 'node:net';
import { MeshError } from '../common/errors.js';

/** Where a coordinator may be reached. A host is a name, an IPv4 address, or an IPv6 address without brackets. */
export interface Endpoint {
  host: string;
  port: number;
}

export const DEFAULT_PORT = 7443;

const HOST_NAME = /^[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?(?:\.[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?)*\.?$/i;
const HINT = 'write it like 192.168.1.5, coordinator.lan:7443 or [fd00::5]:7443';

/**
 * Parses `HOST[:PORT]`, `[v6][:PORT]` or a bare IPv6 address; without a port it is 7443.
 * @throws MeshError USAGE that shows the text and what is wrong with it
 */
export function parseEndpoint(text: string): Endpoint {
  const [host, port] = splitEndpoint(text.trim());
  if (host === '') throw usage(text, 'has no host');
  if (isIP(host) === 0 && (host.length > 253 || !HOST_NAME.test(host) || /^[\d.]+$/.test(host)))
    throw usage(text, 'has neither a host name nor an address');
  return { host, port: port === undefined ? DEFAULT_PORT : parsePort(text, port) };
}

/** Of addresses that were remembered or heard of, those that can be read: a bad one is no reason to fail. */
export const knownEndpoints = (addresses: readonly string[]): Endpoint[] =>
  addresses.flatMap((address) => {
    try {
      return [parseEndpoint(address)];
    } catch {
      return [];
    }
  });

function splitEndpoint(text: string): [host: string, port: string | undefined] {
  const bracketed = /^\[([^\]]*)\](?::(.*))?$/.exec(text);
  if (bracketed) {
    const host = bracketed[1] as string;
    if (!isIPv6(host)) throw usage(text, 'has no IPv6 address in its brackets');
    return [host, bracketed[2]];
  }
  if (isIPv6(text)) return [text, undefined];
  const colon = text.indexOf(':');
  return colon < 0 ? [text, undefined] : [text.slice(0, colon), text.slice(colon + 1)];
}

function parsePort(text: string, port: string): number {
  const value = Number(port);
  if (!/^\d{1,5}$/.test(port) || value < 1 || value > 65535) throw usage(text, 'has no port from 1 to 65535');
  return value;
}

const usage = (text: string, why: string): MeshError =>
  new MeshError('USAGE', `the coordinator address ${JSON.stringify(text.slice(0, 80))} ${why}`, { hint: HINT });

/** As people write it and as `parseEndpoint` reads it back. */
export const formatEndpoint = ({ host, port }: Endpoint): string =>
  isIPv6(host) ? `[${host}]:${port}` : `${host}:${port}`;

/** As grpc-js wants it: addresses are used as they are, names are resolved on every reconnect. */
export function grpcTarget({ host, port }: Endpoint): string {
  if (isIPv6(host)) return `ipv6:[${host}]:${port}`;
  return isIP(host) === 4 ? `ipv4:${host}:${port}` : `dns:${host}:${port}`;
}
