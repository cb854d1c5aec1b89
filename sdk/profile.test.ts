import { mkdirSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'tap';
import { ADDRESSES_MAX, findProfileDir, readProfile, withAddress, writeProfile } from './profile.js';

const content = { meshId: 'm', coordinators: ['10.0.0.1:7443'] };

test('flag, then MESH_PROFILE, then the user, then the local coordinator', async (t) => {
  const home = t.testdir();
  const environment: NodeJS.ProcessEnv = {
    MESH_PROFILE: join(home, 'variable'),
    XDG_CONFIG_HOME: join(home, 'config'),
    MESH_HOME: join(home, 'data'),
  };
  const [user, admin] = [join(home, 'config/planetary-mesh/profile'), join(home, 'data/coordinator/admin')];
  t.equal(findProfileDir(join(home, 'flag'), environment), join(home, 'flag'));
  t.equal(findProfileDir(undefined, environment), join(home, 'variable'));
  delete environment.MESH_PROFILE;
  t.throws(() => findProfileDir(undefined, environment), { code: 'NO_PROFILE' });
  writeProfile(admin, content);
  t.equal(findProfileDir(undefined, environment), admin);
  writeProfile(user, content);
  t.equal(findProfileDir(undefined, environment), user);
});

test('what is written is read back, privately', async (t) => {
  const directory = join(t.testdir(), 'p');
  writeProfile(directory, { ...content, coordinators: Array.from({ length: 99 }, (_, i) => `h${i}:1`) });
  const profile = readProfile(directory);
  t.equal(profile.meshId, 'm');
  t.equal(profile.coordinators.length, ADDRESSES_MAX);
  t.equal(statSync(join(directory, 'profile.json')).mode & 0o777, 0o600);
  t.equal(statSync(directory).mode & 0o777, 0o700);
  t.match(readFileSync(join(directory, 'profile.json'), 'utf8'), /"meshId": "m"/);
});

test('a missing or damaged profile is named', async (t) => {
  const directory = t.testdir();
  t.throws(() => readProfile(directory), { code: 'NO_PROFILE', message: `there is no profile in ${directory}` });
  for (const text of [
    '{',
    'null',
    '{"meshId":"m"}',
    '{"meshId":1,"coordinators":[]}',
    '{"meshId":"m","coordinators":[1]}',
  ]) {
    mkdirSync(directory, { recursive: true });
    writeFileSync(join(directory, 'profile.json'), text);
    t.throws(() => readProfile(directory), { code: 'BAD_CONFIG' }, text);
  }
});

test('an address that cannot be read is passed over', async (t) => {
  const directory = t.testdir();
  writeProfile(directory, { meshId: 'm', coordinators: ['host:0', 'a b', 'box', '', '[fd00::5]:1', 'box:70000'] });
  t.same(readProfile(directory).coordinators, ['box:7443', '[fd00::5]:1']);
});

test('the address that answered goes first', async (t) => {
  t.equal(withAddress(['a:1', 'b:1'], 'a:1'), undefined);
  t.same(withAddress(['a:1', 'b:1'], 'b:1'), ['b:1', 'a:1']);
  t.same(withAddress([], 'c:1'), ['c:1']);
});
