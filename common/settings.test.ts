import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { Command } from 'commander';
import { test, type Test } from 'tap';
import { agentSettings } from '../agent/settings.js';
import { coordinatorSettings } from '../coordinator/services/settings.js';
import {
  addSettings,
  asFlag,
  asInteger,
  asNumber,
  asText,
  printConfig,
  resolveSettings,
  setting,
  type SettingTable,
} from './settings.js';
import { parseDuration, parseSize } from './units.js';

const TABLE = {
  port: setting({ flag: '--port <number>', describe: 'port', parse: asInteger(0, 65535), fallback: 7443 }),
  mdns: setting({ flag: '--no-mdns', describe: 'mdns', parse: asFlag, fallback: true }),
  maxLogBytes: setting({ flag: '--max-log-bytes <size>', describe: 'bytes', parse: parseSize, fallback: 1024 }),
  heartbeat: setting({ flag: '--heartbeat <duration>', describe: 'beat', parse: parseDuration, fallback: 2000 }),
  weight: setting({ flag: '--weight <number>', describe: 'w', parse: asNumber(0, 1), fallback: 0.25 }),
  label: setting<string[]>({ flag: '--label <text>', describe: 'l', parse: asText, fallback: [], list: true }),
  password: setting<string | undefined>({
    ...{ flag: '--password <text>', describe: 'p', parse: asText, fallback: undefined, secret: true },
  }),
};

function resolve<S extends SettingTable>(table: S, argv: string[], environment: NodeJS.ProcessEnv = {}) {
  const command = new Command('x').exitOverride();
  addSettings(command, table);
  command.action(() => undefined).parse(argv, { from: 'user' });
  return resolveSettings(table, command, environment);
}

function file(t: Test, content: string): string {
  const path = join(t.testdir(), 'x.toml');
  writeFileSync(path, content);
  return path;
}

test('flag before environment before file before default, each with its source', async (t) => {
  const config = file(t, 'port = 3\nmax-log-bytes = "2KiB"\nweight = 0.5\nmdns = false\n');
  const environment = { MESH_PORT: '2', MESH_MAX_LOG_BYTES: '3KiB', MESH_HEARTBEAT: '' };
  const { values, sources } = resolve(TABLE, ['--port', '1', '--config', config], environment);
  t.match(values, { port: 1, maxLogBytes: 3072, weight: 0.5, mdns: false, heartbeat: 2000, label: [] });
  t.match(sources, {
    ...{ port: 'flag', maxLogBytes: 'environment', weight: 'config file', mdns: 'config file' },
    ...{ heartbeat: 'default', label: 'default' },
  });
  t.equal(resolve(TABLE, [], { ...environment, MESH_CONFIG: config }).values.weight, 0.5, 'the file by environment');
  t.equal(resolve(TABLE, ['--no-mdns']).values.mdns, false);
  t.equal(resolve(TABLE, [], { MESH_MDNS: '0' }).values.mdns, false);
  t.equal(resolve(TABLE, ['--no-mdns'], { MESH_MDNS: 'true' }).values.mdns, false);
});

test('lists: repeated flags, commas in the environment, arrays in the file; they replace, not add', async (t) => {
  const config = file(t, 'label = ["c", "d"]\n');
  t.same(resolve(TABLE, ['--label', 'a', '--label', 'b'], { MESH_CONFIG: config }).values.label, ['a', 'b']);
  t.same(resolve(TABLE, [], { MESH_LABEL: 'x,y', MESH_CONFIG: config }).values.label, ['x', 'y']);
  t.same(resolve(TABLE, [], { MESH_CONFIG: config }).values.label, ['c', 'd']);
  t.same(resolve(TABLE, [], { MESH_CONFIG: file(t, 'label = "one"\n') }).values.label, ['one']);
});

test('a bad value names the flag, the variable or the key it came from', async (t) => {
  t.throws(() => resolve(TABLE, ['--port', 'x']), { code: 'USAGE', message: /^--port: "x" is not a whole number/ });
  t.throws(() => resolve(TABLE, [], { MESH_PORT: '70000' }), { code: 'BAD_CONFIG', message: /^MESH_PORT: / });
  const bad = (content: string) => () => resolve(TABLE, ['--config', file(t, content)]);
  t.throws(bad('heartbeat = 5\n'), { code: 'BAD_CONFIG', message: /^heartbeat: "5" is not a duration/, hint: /500ms/ });
  t.throws(bad('port = [1, 2]\n'), { code: 'BAD_CONFIG', message: /^port: it must be a text, a number/ });
  t.throws(bad('[port]\nx = 1\n'), { code: 'BAD_CONFIG', message: /^port: / });
  t.throws(bad('prot = 1\n'), { code: 'BAD_CONFIG', message: /unknown setting "prot"/ });
  t.throws(bad('port = \n'), { code: 'BAD_CONFIG', message: /not valid TOML/ });
  t.throws(() => resolve(agentSettings, ['--log-level', 'loud']), { code: 'USAGE', message: /^--log-level: "loud"/ });
  for (const flag of ['--data', '--database-url'])
    t.throws(() => resolve(coordinatorSettings, [flag, '']), { code: 'USAGE', message: `${flag}: it is empty` }, flag);
  t.throws(() => resolve(TABLE, ['--config', '/nowhere.toml']), { code: 'BAD_CONFIG', message: /does not exist/ });
  t.throws(() => resolve(TABLE, ['--config', t.testdir()]), { code: 'BAD_CONFIG', message: /cannot read .*EISDIR/ });
});

test('--print-config shows every value with its source and no secret', async (t) => {
  const text = printConfig(TABLE, resolve(TABLE, ['--password', 'hunter2', '--label', 'a b'], { MESH_PORT: '5' }));
  t.equal(
    text,
    [
      'port = "5"  # environment',
      'mdns = true  # default',
      'max-log-bytes = 1024  # default',
      'heartbeat = "2000ms"  # default',
      'weight = 0.25  # default',
      'label = ["a b"]  # flag',
      'password = "(secret)"  # flag',
      '',
    ].join('\n'),
  );
  t.match(printConfig(TABLE, resolve(TABLE, [])), '# password =  # default');
});

test('what --print-config prints, given as a file, gives the same again: for both programs', async (t) => {
  const check = <S extends SettingTable>(table: S, argv: string[]) => {
    const first = resolve(table, argv);
    const printed = printConfig(table, first);
    const second = resolve(table, ['--config', file(t, printed)]);
    t.same(second.values, first.values, printed);
  };
  check(coordinatorSettings, []);
  check(coordinatorSettings, ['--heartbeat', '1.5s', '--max-log-bytes', '1MiB', '--no-mdns', '--port', '0']);
  check(agentSettings, []);
  check(agentSettings, ['--label', 'zone=attic', '--label', 'rack=7', '--stop-grace', '2m', '--slots', '3']);
});

test('numbers are numbers', async (t) => {
  t.same(['0', ' 7 ', '1e2'].map(asInteger(0, 100)), [0, 7, 100]);
  for (const text of ['', ' ', '1.5', 'x', '-1', '101', 'NaN', 'Infinity'])
    t.throws(() => asInteger(0, 100)(text), { code: 'USAGE' }, text);
  for (const text of ['', 'x', '-0.1', '1.1', 'NaN', 'Infinity'])
    t.throws(() => asNumber(0, 1)(text), { code: 'USAGE' }, text);
  t.same(['true', '1', 'false', '0'].map(asFlag), [true, true, false, false]);
  t.throws(() => asFlag('yes'), { code: 'USAGE' });
});
