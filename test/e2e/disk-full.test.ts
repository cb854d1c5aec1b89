/** The disk of a coordinator with an embedded database runs full to the last byte, and gets room again. */
import { execFileSync, spawnSync } from 'node:child_process';
import { closeSync, mkdtempSync, openSync, rmSync, writeSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { basename, join } from 'node:path';
import { type Test, test } from 'tap';
import { makeMesh } from '../support/mesh.js';

const shell = (script: string): string[] => ['--', 'sh', '-c', script];
const TASKS = 60;

const mount = (directory: string, size: string): boolean =>
  spawnSync('mount', ['-t', 'tmpfs', '-o', `size=${size},mode=700`, 'tmpfs', directory]).status === 0;

const unmount = (directory: string): void => void execFileSync('umount', ['-l', directory]);

/** Why there is no small disk here. */
function whyNot(): string | false {
  const directory = mkdtempSync(join(tmpdir(), 'mesh-disk-'));
  const mounted = mount(directory, '1m');
  if (mounted) unmount(directory);
  rmSync(directory, { recursive: true });
  return mounted ? false : 'this user may not mount a small disk';
}

/** A directory of its own size, gone after the test. */
function smallDisk(t: Test, size: string): string {
  const directory = mkdtempSync(join(tmpdir(), 'mesh-disk-'));
  if (!mount(directory, size)) throw new Error('a smaller disk could be mounted');
  t.teardown(() => {
    unmount(directory);
    rmSync(directory, { recursive: true, force: true });
  });
  return directory;
}

/** Writes until not a byte more fits. */
function fill(path: string): void {
  const file = openSync(path, 'w');
  try {
    for (let bytes = 1 << 20; bytes >= 1; ) {
      try {
        writeSync(file, Buffer.alloc(bytes));
      } catch {
        bytes >>= 1;
      }
    }
  } finally {
    closeSync(file);
  }
}

test('nothing acknowledged is lost while there is no room, and all goes on when there is', {
  skip: whyNot(),
}, async (t) => {
  const disk = smallDisk(t, '320m');
  const mesh = makeMesh(t);
  const flags = ['--listen', '127.0.0.1', '--min-free-bytes', '1MiB'];
  await mesh.startCoordinator({ data: join('..', basename(disk)), args: flags });
  await mesh.startAgent('a1', { args: ['--slots', '2', '--stop-grace', '100ms'] });
  const gate = mesh.witness.gate('gate');
  const begun = mesh.witness.path('begun');
  const job = await mesh.submit(
    '--array',
    `0-${TASKS - 1}`,
    ...shell(`echo "$MESH_INDEX" >> ${begun}; read x < ${gate.path}`),
  );
  await mesh.witness.seen('begun', 2);
  const ballast = join(disk, 'ballast');
  fill(ballast);
  gate.open(TASKS);
  const refused = await mesh.cli('submit', '--json', '--submit-timeout', '0s', ...shell('true'));
  t.not(refused.code, 0, 'no job is taken that could be lost');
  t.match(refused.stderr, /"code":"(?:DISK_FULL|DATABASE_DOWN)"/);
  const patient = mesh.submit(...shell('true'));
  rmSync(ballast);
  t.match(await mesh.wait((await patient).id), { status: 'COMPLETED' }, 'it was tried again until there was room');
  t.match(await mesh.wait(job.id), { status: 'COMPLETED', tasks: { completed: TASKS, failed: 0 } });
  const lines = mesh.witness.lines('begun');
  t.equal(new Set(lines).size, TASKS);
  t.equal(lines.length, TASKS, 'none ran twice');
  t.equal(mesh.coordinator.program.running, true);
});
