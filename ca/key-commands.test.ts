/** The commands about the authority's keys as people type them. */
import { spawnSync } from 'node:child_process';
import { chmodSync, existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import t, { test } from 'tap';

const MAIN = fileURLToPath(new URL('main.ts', import.meta.url));
const ROOT = fileURLToPath(new URL('..', import.meta.url));
const WORDS = 'correct horse battery';

const folder = mkdtempSync(join(tmpdir(), 'mesh-ca-'));
t.teardown(() => rmSync(folder, { recursive: true, force: true }));
const directory = join(folder, 'ca');
const words = join(folder, 'words');
writeFileSync(words, `${WORDS}\n`);

const environment = { PATH: process.env.PATH, HOME: folder };

function run(...args: string[]) {
  const command = ['--import=tsx', MAIN, ...args];
  const { status, stdout, stderr } = spawnSync(process.execPath, command, {
    env: environment,
    cwd: ROOT,
    encoding: 'utf8',
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  t.notMatch(stdout + stderr, WORDS, 'no passphrase is ever printed');
  return { status, stdout, stderr };
}

test('a passphrase file that others can read is refused', async (t) => {
  chmodSync(words, 0o640);
  const { status, stderr } = run('init', '--dir', directory, '--passphrase-file', words);
  t.equal(status, 4);
  t.equal(stderr, `mesh-ca: the passphrase file ${words} is open to others (mode 0640); chmod 600 ${words}\n`);
  t.notOk(existsSync(directory));
  chmodSync(words, 0o600);
  t.equal(run('init', '--dir', directory, '--passphrase-file', words).status, 0);
});

test('one line says what is missing or wrong', async (t) => {
  const issue = ['issue', 'a1', '--role', 'agent', '--out', join(folder, 'a1'), '--dir', directory];
  const without = run(...issue);
  t.equal(without.status, 4);
  t.match(without.stderr, /^mesh-ca: no passphrase of the CA's keys in .* was given.*--passphrase-file.*\n$/);
  const other = join(folder, 'other');
  writeFileSync(other, 'another few words\n', { mode: 0o600 });
  const wrong = run(...issue, '--passphrase-file', other);
  t.equal(wrong.status, 4);
  t.match(wrong.stderr, /^mesh-ca: the passphrase does not open .*issuer\.key; .*\n$/);
  t.equal(run('list', '--dir', directory).status, 0, 'looking takes none');
  writeFileSync(other, 'short\n');
  const short = run(
    'passphrase',
    'set',
    '--dir',
    directory,
    '--passphrase-file',
    words,
    '--new-passphrase-file',
    other,
  );
  t.match(short, { status: 4, stderr: /shorter than 8 bytes/ });
});

test("the root's key is exported under the same passphrase, signs a request, and comes back", async (t) => {
  const own = ['--dir', directory, '--passphrase-file', words];
  const [root, csr, crt] = ['root.pem', 'issuer.csr', 'issuer.crt'].map((name) => join(folder, name)) as [
    string,
    string,
    string,
  ];
  t.match(run('root', 'export', '--json', '--out', root, ...own), {
    status: 0,
    stdout: /"encrypted":true,"kept":false/,
  });
  t.notOk(existsSync(join(directory, 'ca.key')));
  t.match(run('root', 'export', '--out', `${root}.2`, ...own), { status: 1, stderr: /the root's key is not in/ });
  const requested = run('issuer', 'request', '--out', csr, ...own);
  const signed = run('issuer', 'sign', csr, '--root', root, '--file-passphrase-file', words, '--out', crt);
  const digest = (text: string) => /public key ([0-9a-f]{64})/.exec(text)?.[1];
  t.ok(digest(requested.stdout));
  t.equal(digest(signed.stdout), digest(requested.stdout));
  t.equal(run('issuer', 'install', crt, ...own).status, 0);
  t.equal(readFileSync(join(directory, 'issuer.crt'), 'utf8'), readFileSync(crt, 'utf8'));
  t.equal(run('root', 'import', root, '--file-passphrase-file', words, ...own).status, 0);
  t.ok(existsSync(join(directory, 'ca.key')));
});
