import { type Command, Option } from 'commander';
import { MeshError } from '../../common/errors.js';
import { asInteger, asNumber } from '../../common/numbers.js';
import { parseSelector } from '../../common/selector.js';
import { parseDuration, parseSize } from '../../common/units.js';
import type { Job } from '../../proto/gen/mesh/v1/mesh.js';
import type { MeshConnection } from '../../sdk/connect.js';
import { DEFAULT_BACKOFF_MS, DEFAULT_RETRIES } from '../../sdk/limits.js';
import { SUBMIT_PATIENCE_MS } from '../../sdk/persist.js';
import { jobShape } from '../../sdk/shapes.js';
import { hasEnded } from '../../sdk/watch.js';
import { parseArray } from '../arguments/array.js';
import { awaitJob, requireDone } from '../await-job.js';
import {
  collect,
  exitOnInterrupt,
  type GlobalOptions,
  makeCommand,
  openConnection,
  optionsOf,
  parsedOption,
  print,
} from '../context.js';
import { printResults } from '../print-results.js';
import { safe } from '../render/terminal.js';
import { prepare, sendPatiently, type SubmitOptions } from '../submission.js';

const ON_FAILURE = ['finish', 'fail-fast', 'partial'] as const;
const ON_DISCONNECT = ['keep', 'stop'] as const;

/** Checked here, sent as it was written. */
function asSelector(text: string): string {
  parseSelector(text);
  return text;
}

/** Nothing runs in less than this; who types 512 means MiB. */
const MEMORY_BYTES_MIN = 1024 * 1024;

function asMemory(text: string): number {
  const bytes = parseSize(text);
  if (bytes > 0 && bytes < MEMORY_BYTES_MIN)
    throw new MeshError('USAGE', `"${text}" is ${bytes} bytes, too little for any program`, {
      hint: 'write the unit too, like 512MiB or 2GiB',
    });
  return bytes;
}

const DESCRIPTION = [
  'Submit a job and print its id. One task, or one per number of --array, or one per line or file of --each.',
  'The command is an argument vector; no shell reads it. In it, {} is the line or file of the task, {/} the same without its folders, {/.} also without its extension, {index} the number of the task.',
  '--each takes - for the lines of standard input, a file for its lines, or a glob or folder: then every matching file is one task, and is shipped to the node under its path relative to the current folder. Blank lines are left out.',
  'A function gets a line as JSON if it is JSON, otherwise as a string.',
].join('\n\n');

const EXAMPLES = [
  'mesh submit -- uname -a',
  'mesh submit --array 0-99 --wait -- sh -c \'echo "$MESH_INDEX"\'',
  "mesh submit --each 'frames/*.png' -- convert {} {/.}.webp",
  'mesh submit --each urls.txt --retries 5 --results -- curl -fsS {}',
  'mesh submit --sandbox bubblewrap --net --memory 2GiB -- curl -fsS https://example.org',
  'mesh submit --secret API_TOKEN -- ./upload.sh',
  'mesh submit --fn audit.mjs#audit --each inputs.jsonl --results --json',
];

export function build(): Command {
  const command = makeCommand('submit', DESCRIPTION, EXAMPLES).argument('[command...]', 'what to run, after --');
  command.passThroughOptions();
  addWork(command);
  addConditions(command);
  addSandbox(command);
  return command.action(async (words: string[], _options: SubmitOptions, self: Command) => {
    const options = optionsOf<SubmitOptions>(self);
    exitOnInterrupt(options.json === true);
    const prepared = await prepare(options, words, {
      cwd: process.cwd(),
      environment: process.env,
      stdin: () => process.stdin,
    });
    try {
      const { job, connection } = await sendPatiently(() => openConnection(options), prepared, {
        patienceMs: options.submitTimeout,
        onWait: sayWhy,
      });
      try {
        await answer(connection.mesh, job, options, prepared.spec.name);
      } finally {
        await connection.close();
      }
    } finally {
      prepared.close();
    }
  });
}

/** Prints the id, or waits for the job's end and prints what was asked for. */
async function answer(
  mesh: MeshConnection['mesh'],
  job: Job,
  options: SubmitOptions & GlobalOptions,
  title: string,
): Promise<void> {
  const shape = jobShape(job);
  if (!options.wait && !options.results) return print(options, shape, () => `${shape.id}\n`);
  if (!options.json) (options.results ? process.stderr : process.stdout).write(`${shape.id}\n`);
  const ended = hasEnded(job) ? job : await awaitJob(mesh, job.id, { title });
  if (options.results) await printResults(mesh, job.id, { json: options.json === true, follow: false });
  else if (options.json) print(options, jobShape(ended), () => '');
  await requireDone(mesh, ended);
}

