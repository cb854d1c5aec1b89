import { sql } from 'kysely';
import { test } from 'tap';
import { OPERATOR, PlayedAgent, startPlane, submit } from '../../test/support/plane.js';
import { makeCsr } from '../../common/identity/csr.js';
import { makeKeyPair } from '../../common/identity/keys.js';
import { Outcome } from '../../proto/gen/mesh/v1/agent.js';
import type { PostgresStore } from '../store/index.js';

/** Each name that people build alerts on, with its labels. */
const PROMISED: Record<string, string[]> = {
  mesh_nodes: ['state'],
  mesh_jobs: ['status'],
  mesh_tasks: ['status'],
  mesh_task_retries_total: ['reason'],
  mesh_assignments_total: ['node'],
  mesh_job_duration_seconds: [],
  mesh_task_wait_seconds: [],
  mesh_task_run_seconds: [],
  mesh_agent_rtt_seconds: ['node'],
  mesh_node_reliability: ['node'],
  mesh_scheduler_plan_seconds: [],
  mesh_store_batch_seconds: ['op'],
  mesh_store_batch_rows: ['op'],
  mesh_certificate_expiry_seconds: ['role', 'name'],
  mesh_enrollments_total: ['outcome'],
  mesh_leader: [],
  mesh_audit_broken: [],
  mesh_build_info: ['version'],
};

test('every promised metric is there with its labels and moves with what happens', async (t) => {
  const { plane, clock } = await startPlane(t);
  const agent = new PlayedAgent(plane, 'attic', 1);
  await agent.connect();
  clock.advance(100);
  const { pingUs } = agent.beat();
  clock.advance(12);
  agent.beat({ echoUs: pingUs });
  const csr = makeCsr(makeKeyPair().privateKey, 'x');
  await plane.issuance.issue(OPERATOR, { csr, role: 'viewer', name: 'wall', days: 0 });
  await plane.enrollment.join({ token: 'x', csr, name: 'x', address: '1' }).catch(() => undefined);
  await submit(plane, 1, { retries: 1 });
  await agent.finish(await agent.assigned(), { outcome: Outcome.FAILED, exitCode: 1 });
  await agent.finish(await agent.assigned(), { runUs: 2_000_000 });
  const text = await plane.metrics.registry.metrics();
  for (const [name, labels] of Object.entries(PROMISED)) {
    const samples = text.split('\n').filter((line) => new RegExp(`^${name}(_bucket|_count)?[{ ]`).test(line));
    t.ok(samples.length > 0, name);
    for (const label of labels)
      t.ok(
        samples.some((line) => line.includes(`${label}="`)),
        `${name}{${label}}`,
      );
  }
  t.match(text, 'mesh_nodes{state="HEALTHY"} 1');
  t.match(text, 'mesh_jobs{status="COMPLETED"} 1');
  t.match(text, 'mesh_tasks{status="COMPLETED"} 1');
  t.match(text, 'mesh_tasks{status="QUEUED"} 0');
  t.match(text, 'mesh_task_retries_total{reason="failed"} 1');
  t.match(text, 'mesh_assignments_total{node="attic"} 2');
  t.match(text, 'mesh_agent_rtt_seconds{node="attic"} 0.012');
  t.match(text, 'mesh_enrollments_total{outcome="refused"} 1');
  t.match(text, 'mesh_task_run_seconds_sum 2');
  t.match(text, 'mesh_leader 1');
  t.match(text, 'process_cpu_user_seconds_total');
});

test('a state that nothing is in any more reads zero', async (t) => {
  const { plane } = await startPlane(t);
  const agent = new PlayedAgent(plane, 'attic', 1);
  await agent.connect();
  t.match(await plane.metrics.registry.metrics(), 'mesh_nodes{state="HEALTHY"} 1');
  const node = plane.fleet.get(agent.node);
  if (node) plane.fleet.left(node);
  const text = await plane.metrics.registry.metrics();
  t.match(text, 'mesh_nodes{state="HEALTHY"} 0');
  t.match(text, 'mesh_nodes{state="OFFLINE"} 1');
});

test('an audit that was tampered with raises the alarm', async (t) => {
  const { plane, store, clock } = await startPlane(t);
  await plane.audit.record(OPERATOR, 'node.drained', 'attic');
  const broken = async () => /^mesh_audit_broken (\d)$/m.exec(await plane.metrics.registry.metrics())?.[1];
  t.equal(await broken(), '0');
  const db = (store as PostgresStore).database.kysely;
  await sql`alter table audit disable trigger audit_append_only`.execute(db);
  await sql`update audit set target = 'cellar'`.execute(db);
  while ((await broken()) !== '1') clock.advance(1000);
});
