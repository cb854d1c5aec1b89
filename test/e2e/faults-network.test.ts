/**
 * What networks do to machines on a LAN: packets dropped in one direction or both, for less than a lease and for more,
 * connections of which only one end is left, an interface that goes down and comes back with another address.
 */
import t, { before, test } from 'tap';
import { type LanMesh, noFirewall, startLanMesh, type Way } from '../support/lan-mesh.js';
import type { LogEvent } from '../support/program.js';
import { eventually } from '../support/eventually.js';

const skip = noFirewall;
const LEASE_MS = 5000;
const COORDINATOR = ['--heartbeat', '500ms', '--node-lease', `${LEASE_MS}ms`];
const shell = (script: string): string[] => ['--', 'sh', '-c', script];
const about = (name: string) => (event: LogEvent) => event.node === name;
let net: LanMesh;
let traces: string;

before(async () => {
  if (skip) return;
  net = await startLanMesh(t, { agents: ['left', 'right'], coordinator: COORDINATOR });
  traces = net.mesh.witness.folder;
});

/** The node that wrote the last line. */
const lastNode = (name: string): string => net.mesh.witness.lines(name).at(-1)?.split(' ')[0] ?? '';

async function heal(name: string): Promise<void> {
  const { program } = net.mesh.coordinator;
  const mark = program.mark();
  net.firewall(name).heal();
  await program.logged('node.connected', about(name), mark);
}

const directions: [string, Way[]][] = [
  ['both ways', ['in', 'out']],
  ['what the coordinator says', ['in']],
  ['what the agent says', ['out']],
];

for (const [what, ways] of directions)
  test(`a partition shorter than the lease (${what}): adopted, nothing runs again`, { skip }, async (t) => {
    const { mesh } = net;
    const name = `short-${ways.join('')}`;
    const gate = mesh.witness.gate(`${name}-gate`);
    const { program } = mesh.coordinator;
    const script = `echo "$MESH_NODE start" >> ${traces}/${name}; read x < ${gate.path}; echo done`;
    const job = await mesh.submit('--where', 'name=left', ...shell(script));
    await mesh.witness.seen(name);
    const mark = program.mark();
    const agentMark = net.agents.get('left')?.program.mark() ?? 0;
    net.firewall('left').drop(net.lan.host('coordinator'), ...ways);
    // The task ends while nobody can be told.
    await net.agents.get('left')?.program.logged('session.ended', undefined, agentMark);
    gate.open();
    await heal('left');
    t.match(await mesh.wait(job.id), { status: 'COMPLETED' });
    t.match(await mesh.tasks(job.id), [{ attempts: 1, losses: 0, generation: 1, result: 'done\n' }]);
    t.equal(mesh.witness.lines(name).length, 1);
    t.notOk(
      program.events.slice(mark).some(({ event, node }) => event === 'node.offline' && node === 'left'),
      'the lease was not over',
    );
  });

for (const [what, ways] of directions)
  test(`a partition longer than the lease (${what}): given away, one result`, { skip }, async (t) => {
    const { mesh } = net;
    const name = `long-${ways.join('')}`;
    const gate = mesh.witness.gate(`${name}-gate`);
    const { program } = mesh.coordinator;
    const script = [
      `echo "$MESH_NODE $MESH_GENERATION start" >> ${traces}/${name}`,
      `read x < ${gate.path}`,
      `echo "$MESH_NODE $MESH_GENERATION end" >> ${traces}/${name}`,
      'echo "$MESH_NODE"',
    ].join('; ');
    const job = await mesh.submit(...shell(script));
    await mesh.witness.seen(name);
    const victim = lastNode(name);
    const mark = program.mark();
    net.firewall(victim).drop(net.lan.host('coordinator'), ...ways);
    await program.logged('node.offline', about(victim), mark);
    await mesh.witness.seen(name, 2);
    const other = lastNode(name);
    t.not(other, victim, 'it was given to the other node');
    await heal(victim);
    // Of the two attempts one is wanted: whichever it is, the other is ended.
    await eventually(
      'one attempt to be left',
      async () => (await runningOn('left')) + (await runningOn('right')) === 1,
    );
    gate.open();
    t.match(await mesh.wait(job.id), { status: 'COMPLETED', tasks: { completed: 1 } });
    const ends = mesh.witness.lines(name).filter((line) => line.endsWith('end'));
    t.equal(ends.length, 1, 'one of them came to its end');
    const [task] = await mesh.tasks(job.id);
    t.match(task, { status: 'COMPLETED', failures: 0, node: ends[0]?.split(' ')[0] });
    // What was given away and came back ahead of its replacement was no loss.
    t.equal(task?.losses, task?.node === victim ? 0 : 1);
    t.equal(task?.result, `${task?.node}\n`);
    t.equal(mesh.witness.lines(name).length, 3, 'nothing ran a third time');
  });

