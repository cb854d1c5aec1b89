import { test } from 'tap';
import { PROTOCOL } from '../common/package.js';
import { startPeer } from '../test/support/mdns-peers.js';
import { createLan, noNetns } from '../test/support/netns.js';

const ours = 'a'.repeat(64);
const theirs = 'b'.repeat(64);

const options = { skip: noNetns, timeout: 60_000 };

test('found across hosts without a default route, whoever came first; goodbyes change nothing', options, async (t) => {
  const lan = createLan(t, ['coordinator', 'early', 'late']);
  const early = await startPeer(t, lan.host('early'), 'browse', ours);
  const coordinator = await startPeer(t, lan.host('coordinator'), 'advertise', 'one', '7443', ours);
  const address = lan.host('coordinator').address();
  t.match(await early.found(address, 7443), { id: 'a'.repeat(16), protocol: PROTOCOL });
  const late = await startPeer(t, lan.host('late'), 'browse', ours);
  await late.found(address, 7443);
  await coordinator.stop();
  await late.said((line) => line.goodbye === true);
  t.equal((await late.held()).held.length, 1, 'the goodbye was heard and ignored');
});

test('two interfaces: both are searched, and each is told its own address only', options, async (t) => {
  const lan = createLan(t, ['both', 'left', 'right', 'middle'], { networks: 2, attach: { left: [0], right: [1] } });
  await startPeer(t, lan.host('left'), 'advertise', 'left', '1001', ours);
  await startPeer(t, lan.host('right'), 'advertise', 'right', '1002', ours);
  const both = await startPeer(t, lan.host('both'), 'browse', ours);
  await both.found(lan.host('left').address(0), 1001);
  await both.found(lan.host('right').address(1), 1002);
  await startPeer(t, lan.host('middle'), 'advertise', 'middle', '1003', ours);
  const right = await startPeer(t, lan.host('right'), 'browse', ours);
  await right.found(lan.host('middle').address(1), 1003);
  const { held } = await right.held();
  t.same(
    held.filter(({ port }) => port === 1003).map(({ host }) => host),
    [lan.host('middle').address(1)],
  );
});

test('two meshes side by side: each finds its own', options, async (t) => {
  const lan = createLan(t, ['one', 'two', 'box']);
  await startPeer(t, lan.host('one'), 'advertise', 'coordinator', '7443', ours);
  await startPeer(t, lan.host('two'), 'advertise', 'coordinator', '7443', theirs);
  const all = await startPeer(t, lan.host('box'), 'browse', '-');
  await all.found(lan.host('one').address(), 7443);
  await all.found(lan.host('two').address(), 7443);
  const box = await startPeer(t, lan.host('box'), 'browse', ours);
  await box.found(lan.host('one').address(), 7443);
  const { held } = await box.held();
  t.same(
    held.map(({ host }) => host),
    [lan.host('one').address()],
  );
});

test('with no network at all it is found on this machine', options, async (t) => {
  const lan = createLan(t, ['alone'], { networks: 0 });
  const alone = lan.host('alone');
  const coordinator = await startPeer(t, alone, 'advertise', 'one', '7443', ours);
  t.same(coordinator.lines[0]?.interfaces, ['lo']);
  const box = await startPeer(t, alone, 'browse', ours);
  await box.found('127.0.0.1', 7443);
});

test('interfaces and addresses may change', options, async (t) => {
  const lan = createLan(t, ['coordinator', 'box']);
  const [coordinator, box] = [lan.host('coordinator'), lan.host('box')];
  box.ip('link', 'set', 'eth0', 'down');
  await startPeer(t, coordinator, 'advertise', 'one', '7443', ours);
  const browser = await startPeer(t, box, 'browse', ours);
  t.same(browser.lines[0]?.interfaces, ['lo'], 'the cable is out');
  box.ip('link', 'set', 'eth0', 'up');
  await browser.found(coordinator.address(), 7443);
  t.same((await browser.held()).interfaces, ['eth0']);
  coordinator.ip('address', 'flush', 'dev', 'eth0');
  coordinator.ip('address', 'add', '10.88.0.200/24', 'dev', 'eth0');
  await browser.found('10.88.0.200', 7443);
});
