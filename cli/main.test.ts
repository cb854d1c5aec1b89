import { execFile, type ExecFileException } from 'node:child_process';
import { join } from 'node:path';
import { test } from 'tap';
import { packageRoot } from '../common/package.js';
import { writeProfile } from '../sdk/profile.js';
import { buildProgram } from './program.js';

interface Outcome {
  code: number;
  stdout: string;
  stderr: string;
}

/** The command as people run it: another process, with nobody's profile. */
function mesh(home: string, ...words: string[]): Promise<Outcome> {
  const env = { PATH: process.env.PATH, HOME: home, XDG_CONFIG_HOME: home, MESH_HOME: home };
  const command = ['--import=tsx', join(packageRoot, 'cli', 'main.ts'), ...words];
  return new Promise((resolve) => {
    const child = execFile(process.execPath, command, { env }, (error: ExecFileException | null, stdout, stderr) =>
      resolve({ code: typeof error?.code === 'number' ? error.code : error ? -1 : 0, stdout, stderr }),
    );
    child.stdin?.end();
  });
}

test('wrong usage is one line on standard error and exit code 2', async (t) => {
  const home = t.testdir();
  const cases: [string[], RegExp][] = [
    [['jobs', '--bogus'], /^mesh: unknown option '--bogus'; /],
    [['bogus'], /^mesh: unknown command 'bogus'; /],
    [['submit', '--array', '1-10000000000', '--', 'x'], /^mesh: --array: .* would make 10000000000 tasks; /],
    [['submit', '--where', 'a b c', '--', 'x'], /^mesh: --where: .* does not parse; /],
    [['jobs'], /^mesh: there is no profile on this machine; /],
    [['up', '--data', ''], /^mesh: --data: it is empty; /],
    [['submit', '--memory', '512', '--', 'x'], /^mesh: --memory: .* is 512 bytes, .*512MiB/],
    [['secret', 'set', '9x'], /^mesh: "9x" cannot be the name of a secret; /],
    [['doctor', '--data', '/x'], /^mesh: --data is looked at with --security only; /],
  ];
  const outcomes = await Promise.all(cases.map(([words]) => mesh(home, ...words)));
  for (const [index, { code, stdout, stderr }] of outcomes.entries()) {
    const [words, expected] = cases[index]!;
    t.equal(code, 2, words.join(' '));
    t.equal(stdout, '');
    t.match(stderr, expected);
    t.match(stderr, /^[^\n]+\n$/, 'one line');
  }
});

test('under --json an error is one JSON document', async (t) => {
  const { code, stdout, stderr } = await mesh(t.testdir(), 'jobs', '--json');
  t.equal(code, 2);
  t.equal(stdout, '');
  t.match(JSON.parse(stderr), { error: { code: 'NO_PROFILE', message: String, hint: String } });
});

test('a profile without a certificate is named before anybody is called', async (t) => {
  const home = t.testdir();
  writeProfile(join(home, 'p'), { meshId: 'm', coordinators: ['127.0.0.1:1'] });
  const { code, stderr } = await mesh(home, 'jobs', '--profile', join(home, 'p'));
  t.equal(code, 2);
  t.match(stderr, /^mesh: the profile .* has no certificate; /);
});

test('help and version go to standard output', async (t) => {
  const help = await mesh(t.testdir(), '--help');
  t.match(help, { code: 0, stderr: '' });
  for (const name of ['up', 'token', 'submit', 'undrain']) t.match(help.stdout, new RegExp(`^  ${name} `, 'm'));
  t.match(await mesh(t.testdir(), '--version'), { code: 0, stdout: /^\d+\.\d+\.\d+\n$/ });
});

test('every command has a description, examples, --json and --profile', async (t) => {
  const program = await buildProgram();
  const leaves = program.commands.flatMap((command) => (command.commands.length > 0 ? command.commands : [command]));
  t.ok(leaves.length >= 19);
  for (const command of leaves) {
    let help = '';
    command.configureOutput({ writeOut: (text) => (help += text) });
    command.outputHelp();
    t.match(help, /\nExamples:\n/, command.name());
    t.match(help, /--json/, command.name());
    t.match(help, /--profile <path>/, command.name());
    t.not(command.description(), '', command.name());
  }
});
