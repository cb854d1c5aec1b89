import {
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type Test, test } from 'tap';
import { ManualClock } from '../../../test/support/manual-clock.js';
import { TaskEtc } from './etc.js';

function makeEtc(t: Test) {
  const root = mkdtempSync(join(tmpdir(), 'etc-'));
  t.teardown(() => rmSync(root, { recursive: true, force: true }));
  const system = join(root, 'system');
  mkdirSync(system);
  const clock = new ManualClock();
  const put = (name: string, text: string, mode = 0o644): void => {
    writeFileSync(join(system, `${name}.new`), text, { mode });
    renameSync(join(system, `${name}.new`), join(system, name));
  };
  const make = () => new TaskEtc({ path: root, user: { name: 'x', uid: 1234, gid: 56 } }, clock, system);
  return { root, system, clock, put, make, read: (name: string) => readFileSync(join(root, 'etc', name), 'utf8') };
}

test('what programs need is there, and nobody but the task and root has a name', (t) => {
  const { system, put, make, read, root } = makeEtc(t);
  put('services', 'ssh 22/tcp\n');
  put('shadow', 'root:secret\n');
  put('nsswitch.conf', 'hosts: files\n', 0o600);
  writeFileSync(join(system, 'UTC'), 'TZif');
  symlinkSync('UTC', join(system, 'localtime'));
  mkdirSync(join(system, 'ssl'));
  writeFileSync(join(system, 'ssl', 'key'), 'secret');
  const etc = make();
  t.strictSame([...etc.folders()], ['ssl']);
  const names = ['group', 'hosts', 'localtime', 'passwd', 'resolv.conf', 'services', 'ssl'];
  t.strictSame(readdirSync(etc.directory).sort(), names, 'nothing that is not on the list, or not for all to read');
  t.strictSame(readdirSync(join(etc.directory, 'ssl')), [], 'a place for the folder, which is not copied');
  t.equal(read('services'), 'ssh 22/tcp\n');
  t.equal(read('localtime'), 'TZif');
  t.equal(read('passwd'), 'root:x:0:0:root:/:/bin/false\ntask:x:1234:56:task:/:/bin/sh\n');
  for (const name of names) if (name !== 'ssl') t.equal(statSync(join(root, 'etc', name)).mode & 0o777, 0o644, name);
  t.end();
});

test('copies follow their originals, at the first command after a second', (t) => {
  const { system, clock, put, make, read } = makeEtc(t);
  put('ld.so.cache', 'old');
  put('timezone', 'Etc/UTC\n');
  const etc = make();
  put('ld.so.cache', 'new');
  rmSync(join(system, 'timezone'));
  mkdirSync(join(system, 'fonts'));
  put('mime.types', 'text/plain txt\n');
  clock.advance(999);
  t.strictSame([...etc.folders()], []);
  t.equal(read('ld.so.cache'), 'old');
  clock.advance(1);
  t.strictSame([...etc.folders()], ['fonts']);
  t.equal(read('ld.so.cache'), 'new');
  t.equal(read('mime.types'), 'text/plain txt\n');
  t.throws(() => read('timezone'), { code: 'ENOENT' });
  // What can no longer be copied stays as it was, and the next look tries again.
  rmSync(etc.directory, { recursive: true });
  put('ld.so.cache', 'newer');
  clock.advance(1000);
  t.strictSame([...etc.folders()], ['fonts']);
  mkdirSync(etc.directory);
  clock.advance(1000);
  etc.folders();
  t.equal(read('ld.so.cache'), 'newer');
  t.end();
});
