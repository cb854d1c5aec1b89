/**
 * What agents do with their work while they are out of reach. `stop` work dies on the agent's own clock before the
 * coordinator gives it away: the tasks write a line every few hundredths of a second, and no line of the old attempt
 * comes after the first of the new one. `keep` work goes on, and on return the attempt that is further ahead stays.
 */
import { writeFileSync } from 'node:fs';
import t, { before, test } from 'tap';
import { check, violationText } from '../history/check.js';
import type { HistoryEvent } from '../history/events.js';
import { openDatabase } from '../support/database.js';
import { eventually } from '../support/eventually.js';
import { type LanMesh, noFirewall, startLanMesh, type Way } from '../support/lan-mesh.js';
import { isAlive } from '../../common/process-life.js';
import { freeze, thaw } from '../support/process-tree.js';
import type { LogEvent } from '../support/program.js';
import { databaseEvents, historyOf, noteTransitions, recorded, Trail, uptimeMs } from '../support/trail.js';
import { until } from '../support/until.js';

const skip = noFirewall;
const LEASE_MS = 5000;
const COORDINATOR = ['--heartbeat', '500ms', '--node-lease', `${LEASE_MS}ms`];
const about = (name: string) => (event: LogEvent) => event.node === name;
const events: HistoryEvent[] = [];
let net: LanMesh;
let trail: string;

before(async () => {
  if (skip) return;
  net = await startLanMesh(t, { agents: ['left', 'right'], coordinator: COORDINATOR });
  trail = net.mesh.witness.path('trail');
  const sql = openDatabase(net.mesh);
  await noteTransitions(sql);
  await sql.end();
  for (const node of ['left', 'right']) events.push({ kind: 'node-started', node, slots: 1, atMs: uptimeMs() });
});

interface Line {
  generation: number;
  node: string;
  pid: number;
  what: string;
}

/** What the attempts of a job wrote, in the order in which they did. */
const linesOf = (id: string): Line[] =>
  net.mesh.witness
    .lines('trail')
    .map((line) => line.split(' '))
    .filter(([, job]) => job === id)
    .map(([, , , generation, node = '', pid, what = '']) => ({
      ...{ generation: Number(generation), pid: Number(pid), node, what },
    }));

const began = (id: string, count: number): Promise<Line[]> =>
  until(
    `${count} attempts to begin`,
    () => {
      const starts = linesOf(id).filter(({ what }) => what === 'began');
      return starts.length >= count ? starts : undefined;
    },
    net.mesh.witness.signal,
  );

/** A job of one task that writes lines until the gate opens. */
async function submit(onDisconnect: 'stop' | 'keep', gate: string): Promise<string> {
  const body = `while [ ! -e '${gate}' ]; do beat 0.05; done`;
  const flags = ['--on-disconnect', onDisconnect, '--', 'sh', '-c', recorded(trail, body)];
  const job = await net.mesh.submit(...flags);
  events.push({
    ...{ kind: 'job-acknowledged', job: job.id, tasks: 1, onDisconnect, failuresMax: 3, lossesMax: 20 },
    atMs: uptimeMs(),
  });
  return job.id;
}

const gatePath = (name: string): string => net.mesh.witness.path(name);
const open = (name: string): void => writeFileSync(gatePath(name), '');

const partitions: [string, Way[]][] = [
  ['both ways', ['in', 'out']],
  ['what the coordinator says is lost', ['in']],
  ['what the agent says is lost', ['out']],
];

