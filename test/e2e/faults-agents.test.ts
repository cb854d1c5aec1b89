/** What happens to single agents: their disk is full, their clock jumps, a task takes them down one after the other. */
import { writeFileSync } from 'node:fs';
import { execFileSync, spawn } from 'node:child_process';
import { join } from 'node:path';
import { test } from 'tap';
import { globSync } from 'tinyglobby';
import { eventually } from '../support/eventually.js';
import { startMesh } from '../support/mesh.js';
import type { Spawner } from '../support/program.js';

const shell = (script: string): string[] => ['--', 'sh', '-c', script];
const COORDINATOR = ['--listen', '127.0.0.1', '--heartbeat', '250ms', '--node-lease', '3s'];
const AGENT = ['--kill-grace', '300ms', '--stop-grace', '100ms'];

test('a task that takes its agents down: quarantined after three, and the fleet lives', async (t) => {
  const names = ['a1', 'a2', 'a3', 'a4', 'a5'];
  const mesh = await startMesh(t, { coordinator: COORDINATOR });
  const args = [...AGENT, '--slots', '1'];
  const agents = new Map(
    await Promise.all(names.map(async (name) => [name, await mesh.startAgent(name, { args })] as const)),
  );
  const job = await mesh.submit(
    '--array',
    '0-1',
    ...shell(`
    test $MESH_INDEX = 1 && exit 0
    echo "$MESH_NODE" >> ${mesh.witness.path('poison')}
    exec sleep 600`),
  );
  const dead: string[] = [];
  while (dead.length < 3) {
    const lines = await mesh.witness.seen('poison', dead.length + 1);
    const victim = lines[dead.length] as string;
    await agents.get(victim)?.program.kill();
    dead.push(victim);
  }
  t.equal(new Set(dead).size, 3, 'three different nodes');
  t.match(await mesh.wait(job.id), { status: 'FAILED', tasks: { completed: 1, failed: 1 } });
  const [poisonous, harmless] = await mesh.tasks(job.id);
  t.match(poisonous, { status: 'FAILED', losses: 3, failures: 0, lastError: /quarantined: 3 different nodes/ });
  t.match(harmless, { status: 'COMPLETED', losses: 0 });
  t.equal(mesh.witness.lines('poison').length, 3, 'it got no fourth');
  for (const name of names.filter((name) => !dead.includes(name))) {
    t.match(await mesh.node(name), { state: 'HEALTHY', running: 0 });
    t.match(await mesh.submit('--wait', '--where', `name=${name}`, '--', 'true'), { status: 'COMPLETED' });
  }
  // What they could not end themselves they end when they start again.
  await Promise.all(dead.map((name) => mesh.startAgent(name, { args })));
  for (const { state } of await mesh.nodes()) t.equal(state, 'HEALTHY');
});

const noMounts = ((): string | false => {
  if (process.platform !== 'linux' || process.getuid?.() !== 0) return 'a disk of limited size needs root on Linux';
  try {
    execFileSync('unshare', ['--mount', 'mount', '-t', 'tmpfs', '-o', 'size=1m', 'tmpfs', '/mnt'], { stdio: 'ignore' });
    return false;
  } catch {
    return 'a tmpfs cannot be mounted in a namespace of its own here';
  }
})();

/** A small disk at this path that only the program sees, and that is gone when it ends. */
const onSmallDisk =
  (path: string): Spawner =>
  (file, args, options) => {
    const script = `mount -t tmpfs -o size=4m,nr_inodes=400,mode=711 tmpfs "$0" && exec "$@"`;
    return spawn('unshare', ['--mount', '--propagation', 'private', 'sh', '-c', script, path, file, ...args], options);
  };

