import { spawnSync } from 'node:child_process';
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmdirSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'tap';
import { systemClock } from '../../../common/clock.js';
import { eventually } from '../../../test/support/eventually.js';
import { UNBOUNDED } from './bounds.js';
import { Cgroup, Cgroups, ownCgroup } from './cgroups.js';

const pid = process.pid;
const clock = systemClock;

/** Files where the kernel would have them: what is written is what it would be told. */
function fakeGroup(t: { teardown(fn: () => unknown): unknown }, inside: string, controllers: string): string {
  const directory = mkdtempSync(join(tmpdir(), 'cgroup-'));
  t.teardown(() => rmSync(directory, { recursive: true, force: true }));
  writeFileSync(join(directory, 'cgroup.controllers'), controllers);
  writeFileSync(join(directory, 'cgroup.procs'), inside);
  return directory;
}

test('which group this process is in', async (t) => {
  const files: Record<string, string> = {
    '/proc/self/cgroup': '1:cpu:/x\n0::/system.slice/mesh-agent.service\n',
    '/proc/self/mountinfo': '30 24 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw\n',
  };
  const read = (path: string) => files[path] ?? '';
  t.equal(ownCgroup(read), '/sys/fs/cgroup/system.slice/mesh-agent.service');
  files['/proc/self/cgroup'] = '0::/\n';
  t.equal(ownCgroup(read), undefined, 'the root group belongs to the machine');
  files['/proc/self/cgroup'] = '1:cpu:/\n';
  t.equal(ownCgroup(read), undefined, 'there is no version 2');
});

test('nothing is divided that was not given', async (t) => {
  const open = (directory: string) => Cgroups.open({ directory, pid, clock });
  t.equal(open('/nowhere'), undefined);
  t.equal(open(fakeGroup(t, `${pid}\n`, 'cpu io')), undefined, 'without a controller for memory');
  const shared = fakeGroup(t, `1\n${pid}\n`, 'memory pids');
  t.equal(open(shared), undefined, 'somebody else is in it');
  t.same(readdirSync(shared).sort(), ['cgroup.controllers', 'cgroup.procs']);
  const refusing = fakeGroup(t, `${pid}\n`, 'memory pids');
  mkdirSync(join(refusing, 'cgroup.subtree_control'));
  t.equal(open(refusing), undefined);
  t.equal(readFileSync(join(refusing, 'cgroup.procs'), 'utf8'), String(pid), 'it has gone back to where it was');
});

test('a task that is started around it is bounded', async (t) => {
  const directory = fakeGroup(t, `${pid}\n`, 'cpu memory pids');
  const cgroups = Cgroups.open({ directory, pid, clock });
  t.equal(readFileSync(join(directory, 'cgroup.subtree_control'), 'utf8'), '+memory +pids');
  const group = cgroups?.create({ ...UNBOUNDED, memoryBytes: 1000, processes: 7 });
  const path = join(directory, `task-${pid}-1`);
  const written = (name: string) => readFileSync(join(path, name), 'utf8');
  t.same(['memory.max', 'memory.oom.group', 'memory.swap.max', 'pids.max'].map(written), ['1000', '1', '0', '7']);
  t.equal(
    group?.around(() => written('cgroup.procs')),
    String(pid),
  );
  t.equal(readFileSync(join(directory, 'agent/cgroup.procs'), 'utf8'), String(pid), 'and back');
  t.equal(group?.outOfMemory, false);
  writeFileSync(join(path, 'memory.events'), 'low 0\nhigh 0\nmax 3\noom 1\noom_kill 1\n');
  t.equal(group?.outOfMemory, true);
});

const unified = ['/sys/fs/cgroup/unified', '/sys/fs/cgroup'].find((path) => existsSync(join(path, 'cgroup.procs')));
const skip =
  (process.getuid?.() !== 0 && 'needs root') || (unified === undefined && 'needs control groups of version 2') || false;

test('children begin in the group, and it goes with what is left in it', { skip }, async (t) => {
  const base = join(unified ?? '', `mesh-test-${pid}`);
  const [home, path] = [join(base, 'agent'), join(base, 'task')];
  for (const folder of [base, home, path]) mkdirSync(folder);
  t.teardown(() => {
    writeFileSync(join(unified ?? '', 'cgroup.procs'), String(pid));
    for (const folder of [home, base]) rmdirSync(folder);
  });
  const group = new Cgroup(path, home, { directory: base, pid, clock });
  const script = 'cat /proc/self/cgroup; sleep 1000 >/dev/null 2>&1 &';
  const seen = group.around(() => spawnSync('setsid', ['sh', '-c', script], { encoding: 'utf8' }).stdout);
  t.match(seen, `0::/mesh-test-${pid}/task\n`);
  t.match(readFileSync('/proc/self/cgroup', 'utf8'), `0::/mesh-test-${pid}/agent\n`);
  group.remove();
  await eventually('the group to be gone', () => !existsSync(path));
  t.pass('with the process that had left its parents');
});
