/** A real Prometheus scrapes a mesh over mutual TLS, with a certificate for nothing else. */
import { execFileSync, spawn, spawnSync } from 'node:child_process';
import { readFileSync, writeFileSync } from 'node:fs';
import { get as getHttp } from 'node:http';
import { createServer } from 'node:net';
import { join } from 'node:path';
import t, { before, test } from 'tap';
import { packageRoot } from '../../common/package.js';
import { certificateFiles, get } from '../support/https.js';
import { type Mesh, startMesh } from '../support/mesh.js';
import { onLine, withEnvironment } from '../support/program.js';
import { FolderSignal, until, withLimit } from '../support/until.js';

/** The metrics that docs/metrics.md promises; process defaults of prom-client beside them. */
const PROMISED = [
  ...['mesh_nodes', 'mesh_jobs', 'mesh_tasks', 'mesh_task_retries_total', 'mesh_assignments_total'],
  ...['mesh_job_duration_seconds', 'mesh_task_wait_seconds', 'mesh_task_run_seconds', 'mesh_agent_rtt_seconds'],
  ...['mesh_node_reliability', 'mesh_scheduler_plan_seconds', 'mesh_store_batch_seconds', 'mesh_store_batch_rows'],
  ...['mesh_certificate_expiry_seconds', 'mesh_enrollments_total', 'mesh_leader', 'mesh_build_info'],
  ...['process_cpu_seconds_total', 'process_resident_memory_bytes', 'nodejs_eventloop_lag_seconds'],
];

const isMissing = (program: string): boolean =>
  spawnSync(program, ['--version'], { stdio: 'ignore' }).error !== undefined;
const missing = ['prometheus', 'promtool'].filter(isMissing);
const skip = missing.length > 0 && `${missing.join(' and ')} is not installed (Debian: apt-get install prometheus)`;
let mesh: Mesh;
let files: string;

before(async () => {
  if (skip) return;
  mesh = await startMesh(t, { agents: ['a1'] });
  files = join(mesh.root, 'prometheus');
  const issued = await mesh.ca('issue', 'prometheus', '--role', 'metrics', '--out', files);
  if (issued.code !== 0) throw new Error(issued.stderr);
  // Every counter has counted once: a retry among them.
  const script = 'test $MESH_ATTEMPT = 2';
  await mesh.submit('--wait', '--backoff', '1ms', '--', 'sh', '-c', script);
});

function freePort(): Promise<number> {
  return new Promise((resolve) => {
    const probe = createServer();
    probe.listen(0, '127.0.0.1', () => {
      const { port } = probe.address() as { port: number };
      probe.close(() => resolve(port));
    });
  });
}

/** What the HTTP API of Prometheus answers. */
function ask<T>(port: number, path: string): Promise<T> {
  return new Promise((resolve, reject) => {
    getHttp({ host: '127.0.0.1', port, path: `/api/v1/${path}`, agent: false }, (response) => {
      let body = '';
      response.setEncoding('utf8').on('data', (text: string) => (body += text));
      response.on('end', () => resolve((JSON.parse(body) as { data: T }).data));
    }).on('error', reject);
  });
}

const configuration = (address: string): string => `
global: { scrape_interval: 1s, scrape_timeout: 1s }
scrape_configs:
  - job_name: mesh
    scheme: https
    tls_config:
      ca_file: ${join(files, 'ca.crt')}
      cert_file: ${join(files, 'prometheus.crt')}
      key_file: ${join(files, 'prometheus.key')}
    static_configs: [{ targets: ['${address}'] }]
`;

test('Prometheus finds every promised metric', { skip }, async (t) => {
  const config = join(mesh.root, 'prometheus.yml');
  writeFileSync(config, configuration(mesh.coordinator.ready.address));
  const storage = mesh.folder('tsdb');
  const port = await freePort();
  const flags = [`--config.file=${config}`, `--storage.tsdb.path=${storage}`, `--web.listen-address=127.0.0.1:${port}`];
  const command = withEnvironment(mesh.environment, ['prometheus', ...flags]);
  const child = spawn(...command, { stdio: ['ignore', 'ignore', 'pipe'] });
  const ended = new Promise((resolve) => child.once('close', resolve));
  t.teardown(async () => {
    child.kill('SIGTERM');
    await withLimit('Prometheus to end', ended);
  });
  const said: string[] = [];
  const ready = new Promise<void>((resolve, reject) => {
    onLine(child.stderr, (line) => {
      said.push(line);
      if (line.includes('Server is ready to receive web requests')) resolve();
    });
    void ended.then(() => reject(new Error(`Prometheus ended:\n${said.join('\n')}`)));
  });
  await withLimit('Prometheus to be ready', ready);
  // It writes a scrape to its log in this folder before the scrape can be asked for.
  const written = new FolderSignal(join(storage, 'wal'));
  t.teardown(() => written.close());
  interface Target {
    health: string;
    lastError: string;
  }
  const target = await until(
    'a scrape',
    async () => {
      const { activeTargets } = await ask<{ activeTargets: Target[] }>(port, 'targets');
      return activeTargets.find(({ health }) => health !== 'unknown');
    },
    written,
  );
  t.match(target, { health: 'up', lastError: '' });
  const names = await until(
    'the metrics',
    async () => {
      const found = await ask<string[]>(port, 'label/__name__/values');
      return found.includes('mesh_leader') && found;
    },
    written,
  );
  for (const name of PROMISED) t.ok(names.includes(name) || names.includes(`${name}_bucket`), name);
  const states = await ask<{ result: { metric: Record<string, string>; value: [number, string] }[] }>(
    port,
    `query?query=${encodeURIComponent('mesh_nodes')}`,
  );
  const healthy = states.result.find(({ metric }) => metric.state === 'HEALTHY');
  t.equal(healthy?.value[1], '1');
});

test('promtool has nothing to say against the metrics', { skip }, async (t) => {
  const { address } = mesh.coordinator.ready;
  const { body } = await get(address, '/metrics', certificateFiles(files, 'prometheus'));
  const checked = spawnSync('promtool', ['check', 'metrics'], { input: body, encoding: 'utf8' });
  // Some names of Node.js's own metrics, which are prom-client's, break a rule that came after them.
  const objections = (checked.stdout + checked.stderr)
    .split('\n')
    .filter((line) => line !== '' && !/^nodejs_/.test(line));
  t.strictSame(objections, []);
  t.match(
    execFileSync('promtool', ['check', 'config', join(mesh.root, 'prometheus.yml')], { encoding: 'utf8' }),
    /SUCCESS/,
  );
  for (const name of PROMISED.filter((promised) => promised.startsWith('mesh_')))
    t.match(readFileSync(join(packageRoot, 'docs/metrics.md'), 'utf8'), name, `${name} is documented`);
});
