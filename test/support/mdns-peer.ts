/**
 * A process that speaks mDNS, to be put into a namespace. Says JSON lines, hears words:
 *   advertise NAME PORT DIGEST · browse DIGEST|- (words: held, rescan)
 * and as others do, or attackers would:
 *   publish NAME PORT ADDRESS · plain ADDRESS (word: held) · trusting ADDRESS TOKEN: the library as it comes
 *   rogue DIGEST (word: held) · flood ADDRESS DIGEST · goodbye ADDRESS INSTANCE
 */
import { createSocket } from 'node:dgram';
import type { AddressInfo } from 'node:net';
import { createInterface } from 'node:readline';
import { setImmediate } from 'node:timers/promises';
import { connect as tlsConnect, createServer as createTlsServer } from 'node:tls';
import { Bonjour } from 'bonjour-service';
import { systemClock } from '../../common/clock.js';
import { silentLogger } from '../../common/log.js';
import { Advertiser } from '../../coordinator/services/advertise.js';
import { Discovery } from '../../link/discovery.js';
import { openMulticast, SERVICE_TYPE } from '../../link/mdns.js';
import { makeTestMesh } from './test-mesh.js';

const say = (line: object): boolean => process.stdout.write(`${JSON.stringify(line)}\n`);
const report = (line: object): boolean => say({ ...line, rss: process.memoryUsage.rss() });
const [mode, ...args] = process.argv.slice(2) as [string, ...string[]];
const common = { clock: systemClock, log: silentLogger, scanMs: 200 };

async function advertise(name: string, port: string, rootDigest: string) {
  const advertiser = new Advertiser({ ...common, name, port: Number(port), rootDigest: () => rootDigest });
  await advertiser.start();
  say({ instance: advertiser.instance, interfaces: advertiser.interfaceNames });
  process.once('SIGTERM', () => {
    void advertiser.stop().then(() => say({ stopped: true }));
    process.stdin.destroy();
  });
}

async function browse(digest: string) {
  const discovery = new Discovery({ ...common, ...(digest === '-' ? {} : { rootDigests: [digest] }) });
  discovery.onCandidate((candidate) => say({ candidate }));
  listenForGoodbyes();
  await discovery.start();
  say({ interfaces: discovery.interfaceNames });
  createInterface(process.stdin).on('line', (word) => {
    if (word === 'held')
      report({ held: discovery.candidates, foreign: discovery.foreign, interfaces: discovery.interfaceNames });
    if (word === 'rescan') discovery.rescan();
  });
  process.once('SIGTERM', () => {
    process.stdin.destroy();
    void discovery.stop().then(() => process.exit());
  });
}

/** Tells when a goodbye came by, so that a test knows that it was heard and ignored. */
function listenForGoodbyes() {
  const { bonjour } = openMulticast('0.0.0.0', () => undefined);
  const { server } = bonjour as unknown as {
    server: {
      mdns: {
        on(event: 'response', hear: (packet: { answers: { type: string; ttl: number; name: string }[] }) => void): void;
      };
    };
  };
  server.mdns.on('response', ({ answers }) => {
    if (answers.some(({ type, ttl }) => type === 'PTR' && ttl === 0)) say({ goodbye: true });
  });
}

/** A thousand records that claim coordinators, well and badly made, then packets that are nothing at all; until it is stopped. */
async function flood(address: string, digest: string) {
  const socket = openMulticast(address, () => undefined);
  process.once('SIGTERM', () => process.exit());
  say({ interfaces: [address] });
  for (;;) {
    await claims(socket, digest);
    await garbage(address);
    say({ flooded: true });
    // Datagrams that are sent at once keep the loop in one phase: without a step out of it no signal would be heard.
    await setImmediate();
  }
}

async function claims(socket: ReturnType<typeof openMulticast>, digest: string) {
  const respond = (records: unknown[]) => new Promise<void>((resolve) => socket.respond(records, () => resolve()));
  for (let i = 0; i < 1000; i++) {
    const name = `fake-${i}._mesh._tcp.local`;
    const id = i % 2 === 0 ? digest.slice(0, 16) : i.toString(16).padStart(16, '0');
    const txt =
      i % 5 === 0 ? [Buffer.from('v'), Buffer.alloc(200, 0xff), Buffer.from('__proto__=x')] : [`v=1-1`, `id=${id}`];
    await respond([
      { name: '_mesh._tcp.local', type: 'PTR', ttl: 4500, data: name },
      { name, type: 'SRV', ttl: 120, data: { port: (i % 65_000) + 1, target: `fake-${i}.local` } },
      { name, type: 'TXT', ttl: 4500, data: txt },
      { name: `fake-${i}.local`, type: 'A', ttl: 120, data: `10.99.${i % 250}.${(i % 200) + 1}` },
    ]);
  }
}

