/**
 * A task that prints more than anybody can keep: nothing of it piles up, neither with the agent, nor with the coordinator,
 * nor with whoever reads it; and what it prints does not command the reader's terminal.
 */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { join } from 'node:path';
import t, { before, test } from 'tap';
import { packageRoot } from '../../common/package.js';
import { endures, watchMemory } from '../support/attacker.js';
import { residentBytes } from '../support/leftovers.js';
import { type Agent, makeMesh, type Mesh } from '../support/mesh.js';

const MEBIBYTE = 2 ** 20;
const LOG_BYTES = 4 * MEBIBYTE;

let mesh: Mesh;
let agent: Agent;

before(async () => {
  mesh = makeMesh(t);
  const args = ['--listen', '127.0.0.1', '--max-log-bytes', '4MiB', '--max-job-log-bytes', '8MiB'];
  await mesh.startCoordinator({ args });
  agent = await mesh.startAgent('a1');
});

const command = (script: string) => ['--retries', '0', '--wait', '--', 'sh', '-c', script];

/** `mesh logs` in a process of its own: what it printed, up to a bound, how much, and how much memory it took. */
async function view(file: string, args: readonly string[]): Promise<{ text: string; bytes: number; peak: number }> {
  const child = spawn(file, args, { env: mesh.environment, stdio: ['ignore', 'pipe', 'inherit'] });
  let [text, bytes, peak] = ['', 0, 0];
  child.stdout.on('data', (chunk: Buffer) => {
    bytes += chunk.length;
    text = (text + chunk.toString('latin1')).slice(-MEBIBYTE);
    try {
      peak = Math.max(peak, residentBytes(child.pid ?? 0).peak);
    } catch {
      // It has ended.
    }
  });
  await once(child, 'close');
  return { text, bytes, peak };
}

const MESH = join(packageRoot, 'dist', 'cli', 'main.js');

test('A21: a gigabyte without a newline', async (t) => {
  const grown = watchMemory(agent.program.pid);
  let id = '';
  await endures(t, mesh, 150, async () => {
    const job = await mesh.submit(...command('head -c 1073741824 /dev/zero | tr "\\0" x; echo end'));
    t.equal(job.status, 'COMPLETED');
    ({ id } = job);
  });
  const mebibytes = Math.round(grown() / MEBIBYTE);
  t.comment(`the agent grew by ${mebibytes} MiB at most`);
  t.ok(mebibytes <= 150, 'the agent stays flat too');
  for (const flags of [[], ['--json']]) {
    const { text, bytes, peak } = await view(process.execPath, [MESH, 'logs', id, ...flags]);
    t.ok(bytes <= LOG_BYTES * 1.5, `what is kept is bounded: ${bytes} bytes`);
    t.ok(text.includes('end'), 'and has the end');
    t.ok(peak < 250 * MEBIBYTE, `the viewer took ${Math.round(peak / MEBIBYTE)} MiB`);
  }
  const lines = (await mesh.cli('logs', id, '--json')).lines<{ text: string }>();
  t.ok(
    lines.some(({ text }) => /\[\d+ bytes of output left out\]/.test(text)),
    'a marker says how much is missing',
  );
});

test('A21: many loud attempts of one job leave no more than the job may', async (t) => {
  await endures(t, mesh, 150, async () => {
    const job = await mesh.submit('--array', '0-5', ...command('head -c 16777216 /dev/zero | tr "\\0" y; echo last'));
    t.equal(job.status, 'COMPLETED');
    const { bytes } = await view('du', ['-sb', join(mesh.coordinator.dataDir, 'logs', job.id)]);
    t.ok(bytes > 0);
    const { text } = await view('du', ['-sb', join(mesh.coordinator.dataDir, 'logs', job.id)]);
    t.ok(
      Number(text.split('\t')[0]) <= 8 * MEBIBYTE + 3 * LOG_BYTES,
      `${text.trim()}: the quota, and what was under way`,
    );
    for (const index of [0, 5]) t.match((await mesh.cli('logs', `${job.id}.${index}`)).stdout.slice(-10), /last/);
  });
});

test('A21: escapes and broken characters reach a pipe as they are, and a terminal as pictures', async (t) => {
  const hostile = String.raw`\033]0;owned\007\033[2J\033]52;c;b3duZWQ=\007\377\376\302\n\302\233\342\200\256evil\n`;
  const { id } = await mesh.submit(...command(`printf '${hostile}'`));
  const piped = await view(process.execPath, [MESH, 'logs', id]);
  t.ok(piped.text.includes('\u001b]0;owned\u0007'), 'raw for a pipe, as documented');
  const shown = await view('script', ['-qec', `"${process.execPath}" "${MESH}" logs ${id}`, '/dev/null']);
  const text = Buffer.from(shown.text, 'latin1').toString('utf8');
  t.match(text, /owned/, 'a terminal shows it');
  const plain = text.replace(/[\r\n\t]/g, '');
  t.notMatch(plain, /\p{Cc}|\p{Bidi_Control}/u, 'without one control character');
  const json = await view(process.execPath, [MESH, 'logs', id, '--json']);
  t.notMatch(Buffer.from(json.text, 'latin1').toString('utf8').replaceAll('\n', ''), /\p{Cc}/u, 'JSON has none either');
});
