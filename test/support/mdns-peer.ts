/**
 * A process that speaks mDNS, to be put into a namespace. Says JSON lines, hears words:
 *   advertise NAME PORT DIGEST · browse DIGEST|- (word: held, rescan) · flood ADDRESS DIGEST
 */
import { createSocket } from 'node:dgram';
import { createInterface } from 'node:readline';
import { systemClock } from '../../common/clock.js';
import { silentLogger } from '../../common/log.js';
import { Advertiser } from '../../coordinator/services/advertise.js';
import { Discovery } from '../../link/discovery.js';
import { openMulticast } from '../../link/mdns.js';

const say = (line: object): boolean => process.stdout.write(`${JSON.stringify(line)}\n`);
const [mode, ...args] = process.argv.slice(2) as [string, ...string[]];
const common = { clock: systemClock, log: silentLogger, scanMs: 200 };

async function advertise(name: string, port: string, rootDigest: string) {
  const advertiser = new Advertiser({ ...common, name, port: Number(port), rootDigest });
  await advertiser.start();
  say({ instance: advertiser.instance, interfaces: advertiser.interfaceNames });
  process.once('SIGTERM', () => {
    void advertiser.stop().then(() => say({ stopped: true }));
    process.stdin.destroy();
  });
}

async function browse(digest: string) {
  const discovery = new Discovery({ ...common, ...(digest === '-' ? {} : { rootDigest: digest }) });
  discovery.onCandidate((candidate) => say({ candidate }));
  listenForGoodbyes();
  await discovery.start();
  say({ interfaces: discovery.interfaceNames });
  createInterface(process.stdin).on('line', (word) => {
    if (word === 'held')
      say({ held: discovery.candidates, foreign: discovery.foreign, interfaces: discovery.interfaceNames });
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

/** A thousand records that claim coordinators, well and badly made, then packets that are nothing at all. */
async function flood(address: string, digest: string) {
  const socket = openMulticast(address, () => undefined);
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
  await garbage(address);
  say({ flooded: true });
  await socket.close();
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

const modes: Record<string, (...args: string[]) => Promise<void>> = {
  advertise: (name = '', port = '', digest = '') => advertise(name, port, digest),
  browse: (digest = '-') => browse(digest),
  flood: (address = '', digest = '') => flood(address, digest),
};
await modes[mode]?.(...args);
