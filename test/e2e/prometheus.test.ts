/** A real Prometheus with the configuration from deploy/ and a certificate of its own scrapes a mesh that works. */
import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { readFileSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';
import t, { before, test } from 'tap';
import { packageRoot } from '../../common/package.js';
import { certificateFiles, get } from '../support/https.js';
import { type Mesh, startMesh } from '../support/mesh.js';
import { Program } from '../support/program.js';
import { type SignalSource, until } from '../support/until.js';

/** What the mesh promises to everyone who has made a dashboard. A histogram has three series. */
const PROMISED = {
  gauge: [
    ...['mesh_nodes', 'mesh_jobs', 'mesh_tasks', 'mesh_agent_rtt_seconds', 'mesh_node_reliability'],
    ...['mesh_certificate_expiry_seconds', 'mesh_leader', 'mesh_build_info'],
  ],
  counter: [
    ...['mesh_task_retries_total', 'mesh_assignments_total', 'mesh_enrollments_total', 'mesh_stale_results_total'],
  ],
  histogram: [
    ...['mesh_job_duration_seconds', 'mesh_task_wait_seconds', 'mesh_task_run_seconds'],
    ...['mesh_scheduler_plan_seconds', 'mesh_store_batch_seconds', 'mesh_store_batch_rows'],
  ],
  process: ['process_cpu_seconds_total', 'process_resident_memory_bytes', 'nodejs_eventloop_lag_seconds'],
} as const;

const SERIES = [
  ...[...PROMISED.gauge, ...PROMISED.counter, ...PROMISED.process],
  ...PROMISED.histogram.flatMap((name) => [`${name}_bucket`, `${name}_sum`, `${name}_count`]),
];

function reasonAgainst(): string | false {
  const missing = ['prometheus', 'promtool'].filter((name) => spawnSync(name, ['--version']).error);
  return missing.length > 0 && `${missing.join(' and ')} is not installed (Debian package: prometheus)`;
}

interface Sample {
  metric: Record<string, string>;
  value: [number, string];
}

const skip = reasonAgainst();
let mesh: Mesh;
/** Its configuration, and below `mesh` its certificate, as on a machine where it is installed. */
let folder: string;

before(async () => {
  if (skip) return;
  mesh = await startMesh(t, { coordinator: ['--heartbeat', '250ms'], agents: ['a1', 'a2'] });
  folder = mesh.folder('prometheus');
  const out = join(folder, 'mesh');
  const { code, stderr } = await mesh.ca('issue', 'prometheus', '--role', 'metrics', '--out', out);
  if (code !== 0) throw new Error(`no certificate for Prometheus: ${stderr}`);
});

const metricsWith = (files: ReturnType<typeof certificateFiles>) =>
  get(mesh.coordinator.ready.address, '/metrics', files);

/** Prometheus sends what it scraped here; what arrives is not read, it only says that there is something new. */
async function makeReceiver(): Promise<SignalSource & { url: string; close(): void }> {
  const listeners = new Set<() => void>();
  const server = createServer((request, response) => {
    request.resume().once('end', () => {
      response.writeHead(204).end();
      for (const listener of listeners) listener();
    });
  }).listen(0, '127.0.0.1');
  await once(server, 'listening');
  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}/`,
    onChange(listener) {
      listeners.add(listener);
      return () => listeners.delete(listener);
    },
    close() {
      server.close();
      server.closeAllConnections();
    },
  };
}

/** The text, with each of these words replaced; all must be there. */
function withReplaced(text: string, words: Record<string, string>): string {
  return Object.entries(words).reduce((result, [from, to]) => {
    if (!result.includes(from)) throw new Error(`"${from}" is not in the configuration`);
    return result.replace(from, to);
  }, text);
}

function configure(receiver: string): string {
  const file = join(folder, 'prometheus.yml');
  const text = withReplaced(readFileSync(join(packageRoot, 'deploy/prometheus.yml'), 'utf8'), {
    'attic.local:7443': mesh.coordinator.ready.address,
    'scrape_interval: 15s': 'scrape_interval: 500ms',
  });
  const forward = [`remote_write:`, `  - url: ${receiver}`, `    queue_config: { batch_send_deadline: 50ms }`, ''];
  writeFileSync(file, `${text}\n${forward.join('\n')}`);
  return file;
}

/** Starts Prometheus and gives the address of its API. */
async function startPrometheus(config: string): Promise<{ program: Program; api: string }> {
  const args = [`--config.file=${config}`, `--storage.tsdb.path=${join(folder, 'data')}`, '--log.format=json'];
  const program = new Program('prometheus', [...args, '--web.listen-address=127.0.0.1:0'], {
    env: mesh.environment,
    cwd: folder,
    // It logs on standard error.
    spawner: (_, words, options) =>
      spawn('sh', ['-c', 'exec prometheus "$@" 2>&1', 'sh', ...words], {
        ...options,
        stdio: ['ignore', 'pipe', 'pipe'],
      }),
  });
  const address = await until(
    'Prometheus to listen',
    () => {
      if (program.exit) throw new Error(`Prometheus ended: ${program.tail}`);
      return program.events.find(({ msg }) => msg === 'Listening on')?.address as string | undefined;
    },
    program,
  );
  return { program, api: `http://${address}/api/v1` };
}

