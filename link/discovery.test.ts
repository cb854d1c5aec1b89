import type { ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { type Test, test } from 'tap';
import { PROTOCOL } from '../common/package.js';
import { packageRoot } from '../common/package.js';
import { createLan, type LanHost, noNetns } from '../test/support/netns.js';
import type { Candidate } from './candidates.js';

const ours = 'a'.repeat(64);
const theirs = 'b'.repeat(64);
const PEER = join(packageRoot, 'test/support/mdns-peer.ts');

type Said = Partial<{
  candidate: Candidate;
  held: Candidate[];
  interfaces: string[];
  instance: string;
  foreign: number;
  goodbye: boolean;
  stopped: boolean;
  flooded: boolean;
}>;

/** A process in a namespace whose lines can be waited for. */
class Peer {
  readonly lines: Said[] = [];
  readonly #child: ChildProcess;
  #wake: () => void = () => undefined;

  constructor(t: Test, host: LanHost, args: string[]) {
    this.#child = host.spawn(process.execPath, ['--import=tsx', PEER, ...args], {
      stdio: ['pipe', 'pipe', 'inherit'],
      cwd: packageRoot,
    });
    t.teardown(() => this.#child.kill('SIGKILL'));
    createInterface(this.#child.stdout as NodeJS.ReadableStream).on('line', (line) => {
      this.lines.push(JSON.parse(line) as Said);
      this.#wake();
    });
    this.#child.on('exit', () => this.#wake());
  }

  async said(condition: (line: Said) => boolean): Promise<Said> {
    for (let next = 0; ; next++) {
      while (next >= this.lines.length) {
        if (this.#child.exitCode !== null) throw new Error(`it ended with ${this.#child.exitCode}`);
        await new Promise<void>((resolve) => {
          this.#wake = resolve;
        });
      }
      const line = this.lines[next] as Said;
      if (condition(line)) return line;
    }
  }

  async found(host: string, port: number): Promise<Candidate> {
    const { candidate } = await this.said((line) => line.candidate?.host === host && line.candidate.port === port);
    return candidate as Candidate;
  }

  async held(): Promise<Required<Pick<Said, 'held' | 'foreign' | 'interfaces'>>> {
    const asked = this.lines.length;
    this.#child.stdin?.write('held\n');
    const answer = await this.said((line) => line.held !== undefined && this.lines.indexOf(line) >= asked);
    return answer as Required<Pick<Said, 'held' | 'foreign' | 'interfaces'>>;
  }

  async stop(): Promise<void> {
    this.#child.kill('SIGTERM');
    if (this.#child.exitCode === null) await once(this.#child, 'exit');
  }
}

/** Resolves when the process works; its first line says so. */
async function start(t: Test, host: LanHost, ...args: string[]): Promise<Peer> {
  const peer = new Peer(t, host, args);
  await peer.said(() => true);
  return peer;
}

const options = { skip: noNetns, timeout: 60_000 };

test('found across hosts without a default route, whoever came first; goodbyes change nothing', options, async (t) => {
  const lan = createLan(t, ['coordinator', 'early', 'late']);
  const early = await start(t, lan.host('early'), 'browse', ours);
  const coordinator = await start(t, lan.host('coordinator'), 'advertise', 'one', '7443', ours);
  const address = lan.host('coordinator').address();
  t.match(await early.found(address, 7443), { id: 'a'.repeat(16), protocol: PROTOCOL });
  const late = await start(t, lan.host('late'), 'browse', ours);
  await late.found(address, 7443);
  await coordinator.stop();
  await late.said((line) => line.goodbye === true);
  t.equal((await late.held()).held.length, 1, 'the goodbye was heard and ignored');
});

test('two interfaces: both are searched, and each is told its own address only', options, async (t) => {
  const lan = createLan(t, ['both', 'left', 'right', 'middle'], { networks: 2, attach: { left: [0], right: [1] } });
  await start(t, lan.host('left'), 'advertise', 'left', '1001', ours);
  await start(t, lan.host('right'), 'advertise', 'right', '1002', ours);
  const both = await start(t, lan.host('both'), 'browse', ours);
  await both.found(lan.host('left').address(0), 1001);
  await both.found(lan.host('right').address(1), 1002);
  await start(t, lan.host('middle'), 'advertise', 'middle', '1003', ours);
  const right = await start(t, lan.host('right'), 'browse', ours);
  await right.found(lan.host('middle').address(1), 1003);
  const { held } = await right.held();
  t.same(
    held.filter(({ port }) => port === 1003).map(({ host }) => host),
    [lan.host('middle').address(1)],
  );
});

test('two meshes side by side: each finds its own', options, async (t) => {
  const lan = createLan(t, ['one', 'two', 'box']);
  await start(t, lan.host('one'), 'advertise', 'coordinator', '7443', ours);
  await start(t, lan.host('two'), 'advertise', 'coordinator', '7443', theirs);
  const all = await start(t, lan.host('box'), 'browse', '-');
  await all.found(lan.host('one').address(), 7443);
  await all.found(lan.host('two').address(), 7443);
  const box = await start(t, lan.host('box'), 'browse', ours);
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
  const coordinator = await start(t, alone, 'advertise', 'one', '7443', ours);
  t.same(coordinator.lines[0]?.interfaces, ['lo']);
  const box = await start(t, alone, 'browse', ours);
  await box.found('127.0.0.1', 7443);
});

test('interfaces and addresses may change', options, async (t) => {
  const lan = createLan(t, ['coordinator', 'box']);
  const [coordinator, box] = [lan.host('coordinator'), lan.host('box')];
  box.ip('link', 'set', 'eth0', 'down');
  await start(t, coordinator, 'advertise', 'one', '7443', ours);
  const browser = await start(t, box, 'browse', ours);
  t.same(browser.lines[0]?.interfaces, ['lo'], 'the cable is out');
  box.ip('link', 'set', 'eth0', 'up');
  await browser.found(coordinator.address(), 7443);
  t.same((await browser.held()).interfaces, ['eth0']);
  coordinator.ip('address', 'flush', 'dev', 'eth0');
  coordinator.ip('address', 'add', '10.88.0.200/24', 'dev', 'eth0');
  await browser.found('10.88.0.200', 7443);
});

test('a flood is bounded and hides nobody', options, async (t) => {
  const lan = createLan(t, ['coordinator', 'box', 'attacker']);
  const box = await start(t, lan.host('box'), 'browse', ours);
  const all = await start(t, lan.host('box'), 'browse', '-');
  const attacker = await start(t, lan.host('attacker'), 'flood', lan.host('attacker').address(), ours);
  await attacker.said((line) => line.flooded === true);
  await start(t, lan.host('coordinator'), 'advertise', 'one', '7443', ours);
  await box.found(lan.host('coordinator').address(), 7443);
  await all.found(lan.host('coordinator').address(), 7443);
  t.ok((await box.held()).held.length <= 64);
  t.ok((await all.held()).held.length <= 64);
  t.ok((await box.held()).foreign > 100, 'the flood arrived');
});