test('the disk of an agent is full: tasks fail with that reason, the agent goes on', { skip: noMounts }, async (t) => {
  const mesh = await startMesh(t, { coordinator: COORDINATOR });
  const spawner = onSmallDisk(mesh.folder('agent-small'));
  const agent = await mesh.startAgent('small', { spawner, args: [...AGENT, '--slots', '2'] });
  const gate = mesh.witness.gate('full-gate');
  const fill = 'dd if=/dev/zero of=bytes bs=64k; i=0; while true > file$i; do i=$((i+1)); done';

  const own = await mesh.submit('--wait', '--retries', '0', ...shell('dd if=/dev/zero of=bytes bs=64k || exit 9'));
  t.match(own, { status: 'FAILED', error: null });
  t.match(await mesh.tasks(own.id), [{ status: 'FAILED', exitCode: 9, failures: 1, losses: 0 }]);
  const { stdout } = await mesh.cli('logs', own.id);
  t.match(stdout, /No space left on device/, 'it says so itself');

  const full = await mesh.submit(
    ...shell(`(${fill}) 2>/dev/null; echo >> ${mesh.witness.path('full')}; read x < ${gate.path}`),
  );
  await mesh.witness.seen('full');
  const blocked = await mesh.submit('--', 'echo', 'fits now');
  const [task] = await eventually('the other task to find no place', async () => {
    const tasks = await mesh.tasks(blocked.id);
    return (tasks[0]?.losses ?? 0) > 0 ? tasks : undefined;
  });
  t.match(task, { failures: 0, lastError: /no space|ENOSPC|disk/i }, 'it is the node’s fault, and says why');
  t.match(await mesh.node('small'), { state: 'HEALTHY' });
  gate.open();
  t.match(await mesh.wait(full.id), { status: 'COMPLETED' });
  t.match(await mesh.wait(blocked.id), { status: 'COMPLETED' });
  t.match(await mesh.tasks(blocked.id), [{ result: 'fits now\n', failures: 0 }]);
  t.ok(agent.program.running);
});

const [libfaketime] = globSync('/usr/lib/*/faketime/libfaketimeMT.so.1');
const noFakeTime = libfaketime === undefined ? 'libfaketime is not installed' : false;

/** A program whose wall clock is off by what the file says; its monotonic clock is the machine's. */
const withClock =
  (offsetFile: string): Spawner =>
  (file, [ignore = '', ...args], options) => {
    const preload = [
      `LD_PRELOAD=${libfaketime}`,
      `FAKETIME_TIMESTAMP_FILE=${offsetFile}`,
      'FAKETIME_NO_CACHE=1',
      'FAKETIME_DONT_FAKE_MONOTONIC=1',
    ];
    return spawn(file, [ignore, ...preload, ...args], options);
  };

test('wall clocks jump an hour forwards and back: nobody is given up', { skip: noFakeTime }, async (t) => {
  const mesh = await startMesh(t);
  const clocks = { coordinator: join(mesh.root, 'clock-coordinator'), agent: join(mesh.root, 'clock-agent') };
  for (const clock of Object.values(clocks)) writeFileSync(clock, '+0');
  await mesh.coordinator.program.stop();
  await mesh.startCoordinator({ args: COORDINATOR, spawner: withClock(clocks.coordinator) });
  const args = [...AGENT, '--slots', '1'];
  await mesh.startAgent('jumps', { args, spawner: withClock(clocks.agent) });
  await mesh.startAgent('steady', { args: [...AGENT, '--slots', '2'] });
  const { program } = mesh.coordinator;
  const gate = mesh.witness.gate('clock-gate');
  const trace = mesh.witness.path('clock');
  const script = shell(`echo "$MESH_NODE" >> ${trace}; read x < ${gate.path}`);
  const jobs = [
    await mesh.submit('--where', 'name=jumps', ...script),
    await mesh.submit('--where', 'name=steady', ...script),
  ];
  await mesh.witness.seen('clock', 2);
  const mark = program.mark();
  for (const [clock, offset] of [
    [clocks.coordinator, '+1h'],
    [clocks.coordinator, '+0'],
    [clocks.agent, '+1h'],
    [clocks.agent, '+0'],
    [clocks.coordinator, '+1h'],
    [clocks.agent, '+1h'],
  ] as const) {
    writeFileSync(clock, offset);
    // Work goes through, so both have looked at their clocks.
    t.match(await mesh.submit('--wait', '--where', 'name=steady', '--', 'true'), { status: 'COMPLETED' }, offset);
    await bothHeard();
  }
  const wrong = program.events.slice(mark).filter(({ event }) => /^node\.(suspect|offline)$/.test(event ?? ''));
  t.strictSame(wrong, []);
  gate.open(2);
  for (const { id } of jobs) {
    t.match(await mesh.wait(id), { status: 'COMPLETED' });
    for (const task of await mesh.tasks(id)) t.match(task, { attempts: 1, losses: 0 });
  }
  t.equal(mesh.witness.lines('clock').length, 2);

  /** Both agents were heard of again, by the coordinator's own account. */
  async function bothHeard(): Promise<void> {
    const before = new Map((await mesh.nodes()).map(({ name, lastHeartbeatAt }) => [name, lastHeartbeatAt]));
    await eventually('both agents to be heard', async () =>
      (await mesh.nodes()).every(({ name, lastHeartbeatAt }) => lastHeartbeatAt !== before.get(name)),
    );
  }
});