async function runningOn(name: string): Promise<number> {
  return (await net.mesh.node(name)).running;
}

test('a connection of which only the coordinator has its end: the agent that comes back takes its place', {
  skip,
}, async (t) => {
  const { mesh } = net;
  const { program } = mesh.coordinator;
  const script = `echo "$MESH_NODE" >> ${traces}/half; test "$MESH_ATTEMPT" = 2 || exec sleep 600`;
  const job = await mesh.submit('--where', 'name=left', ...shell(script));
  await mesh.witness.seen('half');
  const mark = program.mark();
  // Nothing of the end of its connection gets out.
  net.firewall('left').drop(net.lan.host('coordinator'), 'out');
  await net.agents.get('left')?.program.kill();
  net.firewall('left').heal();
  await net.startAgent('left');
  await program.logged('node.connected', about('left'), mark);
  t.match(await mesh.wait(job.id), { status: 'COMPLETED' });
  t.match(await mesh.tasks(job.id), [{ attempts: 2, losses: 1, failures: 0 }]);
  t.equal(mesh.witness.lines('half').length, 2);
});

test('a connection of which only the agent has its end: it notices, and what runs is adopted', { skip }, async (t) => {
  const { mesh } = net;
  const gate = mesh.witness.gate('other-half-gate');
  const script = `echo "$MESH_NODE" >> ${traces}/other-half; read x < ${gate.path}; echo done`;
  const job = await mesh.submit('--where', 'name=left', ...shell(script));
  await mesh.witness.seen('other-half');
  net.firewall('left').drop(net.lan.host('coordinator'), 'in');
  await mesh.coordinator.program.kill();
  net.firewall('left').heal();
  await net.startCoordinator();
  await mesh.coordinator.program.logged('node.connected', about('left'));
  gate.open();
  t.match(await mesh.wait(job.id), { status: 'COMPLETED' });
  t.match(await mesh.tasks(job.id), [{ attempts: 1, losses: 0, result: 'done\n' }]);
  t.equal(mesh.witness.lines('other-half').length, 1);
});

test('an interface goes down and comes back with another address: connected again, nothing runs again', {
  skip,
}, async (t) => {
  const { mesh, lan } = net;
  const { program } = mesh.coordinator;
  const gate = mesh.witness.gate('address-gate');
  const script = `echo "$MESH_NODE" >> ${traces}/address; read x < ${gate.path}; echo done`;
  const job = await mesh.submit('--where', 'name=right', ...shell(script));
  await mesh.witness.seen('address');
  const right = lan.host('right');
  const mark = program.mark();
  const agentMark = net.agents.get('right')?.program.mark() ?? 0;
  right.ip('link', 'set', 'eth0', 'down');
  right.ip('address', 'flush', 'dev', 'eth0');
  await net.agents.get('right')?.program.logged('session.ended', undefined, agentMark);
  right.ip('address', 'add', '10.88.0.77/24', 'broadcast', '+', 'dev', 'eth0');
  right.ip('link', 'set', 'eth0', 'up');
  await program.logged('node.connected', about('right'), mark);
  gate.open();
  t.match(await mesh.wait(job.id), { status: 'COMPLETED' });
  t.match(await mesh.tasks(job.id), [{ attempts: 1, losses: 0, result: 'done\n' }]);
  t.equal(mesh.witness.lines('address').length, 1);
});