async function garbage(address: string) {
  const socket = createSocket('udp4');
  await new Promise<void>((resolve) => socket.bind(0, address, resolve));
  socket.setMulticastInterface(address);
  for (let length = 0; length < 300; length++) {
    const packet = Buffer.alloc(length);
    // Looks like a response with answers for its first bytes, then goes anywhere.
    for (let i = 0; i < length; i++) packet[i] = (i * 31 + length * 7) & 0xff;
    if (length > 12) packet.set([0, 0, 0x84, 0, 0, 0, 0, 1, 0, 0, 0, 1]);
    await new Promise<void>((resolve) => socket.send(packet, 5353, '224.0.0.251', () => resolve()));
  }
  socket.close();
}

/** bonjour-service as it comes, but for the interface. */
const plainBonjour = (address: string): Bonjour => {
  const options: Record<string, string> = { interface: address, bind: '0.0.0.0' };
  return new Bonjour(options, () => undefined);
};

async function publish(name: string, port: string, address: string) {
  const bonjour = plainBonjour(address);
  const service = bonjour.publish({ name, type: SERVICE_TYPE, port: Number(port), probe: false });
  service.on('up', () => say({ instance: name }));
  process.once('SIGTERM', () => bonjour.unpublishAll(() => process.exit()));
}

/** Keeps what it hears, as a program would that takes the library at its word. */
async function plain(address: string) {
  const browser = plainBonjour(address).find({ type: SERVICE_TYPE });
  browser.on('up', (service) => say({ instance: service.name, kept: browser.services.length }));
  browser.on('down', (service) => say({ down: service.name }));
  say({ interfaces: [address] });
  createInterface(process.stdin).on('line', () => report({ names: browser.services.map(({ name }) => name) }));
}

/** Believes whoever answers first. */
async function trusting(address: string, token: string) {
  const browser = plainBonjour(address).find({ type: SERVICE_TYPE });
  browser.once('up', ({ port, referer }) => {
    const where = { host: referer?.address ?? address, port, rejectUnauthorized: false };
    const socket = tlsConnect(where, () => socket.end(token, () => say({ stopped: true })));
  });
  say({ interfaces: [address] });
}

/** A coordinator of a mesh of its own that claims to be of another, and notes every byte it is told. */
async function rogue(digest: string) {
  const own = makeTestMesh('rogue').credential('coordinator', 'rogue');
  let heard = '';
  let visited = 0;
  const credential = { cert: `${own.certificateChain}${own.root}`, key: own.privateKey };
  const server = createTlsServer({ ...credential, ALPNProtocols: ['h2'] }, (socket) => {
    socket.on('error', () => undefined);
    socket.on('data', (bytes: Buffer) => say({ heard: (heard += bytes.toString('latin1')) }));
    say({ visited: ++visited });
  });
  server.on('tlsClientError', () => undefined);
  server.listen(0, '0.0.0.0', () => {
    const { port } = server.address() as AddressInfo;
    const advertiser = new Advertiser({ ...common, name: 'one', port, rootDigest: () => digest });
    void advertiser.start().then(() => say({ port }));
  });
  createInterface(process.stdin).on('line', () => report({ heard, visited }));
}

/** Says that somebody else's instance is gone, again and again as the standard asks of the owner. */
async function goodbye(address: string, instance: string) {
  const socket = openMulticast(address, () => undefined);
  const data = `${instance}._mesh._tcp.local`;
  for (let times = 0; times < 3; times++)
    await new Promise<void>((resolve) =>
      socket.respond([{ name: '_mesh._tcp.local', type: 'PTR', ttl: 0, data }], () => resolve()),
    );
  say({ stopped: true });
  await socket.close();
}

const modes: Record<string, (...args: string[]) => Promise<void>> = {
  advertise: (name = '', port = '', digest = '') => advertise(name, port, digest),
  browse: (digest = '-') => browse(digest),
  flood: (address = '', digest = '') => flood(address, digest),
  publish: (name = '', port = '', address = '') => publish(name, port, address),
  plain: (address = '') => plain(address),
  trusting: (address = '', token = '') => trusting(address, token),
  rogue: (digest = '') => rogue(digest),
  goodbye: (address = '', instance = '') => goodbye(address, instance),
};
await modes[mode]?.(...args);