test('Prometheus scrapes every metric over mutual TLS', { skip }, async (t) => {
  // The first attempt fails, so that there is a retry to count.
  const again = ['--retries', '1', '--backoff', '10ms', '--', 'sh', '-c', 'test $MESH_ATTEMPT = 2'];
  t.match(await mesh.submit('--wait', '--array', '0-3', ...again), { status: 'COMPLETED' });

  const receiver = await makeReceiver();
  t.teardown(() => receiver.close());
  const config = configure(receiver.url);
  const checked = spawnSync('promtool', ['check', 'config', config], { encoding: 'utf8' });
  t.equal(checked.status, 0, checked.stderr);
  const { program, api } = await startPrometheus(config);
  t.teardown(() => program.kill());

  const ask = async <T>(path: string): Promise<T> => {
    const answer = (await (await fetch(`${api}${path}`)).json()) as { status: string; data: T };
    if (answer.status !== 'success') throw new Error(`Prometheus refused ${path}: ${JSON.stringify(answer)}`);
    return answer.data;
  };
  const query = async (expression: string): Promise<Sample[]> =>
    (await ask<{ result: Sample[] }>(`/query?query=${encodeURIComponent(expression)}`)).result;
  const one = async (expression: string): Promise<string | undefined> => (await query(expression))[0]?.value[1];

  await until('the mesh to be up', async () => (await one('up{job="mesh"}')) === '1', receiver);
  const missing = async (): Promise<string[]> => {
    const names = new Set(await ask<string[]>('/label/__name__/values'));
    return SERIES.filter((name) => !names.has(name));
  };
  await until('every metric', async () => (await missing()).length === 0, receiver).catch(async (error: unknown) => {
    t.strictSame(await missing(), [], (error as Error).message);
  });

  t.equal(await one('mesh_tasks{status="COMPLETED"}'), '4');
  t.equal(await one('mesh_jobs{status="COMPLETED"}'), '1');
  t.equal(await one('mesh_task_retries_total{reason="failed"}'), '4');
  t.equal(await one('sum(mesh_assignments_total)'), '8');
  t.equal(await one('mesh_job_duration_seconds_count'), '1');
  t.equal(await one('mesh_nodes{state="HEALTHY"}'), '2');
  t.equal(await one('mesh_leader'), '1');
  t.strictSame((await query('mesh_agent_rtt_seconds')).map(({ metric }) => metric.node).sort(), ['a1', 'a2']);
  t.equal((await query('mesh_certificate_expiry_seconds{role="metrics",name="prometheus"} > time()')).length, 1);

  t.strictSame(await program.stop(), { code: 0, signal: null });
});

test('the text is what promtool wants, and its types are the documented ones', { skip }, async (t) => {
  const { status, type, body } = await metricsWith(certificateFiles(join(folder, 'mesh'), 'prometheus'));
  t.equal(status, 200);
  t.match(type, /^text\/plain; version=0\.0\.4/);
  for (const kind of ['gauge', 'counter', 'histogram'] as const)
    for (const name of PROMISED[kind]) t.ok(body.includes(`# TYPE ${name} ${kind}\n`), `${name} is a ${kind}`);
  const checked = spawnSync('promtool', ['check', 'metrics'], { input: body, encoding: 'utf8' });
  t.equal(checked.status, 0, `${checked.stdout}${checked.stderr}`);
});

test('nobody else may read them', { skip }, async (t) => {
  const nobody = await metricsWith(certificateFiles(join(folder, 'mesh')));
  t.equal(nobody.status, 401);
  t.notMatch(nobody.body, 'mesh_nodes');
  const agent = await metricsWith(certificateFiles(join(mesh.root, 'agent-a1'), 'agent'));
  t.equal(agent.status, 403);
  t.notMatch(agent.body, 'mesh_nodes');
});