/** On a terminal: what is waited for, and for how long at most. */
function sayWhy(error: MeshError, leftMs: number): void {
  if (!process.stderr.isTTY) return;
  process.stderr.write(`mesh: ${safe(error.message)}; trying again for up to ${Math.ceil(leftMs / 1000)} s\n`);
}

function addWork(command: Command): void {
  command
    .option('--name <name>', 'what people call it; otherwise the command or module')
    .addOption(parsedOption('--array <A-B[:STEP]>', 'one task per number, both ends included', parseArray))
    .option('--each <GLOB|FILE|->', 'one task per line, or per file, which is shipped')
    .option('--fn <MODULE[#EXPORT]>', 'run a function of a module instead of a command; the module is shipped')
    .option('--env <K=V>', 'set a variable; K alone takes it from here; can be repeated', collect)
    .option(
      '--secret <NAME[=VARIABLE]>',
      'give a secret in a variable of its name or another; can be repeated',
      collect,
    )
    .option(
      '--secret-file <NAME[=VARIABLE]>',
      'give a secret as a file in memory, its path in NAME_FILE or another variable; can be repeated',
      collect,
    );
}

function addSandbox(command: Command): void {
  const addOption = (option: Option) => command.addOption(option);
  addOption(
    new Option(
      '--sandbox <tier>',
      'bubblewrap: only where that isolation is; process: without isolation, where the node allows it. Otherwise the strongest the node has',
    ).choices(['bubblewrap', 'process']),
  );
  addOption(new Option('--net', 'let it use the network, which the bubblewrap tier otherwise cuts off'));
  addOption(parsedOption('--max-processes <n>', 'processes and threads of a task at a time', asInteger(1, 4_000_000)));
  addOption(parsedOption('--max-file-size <size>', 'the largest file a task may write', parseSize));
  addOption(parsedOption('--max-open-files <n>', 'open files of each process', asInteger(8, 1 << 20)));
  addOption(parsedOption('--cpu-time <duration>', 'CPU time of each process, in whole seconds', parseDuration));
}

function addConditions(command: Command): void {
  const addOption = (option: Option) => command.addOption(option);
  addOption(parsedOption('--cpus <n>', 'CPUs per task, such as 0.5', asNumber(0.001, 65_536)));
  addOption(parsedOption('--memory <size>', 'memory per task, such as 512MiB', asMemory));
  addOption(parsedOption('--gpus <n>', 'GPUs per task', asInteger(0, 1024)));
  addOption(parsedOption('--where <selector>', "only on nodes with these labels: 'os=linux,gpu'", asSelector));
  addOption(parsedOption('--priority <n>', 'from -100 to 100, higher goes first', asInteger(-100, 100), shown(0)));
  addOption(
    parsedOption('--retries <n>', 'a task may fail so often and run again', asInteger(0, 1000), shown(DEFAULT_RETRIES)),
  );
  addOption(
    parsedOption('--backoff <duration>', 'pause before the first retry, doubled with each, at random', parseDuration, {
      value: DEFAULT_BACKOFF_MS,
      shown: '1s',
    }),
  );
  addOption(parsedOption('--timeout <duration>', 'stop an attempt after so long; it counts as failed', parseDuration));
  addOption(
    new Option('--on-failure <policy>', 'when a task is out of attempts: finish the others, cancel them, or forgive it')
      .choices(ON_FAILURE)
      .default('finish'),
  );
  addOption(
    new Option(
      '--on-disconnect <policy>',
      'when a node loses the coordinator: keep its attempts running and reconcile on return, or stop them, so that two never run at a time',
    )
      .choices(ON_DISCONNECT)
      .default('keep'),
  );
  addOption(
    new Option('--speculate', 'near the end, run a second attempt of a task that takes much longer than its like'),
  );
  addOption(new Option('--idempotency-key <key>', 'the same key gives the same job; otherwise a new one each time'));
  addOption(
    parsedOption(
      '--submit-timeout <duration>',
      'while the mesh cannot take the job (busy, disk full, database or leader away), try again for so long; 0s: do not',
      parseDuration,
      { value: SUBMIT_PATIENCE_MS, shown: '1m' },
    ),
  );
  addOption(new Option('--wait', 'wait until the job ends; exit code 1 unless it completed'));
  addOption(new Option('--results', 'wait, then print the results in index order'));
}

const shown = (value: number) => ({ value, shown: String(value) });
