/** What somebody on the same network can do with mDNS: lie about who they are, flood, say that others are gone. */
import { test } from 'tap';
import { startPeer } from '../support/mdns-peers.js';
import { makeMesh } from '../support/mesh.js';
import { createLan, type LanHost, noNetns } from '../support/netns.js';
import type { Spawner } from '../support/program.js';

const options = { skip: noNetns, timeout: 180_000 };
const ours = 'a'.repeat(64);
/** What a process may grow by in a flood of a thousand claims, generously. */
const GROWTH_BYTES_MAX = 48 * 2 ** 20;

const on =
  (host: LanHost): Spawner =>
  (file, args, options) =>
    host.spawn(file, args, options);

test(
  'A1: a rogue that advertises this mesh hears no byte; the agent goes on to the real coordinator',
  options,
  async (t) => {
    const lan = createLan(t, ['coordinator', 'agent', 'attacker']);
    const mesh = makeMesh(t, { mdns: true });
    const home = lan.host('coordinator');
    mesh.enter = ['ip', 'netns', 'exec', home.namespace];
    const { ready } = await mesh.startCoordinator({ spawner: on(home), args: ['--no-mdns'] });
    const rogue = await startPeer(t, lan.host('attacker'), 'rogue', ready.caFingerprint);
    const address = lan.host('agent').address();
    const trusting = await startPeer(t, lan.host('agent'), 'trusting', address, 'the-token');
    await trusting.said((line) => line.stopped === true);
    await rogue.said((line) => line.heard === 'the-token');
    t.pass('who believes an advertisement tells its token to anybody');
    const before = await rogue.report();

    const joining = mesh.startAgent('victim', { spawner: on(lan.host('agent')), args: ['--slots', '1'] });
    await rogue.said((line) => (line.visited ?? 0) > (before.visited ?? 0));
    const port = ready.address.split(':').at(-1) ?? '';
    await startPeer(t, home, 'advertise', 'one', port, ready.caFingerprint);
    const { ready: agent, program } = await joining;
    t.equal(agent.coordinator, `${home.address()}:${port}`);
    t.equal((await rogue.report()).heard, 'the-token', 'of the agent it heard nothing');
    const refused = await program.logged('coordinator.refused');
    t.match(refused, { address: `${lan.host('attacker').address()}:${rogue.lines[0]?.port}`, reason: /another mesh/ });
  },
);

test(
  'A2: a thousand false records: the library keeps them all, at most 64 are held here, and none hides the real one',
  options,
  async (t) => {
    const lan = createLan(t, ['coordinator', 'box', 'attacker']);
    const [box, attacker] = [lan.host('box'), lan.host('attacker')];
    const plain = await startPeer(t, box, 'plain', box.address());
    const own = await startPeer(t, box, 'browse', ours);
    const all = await startPeer(t, box, 'browse', '-');
    const atFirst = { own: (await own.report()).rss ?? 0, all: (await all.report()).rss ?? 0 };
    const flood = await startPeer(t, attacker, 'flood', attacker.address(), ours);
    await flood.said((line) => line.flooded === true);
    await plain.said((line) => (line.kept ?? 0) > 500);
    t.pass('unprotected, more than 500 services are kept');
    await flood.stop();
    await startPeer(t, lan.host('coordinator'), 'advertise', 'one', '7443', ours);
    await own.found(lan.host('coordinator').address(), 7443);
    await all.found(lan.host('coordinator').address(), 7443);
    for (const [name, peer] of Object.entries({ own, all })) {
      const { held = [], rss = 0 } = await peer.report();
      t.ok(held.length <= 64, `${held.length} are held`);
      t.ok(rss - atFirst[name as 'own' | 'all'] < GROWTH_BYTES_MAX, 'memory is flat');
      t.ok(
        held.every(({ id, port }) => /^[0-9a-f]{16}$/.test(id) && port > 0),
        'nothing malformed is among them',
      );
    }
    t.ok(((await own.report()).foreign ?? 0) > 100, 'the flood arrived');
  },
);

test('A3: a forged goodbye: the library believes it, the session stays', options, async (t) => {
  const lan = createLan(t, ['coordinator', 'agent', 'attacker']);
  const mesh = makeMesh(t, { mdns: true });
  const home = lan.host('coordinator');
  mesh.enter = ['ip', 'netns', 'exec', home.namespace];
  const watcher = await startPeer(t, lan.host('agent'), 'plain', lan.host('agent').address());
  await mesh.startCoordinator({ spawner: on(home) });
  const agent = await mesh.startAgent('steady', { spawner: on(lan.host('agent')), args: ['--slots', '1'] });
  const { instance } = await watcher.said((line) => line.instance !== undefined);
  const marks = { agent: agent.program.mark(), coordinator: mesh.coordinator.program.mark() };
  await startPeer(t, lan.host('attacker'), 'goodbye', lan.host('attacker').address(), instance ?? '');
  await watcher.said((line) => line.down === instance);
  t.match(await mesh.submit('--wait', '--', 'true'), { status: 'COMPLETED' }, 'work is done as before');
  const { events } = agent.program;
  t.notOk(events.slice(marks.agent).some(({ event }) => event === 'session.ended'));
  const heard = mesh.coordinator.program.events.slice(marks.coordinator);
  t.notOk(heard.some(({ event }) => event === 'node.disconnected'));
});

test(
  'A4: two of one name: with the library the leaving one takes the other along, here both stay visible',
  options,
  async (t) => {
    const lan = createLan(t, ['first', 'second', 'box']);
    const [first, second, box] = ['first', 'second', 'box'].map((name) => lan.host(name)) as [
      LanHost,
      LanHost,
      LanHost,
    ];
    const plain = await startPeer(t, box, 'plain', box.address());
    const stays = await startPeer(t, first, 'publish', 'same', '1001', first.address());
    const leaves = await startPeer(t, second, 'publish', 'same', '1002', second.address());
    await plain.said((line) => line.instance === 'same');
    await leaves.stop();
    await plain.said((line) => line.down === 'same');
    t.same((await plain.report()).names, [], 'although the other one is still there');
    await stays.stop();

    const browser = await startPeer(t, box, 'browse', ours);
    await startPeer(t, first, 'advertise', 'same', '2001', ours);
    const loser = await startPeer(t, second, 'advertise', 'same', '2002', ours);
    await Promise.all([browser.found(first.address(), 2001), browser.found(second.address(), 2002)]);
    await loser.stop();
    await browser.said((line) => line.goodbye === true);
    const late = await startPeer(t, box, 'browse', ours);
    await late.found(first.address(), 2001);
    t.ok((await browser.held()).held.some(({ port }) => port === 2001));
  },
);
