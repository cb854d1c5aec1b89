/** Interoperability with Avahi, both ways, on a LAN of namespaces with an Avahi and a message bus of its own. */
import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { type Test, test } from 'tap';
import { PROTOCOL } from '../common/package.js';
import { packageRoot } from '../common/package.js';
import { createLan, type LanHost, noNetns } from '../test/support/netns.js';

const digest = 'a'.repeat(64);
const PEER = join(packageRoot, 'test/support/mdns-peer.ts');

function missingProgram(): string | false {
  for (const program of ['dbus-daemon', 'avahi-daemon', 'avahi-browse', 'avahi-publish']) {
    try {
      execFileSync('sh', ['-c', `command -v ${program}`], { stdio: 'ignore' });
    } catch {
      return `${program} is not installed`;
    }
  }
  return false;
}

const BUS = (path: string) => `<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <listen>unix:path=${path}</listen>
  <auth>EXTERNAL</auth>
  <policy context="default">
    <allow send_destination="*" eavesdrop="true"/>
    <allow eavesdrop="true"/>
    <allow own="*"/>
    <allow user="*"/>
  </policy>
</busconfig>`;

const AVAHI = `[server]
use-ipv4=yes
use-ipv6=no
[wide-area]
enable-wide-area=no
[rlimits]
`;

/** Starts a bus, and Avahi inside the host; returns the environment for its tools. */
async function startAvahi(t: Test, host: LanHost): Promise<NodeJS.ProcessEnv> {
  const folder = mkdtempSync(join(tmpdir(), 'avahi-'));
  t.teardown(() => rmSync(folder, { recursive: true, force: true }));
  const bus = join(folder, 'bus');
  writeFileSync(join(folder, 'bus.conf'), BUS(bus));
  writeFileSync(join(folder, 'avahi.conf'), AVAHI);
  const daemon = spawn('dbus-daemon', [
    '--nofork',
    '--nopidfile',
    '--print-address',
    `--config-file=${join(folder, 'bus.conf')}`,
  ]);
  t.teardown(() => daemon.kill('SIGKILL'));
  await once(daemon.stdout, 'data');
  const env = { ...process.env, DBUS_SYSTEM_BUS_ADDRESS: `unix:path=${bus}` };
  // Its pid file has one place; what is mounted there is seen in this process's namespace only.
  const script = 'mkdir -p /run/avahi-daemon && mount -t tmpfs tmpfs /run/avahi-daemon && exec "$@"';
  const command = ['avahi-daemon', '--no-chroot', '--no-drop-root', '-f', join(folder, 'avahi.conf')];
  const avahi = host.spawn('sh', ['-c', script, 'sh', ...command], { env, stdio: ['ignore', 'ignore', 'pipe'] });
  t.teardown(() => avahi.kill('SIGKILL'));
  await line(avahi, 'stderr', /Server startup complete/);
  return env;
}

/** The first line that matches; what follows is read and dropped. */
function line(child: ChildProcess, stream: 'stdout' | 'stderr', pattern: RegExp): Promise<string> {
  return new Promise((resolve, reject) => {
    const seen: string[] = [];
    createInterface(child[stream] as NodeJS.ReadableStream).on('line', (text) => {
      seen.push(text);
      if (pattern.test(text)) resolve(text);
    });
    child.once('exit', (code) => reject(new Error(`it ended with ${code} before ${pattern}: ${seen.join(' | ')}`)));
  });
}

const peer = (t: Test, host: LanHost, ...args: string[]): ChildProcess => {
  const child = host.spawn(process.execPath, ['--import=tsx', PEER, ...args], {
    stdio: ['pipe', 'pipe', 'inherit'],
    cwd: packageRoot,
  });
  t.teardown(() => child.kill('SIGKILL'));
  return child;
};

const options = { skip: noNetns || missingProgram(), timeout: 60_000 };

test('avahi-browse sees and resolves a coordinator', options, async (t) => {
  const lan = createLan(t, ['coordinator', 'avahi']);
  const [coordinator, box] = [lan.host('coordinator'), lan.host('avahi')];
  const env = await startAvahi(t, box);
  await line(peer(t, coordinator, 'advertise', 'one', '7443', digest), 'stdout', /instance/);
  const browse = box.spawn('avahi-browse', ['-rp', '_mesh._tcp'], { env, stdio: ['ignore', 'pipe', 'inherit'] });
  t.teardown(() => browse.kill('SIGKILL'));
  const resolved = await line(browse, 'stdout', /^=/);
  t.match(resolved, `;${coordinator.address()};7443;`);
  t.match(resolved, /;one-[0-9a-f]{8};_mesh\._tcp;local;one-[0-9a-f]{8}\.local;/);
  t.match(resolved, `"v=${PROTOCOL.min}-${PROTOCOL.max}"`);
  t.match(resolved, '"id=aaaaaaaaaaaaaaaa"');
});

test('a coordinator that Avahi advertises is found, from another host and from the same one', options, async (t) => {
  const lan = createLan(t, ['coordinator', 'box']);
  const host = lan.host('coordinator');
  const env = await startAvahi(t, host);
  const publish = host.spawn(
    'avahi-publish',
    ['-s', 'by hand', '_mesh._tcp', '7443', 'v=1-1', `id=${digest.slice(0, 16)}`],
    { env, stdio: ['ignore', 'inherit', 'pipe'] },
  );
  t.teardown(() => publish.kill('SIGKILL'));
  await line(publish, 'stderr', /Established/);
  for (const name of ['box', 'coordinator']) {
    // On the same host Avahi may speak on loopback too, so other addresses may come first.
    const wanted = new RegExp(`"host":"${host.address()}","port":7443`);
    t.ok(await line(peer(t, lan.host(name), 'browse', digest), 'stdout', wanted), `from ${name}`);
  }
});
