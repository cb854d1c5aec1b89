import { spawnSync } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { test } from 'tap';

/** Stands for the agent: what its children get, before and after. Descriptor 40 is a folder, and core dumps are allowed. */
const STAND_IN = `
  const { spawnSync } = await import('node:child_process');
  const { renounceInheritance } = await import(process.argv[1]);
  const look = () =>
    spawnSync('sh', ['-c', 'readlink /proc/self/fd/40; ulimit -S -c; ulimit -H -c'], { encoding: 'utf8' }).stdout;
  const before = look();
  renounceInheritance({ info: () => {}, warn: (_, text) => console.error(text) });
  console.log(JSON.stringify([before, look()]));
`;

const onLinux = process.platform === 'linux' ? {} : { skip: 'descriptors and limits are looked at in /proc' };

test('what the agent was started with does not reach what it starts', onLinux, (t) => {
  const program = fileURLToPath(new URL('inheritance.ts', import.meta.url));
  // A shell opens it with a gap below, behind which Node marks nothing.
  const script = 'ulimit -S -c "$(ulimit -H -c)"; exec 40</etc; exec "$@"';
  const node = [process.execPath, ...process.execArgv, '--input-type=module', '-e', STAND_IN, program];
  const { stdout, stderr } = spawnSync('bash', ['-c', script, 'bash', ...node], { encoding: 'utf8' });
  t.equal(stderr, '');
  const [before, after] = JSON.parse(stdout) as [string, string];
  t.match(before, /^\/etc\n/, 'Node alone passes the folder on');
  t.equal(after, '0\n0\n');
  t.end();
});
