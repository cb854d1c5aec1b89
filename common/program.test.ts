import { Option } from 'commander';
import { test, type Test } from 'tap';
import { ERRORS, MeshError } from './errors.js';
import { makeProgram, reportError, runProgram } from './program.js';

/** Runs it as the shell would; what it wrote to both streams, and its exit code. */
async function run(
  t: Test,
  argv: string[],
  act: (options: { size?: string }) => Promise<void> | void = () => undefined,
) {
  const program = makeProgram('tool', 'Does things.', ['tool go --size 3']);
  const command = program
    .command('go [rest...]')
    .description('goes')
    .option('--size <n>', 'how far')
    .option('--json', 'as JSON');
  command.action((_: string[], options: { size?: string }) => act(options));
  const out = t.capture(process.stdout, 'write', () => true);
  const err = t.capture(process.stderr, 'write', () => true);
  const listeners = process.stdout.listeners('error');
  const before = process.exitCode;
  process.exitCode = undefined;
  await runProgram(program, ['node', 'tool', ...argv]);
  const code = process.exitCode ?? 0;
  process.exitCode = before;
  const text = (calls: readonly { args: unknown[] }[]) => calls.map(({ args }) => String(args[0])).join('');
  const written = { code, out: text(out()), err: text(err()) };
  out.restore();
  err.restore();
  for (const listener of process.stdout.listeners('error') as (() => void)[])
    if (!listeners.includes(listener)) process.stdout.removeListener('error', listener);
  return written;
}

test('an error is one line: what, why, what to do; with the exit code of its kind', async (t) => {
  const found = await run(t, ['go'], () => {
    throw new MeshError('NOT_FOUND', 'there is no job\n  "x"', { hint: 'see:\tmesh jobs' });
  });
  t.same(found, { code: 5, out: '', err: 'tool: there is no job "x"; see: mesh jobs\n' });
});

test('what others wrote does not command the terminal', async (t) => {
  const found = await run(t, ['go'], () => {
    throw new MeshError('NOT_FOUND', 'no \u001b[31mx\u009b\u202e', { hint: 'see\u0007' });
  });
  t.equal(found.err, 'tool: no [31mx; see\n');
});

test('under --json it is one JSON document; after -- the flag is somebody else’s', async (t) => {
  const fail = () => {
    throw new MeshError('TIMED_OUT', 'too\nslow');
  };
  const found = await run(t, ['go', '--json'], fail);
  t.equal(found.code, 6);
  t.same(JSON.parse(found.err), {
    error: { code: 'TIMED_OUT', message: 'too\nslow', hint: ERRORS.TIMED_OUT.hint },
  });
  t.equal(found.err.split('\n').length, 2);
  t.match((await run(t, ['go', '--', '--json'], fail)).err, /^tool: too slow; /);
});

test('wrong usage is said the same way', async (t) => {
  t.match(await run(t, ['go', '--siez', '3']), {
    code: 2,
    err: /^tool: unknown option '--siez'; did you mean --size\?\n$/,
  });
  t.match(await run(t, ['go', '--size']), { code: 2, err: /^tool: option '--size <n>' argument missing; / });
  t.match(await run(t, ['gp']), { code: 2, err: /^tool: .*gp.*\n$/ });
  t.match(await run(t, []), { code: 2, err: /a command is missing/ });
  const json = await run(t, ['go', '--json', '--siez']);
  t.match(JSON.parse(json.err), { error: { code: 'USAGE', message: "unknown option '--siez'" } });
});

test('help and version are no errors; a defect is one', async (t) => {
  t.match(await run(t, ['--help']), { code: 0, err: '', out: /Examples:\n {2}tool go --size 3/ });
  t.match(await run(t, ['--version']), { code: 0, out: /^\d+\.\d+\.\d+/ });
  const found = await run(t, ['go'], () => {
    throw new TypeError('x is not a function');
  });
  t.match(found, { code: 1, err: /^tool: x is not a function; please report it with the log\n$/ });
  t.match(await run(t, ['go', '--size', '3']), { code: 0, out: '', err: '' });
});

test('what the file system refuses is no defect', async (t) => {
  const refuse = (code: string) =>
    run(t, ['go'], () => {
      throw Object.assign(new Error(code), { code, path: '/srv/x' });
    });
  t.match(await refuse('EACCES'), {
    code: 1,
    err: 'tool: cannot use /srv/x (EACCES); see who owns it, or name another place\n',
  });
  t.match(await refuse('ENOSPC'), { code: 1, err: 'tool: cannot use /srv/x (ENOSPC); free some space\n' });
});

test('output that cannot be written fails the command, at its end', async (t) => {
  const lose = (code: string) =>
    run(t, ['go'], () => void process.stdout.emit('error', Object.assign(new Error(code), { code })));
  t.same(await lose('ENOSPC'), {
    code: 1,
    out: '',
    err: 'tool: the output cannot be written (ENOSPC); free some space\n',
  });
  t.match(await lose('EIO'), { code: 2, err: /cannot be written \(EIO\); send it somewhere else/ });
});

test('what commander says in sentences goes on after a semicolon', async (t) => {
  const program = makeProgram('tool', 'Does things.', []);
  program.command('go').addOption(new Option('--pace <p>').choices(['slow', 'fast']));
  for (const [argv, said] of [
    [['go', 'far'], "too many arguments for 'go': expected 0 arguments but got 1"],
    [['go', '--pace', 'x'], "option '--pace <p>' argument 'x' is invalid: allowed choices are slow, fast"],
  ] as const) {
    const err = t.capture(process.stderr, 'write', () => true);
    const before = process.exitCode;
    await runProgram(program, ['node', 'tool', ...argv]);
    process.exitCode = before;
    t.equal(String(err()[0]?.args[0]), `tool: ${said}; see --help\n`);
    err.restore();
  }
});

test('what is reported returns the exit code of each entry of the registry', async (t) => {
  const err = t.capture(process.stderr, 'write', () => true);
  for (const [code, { exit }] of Object.entries(ERRORS))
    t.equal(reportError('tool', new MeshError(code as keyof typeof ERRORS, 'x'), false), exit, code);
  err.restore();
});
