/**
 * A23: a canary secret in jobs that print, return, throw and leak it in every way a careless task would. Beside it they
 * treat a *planted* text alike that is no secret: wherever that is found, the search works, and the canary is nowhere.
 */

import { createHash, randomBytes } from 'node:crypto';
import { mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type postgres from 'postgres';
import t, { before, type Test, test } from 'tap';
import { openDatabase } from '../support/database.js';
import { certificateFiles, get } from '../support/https.js';
import { type Agent, type Mesh, type Page, startMesh } from '../support/mesh.js';
import type { TaskShape } from '../../sdk/shapes.js';

/** Fit for the name of a secret and of an export, so that it can be planted there too. */
const planted = `planted_${randomBytes(16).toString('hex')}`;
const canary = `canary_${randomBytes(24).toString('base64url')}`;

let mesh: Mesh;
let agent: Agent;
let sql: postgres.Sql;
let folder: string;
let profiles: { anna: string; berta: string; viewer: string };

/** How a text may look where it was left: as it is, in hexadecimal, and in base64 at any of three offsets. */
function disguises(text: string): string[] {
  const base64 = [0, 1, 2].map((offset) => {
    const encoded = Buffer.concat([Buffer.alloc(offset), Buffer.from(text)]).toString('base64');
    return encoded.slice(offset === 0 ? 0 : 4, -4);
  });
  return [text, Buffer.from(text).toString('hex'), ...base64];
}

const holds = (haystack: string | Buffer, text: string): boolean =>
  disguises(text).some((disguise) => haystack.includes(disguise));

/** Every command line on this machine, watched while tasks run. */
class CommandLines {
  readonly seen = new Set<string>();
  readonly #timer = setInterval(() => this.#look(), 5);

  #look(): void {
    for (const pid of readdirSync('/proc').filter((name) => /^\d+$/.test(name))) {
      try {
        this.seen.add(readFileSync(`/proc/${pid}/cmdline`, 'latin1'));
      } catch {
        // It ended meanwhile.
      }
    }
  }

  get text(): string {
    return [...this.seen].join('\n');
  }

  stop(): void {
    clearInterval(this.#timer);
  }
}

/** A byte at a time, so that the two are never in one chunk. */
const SCRIPT = `
one_by_one() { printf %s "$1" | fold -w1 | while IFS= read -r c; do printf %s "$c"; done; echo; }
one_by_one "$CANARY"; one_by_one "$PLANTED"
one_by_one "$CANARY" >&2; one_by_one "$PLANTED" >&2
cat "$CANARY_FILE"; cat "$PLANTED_FILE" 2>/dev/null; echo
printf %s "$CANARY" | base64 -w0; echo; printf %s "$PLANTED" | base64 -w0; echo
printf 'hash %s\\n' "$(printf %s "$CANARY" | sha256sum)"
printf 'mode %s %s\\n' "$(stat -c %a "$CANARY_FILE")" "$(stat -f -c %T "$CANARY_FILE")"
`;

const MODULE = `
import { readFileSync, writeSync } from 'node:fs';
const { CANARY, CANARY_FILE, PLANTED } = process.env;
export const both = () => {
  for (const c of CANARY + ' ' + PLANTED) process.stdout.write(c);
  return { env: CANARY, file: readFileSync(CANARY_FILE, 'utf8'), planted: PLANTED, [CANARY]: CANARY.length };
};
export const thrown = () => { throw new Error('no: ' + CANARY + ' ' + PLANTED); };
export const crashed = () => {
  writeSync(2, 'fatal error ' + CANARY + ' ' + PLANTED);
  process.kill(process.pid, 'SIGKILL');
  return new Promise(() => {});
};
`;

before(async () => {
  mesh = await startMesh(t, { coordinator: ['--log-level', 'trace'] });
  const args = ['--slots', '2', '--log-level', 'trace', '--stop-grace', '100ms', '--kill-grace', '300ms'];
  agent = await mesh.startAgent('a1', { args });
  sql = openDatabase(mesh);
  t.teardown(() => sql.end({ timeout: 5 }));
  folder = mesh.folder('work');
  mkdirSync(folder, { recursive: true });
  writeFileSync(join(folder, 'leak.mjs'), MODULE);
  const login = async (role: string, name: string) => {
    const profile = join(mesh.root, `profile-${name}`);
    const token = await mesh.token('--role', role, '--name', name);
    const { ready } = mesh.coordinator;
    const joined = await mesh.cli('login', token, '--coordinator', ready.address, '--profile', profile);
    if (joined.code !== 0) throw new Error(joined.stderr);
    return profile;
  };
  profiles = {
    anna: await login('submitter', 'anna'),
    berta: await login('submitter', 'berta'),
    viewer: await login('viewer', 'walter'),
  };
});

const as = (profile: string, ...args: string[]) => mesh.cli('--profile', profile, ...args);

const setAs = (profile: string, name: string, value: string) =>
  mesh.cliWith({ input: `${value}\n` }, '--profile', profile, 'secret', 'set', name);

/** Everything of every table as text, bytes as hexadecimal. */
async function dump(): Promise<string> {
  const tables = await sql<{ name: string }[]>`
    select format('%I.%I', schemaname, tablename) as name from pg_tables
    where schemaname not in ('pg_catalog', 'information_schema')`;
  const rows: string[] = [];
  for (const { name } of tables)
    for (const { row } of await sql.unsafe<{ row: string }[]>(`select x::text as row from ${name} x`))
      rows.push(`${name} ${row}`);
  return rows.join('\n');
}

/** The files below a folder that hold the text. */
function filesWith(directory: string, text: string): string[] {
  return readdirSync(directory, { withFileTypes: true, recursive: true })
    .filter((entry) => entry.isFile())
    .map((entry) => join(entry.parentPath, entry.name))
    .filter((path) => {
      try {
        return holds(readFileSync(path), text);
      } catch {
        return false;
      }
    });
}

interface Ran {
  id: string;
  task: TaskShape;
  /** Everything a person can be shown of it, as JSON and not. */
  shown: string;
}

async function run(...args: string[]): Promise<Ran> {
  const submitted = await mesh.cliWith(
    { cwd: folder },
    '--profile',
    profiles.anna,
    'submit',
    '--json',
    '--wait',
    ...args,
  );
  if (submitted.stdout === '') throw new Error(submitted.stderr);
  const { id } = submitted.json<{ id: string }>();
  const shown = [submitted.stdout, submitted.stderr];
  const ways = [['job'], ['tasks', '--json'], ['logs'], ['logs', '--json'], ['results'], ['why', '--json']];
  for (const way of ways) {
    const { stdout, stderr } = await as(profiles.anna, ...way, id);
    shown.push(stdout, stderr);
  }
  const [task] = (await as(profiles.anna, 'tasks', '--json', id)).json<Page<TaskShape>>().items;
  return { id, task: task as TaskShape, shown: shown.join('\n') };
}

const GIVEN = ['--secret', 'CANARY', '--secret-file', 'CANARY', '--env', `PLANTED=${planted}`, '--retries', '0'];

function hidden(test: Test, ran: Ran): void {
  test.ok(holds(ran.shown, planted), 'the search finds what is there');
  test.notOk(holds(ran.shown, canary), 'the secret is not there');
}

test('A23: a canary secret is in no log, database, file, command line, error or answer', async (t) => {
  const watch = new CommandLines();
  t.teardown(() => watch.stop());
  t.equal((await setAs(profiles.anna, 'CANARY', canary)).code, 0);
  // Its name is no secret, and is logged, stored and audited: the search must find that.
  t.equal((await setAs(profiles.anna, planted, 'of no interest')).code, 0);

  const command = await run(...GIVEN, '--', 'sh', '-c', SCRIPT, planted);
  hidden(t, command);
  t.equal(command.task.status, 'COMPLETED', command.task.lastError ?? '');
  const hash = createHash('sha256').update(canary).digest('hex');
  t.match(command.shown, `hash ${hash}`, 'the task did have it');
  t.match(command.shown, /mode 400 tmpfs/);

  // Far more than what travels with the result, so that every bound cuts somewhere.
  const long = await run(...GIVEN, '--', 'sh', '-c', 'while printf %s "$CANARY$PLANTED"; do :; done | head -c 1500001');
  hidden(t, long);

  const returned = await run(...GIVEN, '--fn', 'leak.mjs#both');
  hidden(t, returned);
  t.match(returned.task.result, { env: '***', file: '***', planted, '***': canary.length });

  const thrown = await run(...GIVEN, '--fn', 'leak.mjs#thrown');
  hidden(t, thrown);
  t.match(thrown.task.lastError, `Error: no: *** ${planted}`);

  const crashed = await run(...GIVEN, '--fn', 'leak.mjs#crashed');
  hidden(t, crashed);
  t.match(crashed.task.lastError, `fatal error *** ${planted}`);

  const missing = await run(...GIVEN, '--', `/nowhere/${planted}`);
  hidden(t, missing);
  watch.stop();

  t.ok(holds(watch.text, planted), 'command lines were watched');
  t.notOk(holds(watch.text, canary));

  const logs = [mesh.coordinator.program, agent.program].map(({ events, stderr }) => JSON.stringify(events) + stderr);
  t.ok(holds(logs[0] ?? '', planted), 'the log of the coordinator was read');
  t.match(logs[1], /"level":"(?:trace|debug)"/, 'the log of the agent was read');
  for (const log of logs) t.notOk(holds(log, canary));

  const rows = await dump();
  for (const table of ['job', 'task', 'audit', 'secret'])
    t.ok(
      rows.split('\n').some((row) => row.startsWith(`public.${table} `) && holds(row, planted)),
      `${table} was read`,
    );
  t.notOk(holds(rows, canary));

  await sql`checkpoint`;
  for (const directory of [mesh.coordinator.dataDir, agent.dataDir]) t.strictSame(filesWith(directory, canary), []);
  t.ok(filesWith(mesh.coordinator.dataDir, planted).length > 0, 'the files of the coordinator were read');

  const answers: string[] = [];
  for (const args of [['secret', 'list'], ['audit'], ['jobs'], ['nodes'], ['node', 'a1']])
    answers.push((await mesh.cli(...args, '--json')).stdout);
  t.ok(holds(answers.join('\n'), planted));
  t.notOk(holds(answers.join('\n'), canary));
  const metrics = await get(mesh.coordinator.ready.address, '/metrics', clientFiles(mesh.profile));
  t.equal(metrics.status, 200);
  t.notOk(holds(metrics.body, canary));

  t.strictSame(filesWith('/dev/shm', canary), [], 'and none is left in memory');
});

const clientFiles = (profile: string) => certificateFiles(profile, 'client');

test('A23: nobody uses, lists, replaces or removes what is another’s', async (t) => {
  await setAs(profiles.anna, 'PRIVATE', canary);
  const names = async (profile: string) =>
    (await as(profile, 'secret', 'list', '--json')).json<Page<{ name: string }>>().items.map(({ name }) => name);
  t.ok((await names(profiles.anna)).includes('PRIVATE'), 'she sees her own');
  t.notOk((await names(profiles.berta)).includes('PRIVATE'));
  const stolen = await as(profiles.berta, 'submit', '--json', '--secret', 'PRIVATE', '--', 'true');
  t.equal(stolen.code, 2);
  t.match(stolen.error(), { code: 'BAD_SPEC', message: /no secret PRIVATE that submitter\/berta may use/ });
  for (const [code, args] of [
    [5, ['remove', 'PRIVATE']],
    [4, ['remove', 'PRIVATE', '--for', 'submitter/anna']],
  ] as const)
    t.equal((await as(profiles.berta, 'secret', ...args)).code, code);
  const before = await sql`select * from secret where name = 'PRIVATE'`;
  const forged = await mesh.cliWith(
    { input: 'forged' },
    ...['--profile', profiles.berta, 'secret', 'set', 'PRIVATE', '--for', 'submitter/anna', '--json'],
  );
  t.match(forged.error(), { code: 'DENIED' });
  t.strictSame(await sql`select * from secret where name = 'PRIVATE'`, before, 'no row changed');
  for (const args of [['list'], ['remove', 'PRIVATE']]) {
    const refused = await as(profiles.viewer, 'secret', ...args, '--json');
    t.match(refused.error(), { code: 'DENIED' }, `a viewer: ${args[0]}`);
  }
  const [denied] =
    await sql`select count(*)::int as n from audit where action = 'call.denied' and actor = 'viewer/walter'`;
  t.ok(denied?.n > 0, 'and it is written down');
});

test('A23: a row that is copied over another one, or changed, opens for nobody', async (t) => {
  await setAs(profiles.anna, 'MINE', canary);
  await setAs(profiles.berta, 'THEIRS', 'nothing much');
  await sql`
    update secret b set sealed = a.sealed, size_bytes = a.size_bytes, revision = a.revision
    from secret a where a.owner = 'submitter/anna' and a.name = 'MINE' and b.owner = 'submitter/berta' and b.name = 'THEIRS'`;
  const job = await as(
    profiles.berta,
    ...['submit', '--json', '--wait', '--retries', '0', '--secret', 'THEIRS', '--', 'sh', '-c', 'echo "$THEIRS"'],
  );
  const { id } = job.json<{ id: string }>();
  const [task] = (await as(profiles.berta, 'tasks', '--json', id)).json<Page<TaskShape>>().items;
  t.match(task, { status: 'FAILED', lastError: /the secret THEIRS was changed in the database/ });
  t.notOk(holds((await as(profiles.berta, 'logs', id)).stdout, canary));
});