for (const [what, ways] of partitions)
  test(`stop: dead on its node before another begins it (${what})`, { skip }, async (t) => {
    const { mesh } = net;
    const { program } = mesh.coordinator;
    const gate = `stop-${ways.join('')}`;
    const id = await submit('stop', gatePath(gate));
    const victim = ((await began(id, 1))[0] as Line).node;
    const mark = program.mark();
    events.push({ kind: 'fault-injected', fault: what, target: victim, atMs: uptimeMs() });
    net.firewall(victim).isolate(...ways);
    const second = (await began(id, 2))[1] as Line;
    t.not(second.node, victim);
    t.ok(program.events.slice(mark).some(({ event, node }) => event === 'node.offline' && node === victim));
    net.firewall(victim).heal();
    await program.logged('node.connected', about(victim), mark);
    open(gate);
    t.match(await mesh.wait(id), { status: 'COMPLETED' });
    const lines = linesOf(id);
    const handover = lines.findIndex(({ pid, node }) => pid === second.pid && node === second.node);
    t.strictSame(
      lines.slice(handover).filter(({ node }) => node === victim),
      [],
      'not a line after the new one began',
    );
    t.strictSame(
      lines.filter(({ what }) => what === 'ended').map(({ node }) => node),
      [second.node],
    );
    t.match(await mesh.tasks(id), [{ status: 'COMPLETED', node: second.node, losses: 1, failures: 0 }]);
  });

test('keep: on return the attempt that is further ahead stays, the other ends', { skip }, async (t) => {
  const { mesh } = net;
  const { program } = mesh.coordinator;
  const id = await submit('keep', gatePath('keep'));
  const first = (await began(id, 1))[0] as Line;
  const mark = program.mark();
  events.push({ kind: 'fault-injected', fault: 'partition', target: first.node, atMs: uptimeMs() });
  net.firewall(first.node).isolate('in', 'out');
  const second = (await began(id, 2))[1] as Line;
  net.firewall(first.node).heal();
  await program.logged('node.connected', about(first.node), mark);
  await eventually('the replacement to be ended', () => !isAlive(second.pid));
  t.ok(isAlive(first.pid), 'the first goes on');
  open('keep');
  t.match(await mesh.wait(id), { status: 'COMPLETED' });
  t.strictSame(
    linesOf(id)
      .filter(({ what }) => what === 'ended')
      .map(({ pid }) => pid),
    [first.pid],
  );
  const [task] = await mesh.tasks(id);
  t.match(task, { status: 'COMPLETED', node: first.node, failures: 0, result: `${first.pid}\n` });
  t.ok((task?.generation ?? 0) >= 3, 'under a fresh generation');
  t.equal(linesOf(id).filter(({ what }) => what === 'began').length, 2);
});

test('a machine sleeps past its lease: what had to stop is dead before the agent says anything', {
  skip,
}, async (t) => {
  const { mesh } = net;
  const { program } = mesh.coordinator;
  const id = await submit('stop', gatePath('sleep'));
  const first = (await began(id, 1))[0] as Line;
  const agent = net.agents.get(first.node)?.program;
  if (!agent) throw new Error(`there is no agent ${first.node}`);
  const mark = program.mark();
  events.push({ kind: 'fault-injected', fault: 'sleep', target: first.node, atMs: uptimeMs() });
  events.push({ kind: 'node-asleep', node: first.node, atMs: uptimeMs() });
  const asleep = freeze(agent.pid);
  const second = (await began(id, 2))[1] as Line;
  const written = linesOf(id).filter(({ node }) => node === first.node).length;
  // The agent wakes first; its task would go on where it was.
  thaw(asleep.filter((pid) => pid === agent.pid));
  await program.logged('node.connected', about(first.node), mark);
  t.notOk(isAlive(first.pid), 'it was dead when the agent came back');
  thaw(asleep);
  events.push({ kind: 'node-awake', node: first.node, atMs: uptimeMs() });
  open('sleep');
  t.match(await mesh.wait(id), { status: 'COMPLETED' });
  t.equal(linesOf(id).filter(({ node }) => node === first.node).length, written, 'it wrote nothing more');
  t.match(await mesh.tasks(id), [{ node: second.node, losses: 1, failures: 0 }]);
});

test('the whole history keeps the promises', { skip }, async (t) => {
  const sql = openDatabase(net.mesh);
  t.teardown(() => sql.end());
  const ran = new Trail(net.mesh.witness.lines('trail'));
  t.equal(ran.runs.length, 10, 'each of five tasks began twice');
  const history = historyOf(events, ran.events(), await databaseEvents(sql));
  t.strictSame(check(history, { leaseMs: LEASE_MS }).map(violationText), []);
});
