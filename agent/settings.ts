import { availableParallelism } from 'node:os';
import { isAbsolute } from 'node:path';
import { MeshError } from '../common/errors.js';
import { isName } from '../common/ids.js';
import { asFlag, asInteger, asText, logLevelSetting, setting } from '../common/settings.js';
import { parseDuration, parseSize } from '../common/units.js';

const LABEL = /^([A-Za-z0-9][A-Za-z0-9._/-]{0,62})=([A-Za-z0-9._/:+ -]{0,63})$/;
/** Always there, from the machine itself. */
const BUILT_IN = new Set(['name', 'os', 'arch', 'gpu']);

const asLabel = (text: string): [string, string] => {
  const match = LABEL.exec(text);
  if (!match) throw new MeshError('USAGE', `"${text}" is not a label`, { hint: 'write it like zone=attic' });
  if (BUILT_IN.has(match[1] as string))
    throw new MeshError('USAGE', `the label ${match[1]} is set by the machine itself`, { hint: 'choose another key' });
  return [match[1] as string, match[2] as string];
};

const asName = (text: string): string => {
  if (!isName(text)) throw new MeshError('BAD_NAME', `"${text}" is not a name`);
  return text;
};

const SANDBOXES = ['auto', 'optional', 'bubblewrap', 'process'] as const;

const asSandbox = (text: string): (typeof SANDBOXES)[number] => {
  const found = SANDBOXES.find((name) => name === text);
  if (!found) throw new MeshError('USAGE', `"${text}" is no sandbox`, { hint: `use ${SANDBOXES.join(', ')}` });
  return found;
};

const asAbsolutePath = (text: string): string => {
  if (!isAbsolute(text)) throw new MeshError('USAGE', `"${text}" is not an absolute path`, { hint: 'begin it with /' });
  return text;
};

/** What no task of this node may exceed, whatever its job asks for; zero means no bound. */
const bound = (flag: string, describe: string, parse: (text: string) => number, fallback = 0) =>
  setting({ flag, describe, parse: (text) => (text.trim() === '0' ? 0 : parse(text)), fallback });

const text = (flag: string, describe: string) =>
  setting<string | undefined>({ flag, describe, parse: asText, fallback: undefined });

/** Every setting of `mesh-agent`. Flags, `MESH_*` variables and the TOML file share these names. */
export const agentSettings = {
  data: text('--data <dir>', 'the data directory (default: the XDG data directory, or MESH_HOME)'),
  join: { ...text('--join <token>', 'a join token, needed the first time only'), secret: true },
  coordinator: text(
    '--coordinator <host[:port]>',
    'where the coordinator is, for networks that multicast does not pass',
  ),
  name: setting<string | undefined>({
    flag: '--name <name>',
    describe: "this node's name (default: the host name)",
    parse: asName,
    fallback: undefined,
  }),
  slots: setting({
    flag: '--slots <number>',
    describe: 'how many tasks of one CPU run at a time (default: the number of CPUs)',
    parse: asInteger(1, 4096),
    fallback: availableParallelism(),
  }),
  label: setting<[string, string][]>({
    flag: '--label <key=value>',
    describe: 'a label for --where; may be given many times',
    parse: asLabel,
    fallback: [],
    list: true,
  }),
  cert: text('--cert <file>', 'a certificate from mesh-ca issue, instead of a token; with --key and --ca'),
  key: text('--key <file>', 'its private key'),
  ca: text('--ca <file>', "the mesh's root certificate"),
  readyFile: text('--ready-file <file>', 'written when the agent is registered'),
  taskUser: setting({
    flag: '--task-user <user>',
    describe: 'who runs the tasks when the agent is root; otherwise they run as the agent does',
    parse: asText,
    fallback: 'nobody',
  }),
  sandbox: setting<(typeof SANDBOXES)[number]>({
    flag: '--sandbox <tier>',
    describe:
      'how tasks are isolated: auto (the strongest that works here), bubblewrap (that, or the agent does not start), process, or optional (the strongest, and process for jobs that ask for it: where submitters trust each other)',
    parse: asSandbox,
    fallback: 'auto',
  }),
  sandboxRo: setting<string[]>({
    flag: '--sandbox-ro <path>',
    describe: 'a path tasks may read in the bubblewrap tier beside the system; may be given many times',
    parse: asAbsolutePath,
    fallback: [],
    list: true,
  }),
  sandboxTmp: setting({
    flag: '--sandbox-tmp <size>',
    describe: 'size of /tmp and of /dev/shm in the bubblewrap tier, each in memory; TMPDIR is on disk',
    parse: parseSize,
    fallback: 256 * 2 ** 20,
  }),
  maxMemory: bound('--max-memory <size>', 'memory one task may use at most, even if its job asks for more', parseSize),
  maxProcesses: bound(
    '--max-processes <number>',
    'processes and threads one task may have at most',
    asInteger(1, 4_000_000),
    4096,
  ),
  maxOpenFiles: bound('--max-open-files <number>', 'files one process of a task may have open', asInteger(8, 1 << 20)),
  maxFileSize: bound('--max-file-size <size>', 'the largest file a task may write', parseSize),
  killGrace: setting({
    flag: '--kill-grace <duration>',
    describe: 'between SIGTERM and SIGKILL when a task is stopped',
    parse: parseDuration,
    fallback: 2000,
  }),
  stopGrace: setting({
    flag: '--stop-grace <duration>',
    describe: 'how long running tasks may go on after SIGTERM; a second SIGTERM ends them at once',
    parse: parseDuration,
    fallback: 30_000,
  }),
  keepFor: setting({
    flag: '--keep-for <duration>',
    describe: 'how long tasks go on while no coordinator is reachable; jobs with --on-disconnect stop end much earlier',
    parse: parseDuration,
    fallback: 3_600_000,
  }),
  outboxFsync: setting({
    flag: '--outbox-fsync',
    describe: 'results survive a power cut of this machine too; slower, and it wears out flash cards',
    parse: asFlag,
    fallback: false,
  }),
  cacheBytes: setting({
    flag: '--cache-bytes <size>',
    describe: 'staged files kept between tasks',
    parse: parseSize,
    fallback: 4 * 2 ** 30,
  }),
  mdns: setting({
    flag: '--no-mdns',
    describe: 'do not look for the coordinator over mDNS',
    parse: asFlag,
    fallback: true,
  }),
  logLevel: logLevelSetting,
};
