/**
 * What a submitted job may say. Everything that reaches a node has passed here: the agent executes argument vectors and
 * writes staged files by these rules (nothing leaves a task's directory, nothing is passed through a shell).
 * Each refusal is one line: what, why, what to do.
 */
import { MeshError } from '../../common/errors.js';
import { parseSelector, type Selector } from '../../common/selector.js';
import type {
  ArraySpec,
  OnDisconnect,
  Resources,
  Sandbox,
  StagedFile,
  TaskInput,
} from '../../proto/gen/mesh/v1/common.js';
import type { JobSpec, OnFailure } from '../../proto/gen/mesh/v1/mesh.js';
import { checkUses } from './secret.js';

export interface SpecLimits {
  tasksMax: number;
  /** Bytes of one argument, one environment variable, one task's value. Linux allows 128 KiB for each (MAX_ARG_STRLEN). */
  stringBytesMax: number;
  /** Bytes of all arguments and variables together; execve needs room for them. */
  commandBytesMax: number;
  /** Files staged for one task. */
  filesMax: number;
}

export const SPEC_LIMITS: SpecLimits = {
  tasksMax: 10_000_000,
  stringBytesMax: 128 * 1024 - 1,
  commandBytesMax: 1024 * 1024,
  filesMax: 10_000,
};

/** The enum's numbers on the wire; core takes only types from generated code. */
const FINISH: OnFailure = 1;
const FAIL_FAST: OnFailure = 2;
const PARTIAL: OnFailure = 3;
const KEEP: OnDisconnect = 1;
const STOP: OnDisconnect = 2;
const AUTO: Sandbox = 0;
const BUBBLEWRAP: Sandbox = 1;
const PROCESS: Sandbox = 2;
const PRIORITY_MAX = 100;
const RETRIES_MAX = 100;
const NAME_MAX = 200;
const BACKOFF_MAX_MS = 86_400_000;
const TIMEOUT_MAX_MS = 365 * 86_400_000;
/** A million CPUs and a thousand TiB: beyond, it is a mistake in a unit. */
const CPU_MILLIS_MAX = 1_000_000_000;
const MEMORY_BYTES_MAX = 2 ** 50;
const COUNT_MAX = 1_000_000;
/** What the kernel has numbers for. */
const PROCESSES_MAX = 4_000_000;
const OPEN_FILES_MAX = 1 << 20;
const PATH_BYTES_MAX = 1024;
const RESOURCE_NAME = /^[a-z][a-z0-9-]{0,62}$/;
const ENVIRONMENT_NAME = /^[A-Za-z_][A-Za-z0-9_]*$/;
const DIGEST = /^[0-9a-f]{64}$/;
const EXPORT_NAME = /^[A-Za-z_$][A-Za-z0-9_$]*$/;

export interface CheckedSpec {
  /** With its defaults filled in. */
  spec: JobSpec;
  executor: 'process' | 'function';
  resources: Resources;
  selector: Selector;
  taskCount: number;
}

const refuse = (message: string, hint: string): never => {
  throw new MeshError('BAD_SPEC', message, { hint });
};

/**
 * Checks a job and fills in its defaults.
 * @throws MeshError BAD_SPEC, or BAD_SELECTOR for `where`
 */
export function validateSpec(spec: JobSpec, limits: SpecLimits = SPEC_LIMITS): CheckedSpec {
  checkName(spec.name);
  const executor = checkWork(spec.work, limits);
  const taskCount = checkCount(spec.taskCount, limits);
  if (spec.array) checkArray(spec.array, taskCount);
  const resources = checkResources(spec.resources ?? { cpuMillis: 0, memoryBytes: 0, gpus: 0, custom: {} });
  inRange('the priority', spec.priority, -PRIORITY_MAX, PRIORITY_MAX, '--priority');
  inRange('the number of retries', spec.retries, 0, RETRIES_MAX, '--retries');
  inRange('the backoff in milliseconds', spec.backoffMs, 0, BACKOFF_MAX_MS, '--backoff');
  inRange('the timeout in milliseconds', spec.timeoutMs, 0, TIMEOUT_MAX_MS, '--timeout');
  const selector = parseSelector(spec.where);
  const onFailure = spec.onFailure || FINISH;
  if (![FINISH, FAIL_FAST, PARTIAL].includes(onFailure))
    refuse(`${onFailure} is no policy for failures`, 'use --on-failure finish, fail-fast or partial');
  const onDisconnect = checkOnDisconnect(spec.onDisconnect);
  checkSandbox(spec, executor);
  checkUses(spec.secrets, spec.work?.value.environment ?? {});
  const checked = { ...spec, taskCount, resources, onFailure, onDisconnect, speculate: checkSpeculate(spec) };
  return { spec: checked, executor, resources, selector, taskCount };
}

/**
 * Checks what distinguishes one task.
 * @param index for the message; without it the message speaks of a task's input
 * @throws MeshError BAD_SPEC
 */
export function validateInput(
  input: TaskInput,
  index?: number,
  executor: CheckedSpec['executor'] = 'process',
  limits: SpecLimits = SPEC_LIMITS,
): void {
  const task = index === undefined ? 'a task' : `task ${index}`;
  if (executor === 'process') checkString(`the input of ${task}`, input.value, limits);
  else if (input.value !== '' && !isJson(input.value))
    refuse(`the input of ${task} is not JSON`, 'give a function JSON arguments');
  if (input.arrayIndex !== undefined && input.arrayIndex < 0)
    refuse(`the index of ${task} is negative`, 'indexes start at 0');
  if (input.files.length > 0) checkFiles(input.files, task, limits);
}

/** Its attempts are killed by an agent that has lost the coordinator: invariant I8 holds for them without exception. */
export const isFenced = (spec: Pick<JobSpec, 'onDisconnect'>): boolean => spec.onDisconnect === STOP;

/** How its tasks are given secrets, if they are. */
export function secretsOf({ secrets }: Pick<JobSpec, 'secrets'>): 'variables' | 'files' | undefined {
  if (secrets.length === 0) return undefined;
  return secrets.some(({ file }) => file) ? 'files' : 'variables';
}

function checkOnDisconnect(given: OnDisconnect): OnDisconnect {
  const policy = given || KEEP;
  if (policy !== KEEP && policy !== STOP)
    refuse(`${policy} is no policy for a lost connection`, 'use --on-disconnect keep or stop');
  return policy;
}

/** The tier it asks for by name; undefined: whichever is the strongest of the node. */
export const sandboxOf = ({ sandbox }: Pick<JobSpec, 'sandbox'>): 'bubblewrap' | 'process' | undefined =>
  sandbox === BUBBLEWRAP ? 'bubblewrap' : sandbox === PROCESS ? 'process' : undefined;

/** Whether it bounds what its attempts may use, beside memory. */
export const isLimited = ({ limits }: Pick<JobSpec, 'limits'>): boolean =>
  limits !== undefined && Object.values(limits).some((bound) => bound > 0);

function checkSandbox({ sandbox, net, limits }: JobSpec, executor: CheckedSpec['executor']): void {
  if (![AUTO, BUBBLEWRAP, PROCESS].includes(sandbox))
    refuse(`${sandbox} is no sandbox`, 'use --sandbox bubblewrap or process, or leave it out');
  if (net && sandbox === PROCESS)
    refuse('a job cannot be given the network and run without a sandbox', 'leave --net out: there is nothing to open');
  if (!limits) return;
  inRange('the number of processes', limits.processes, 0, PROCESSES_MAX, '--max-processes');
  inRange('the size of a file, in bytes', limits.fileSizeBytes, 0, MEMORY_BYTES_MAX, '--max-file-size');
  inRange('the number of open files', limits.openFiles, 0, OPEN_FILES_MAX, '--max-open-files');
  inRange('the CPU time in milliseconds', limits.cpuTimeMs, 0, TIMEOUT_MAX_MS, '--cpu-time');
  if (limits.cpuTimeMs > 0 && executor === 'function')
    refuse('the CPU time of a function cannot be bounded: functions share a process', 'use --timeout');
}

function checkSpeculate(spec: JobSpec): boolean {
  if (spec.speculate && isFenced(spec))
    refuse(
      'a job cannot have its stragglers duplicated and its attempts stopped on disconnect',
      'two attempts of one task would run at a time; give up --speculate or --on-disconnect stop',
    );
  return spec.speculate === true;
}

function isJson(text: string): boolean {
  try {
    JSON.parse(text);
    return true;
  } catch {
    return false;
  }
}

/**
 * The same job with its maps in order: equal jobs are then equal as text, whoever wrote them. For digests. Options that
 * came with a later version are left out where they have their default, so that a submission repeated across an upgrade
 * is still the same one.
 */
export function canonicalSpec(spec: JobSpec): Partial<JobSpec> {
  const { work, resources } = spec;
  const canonical: Partial<JobSpec> = { ...spec };
  if (!isFenced(spec)) delete canonical.onDisconnect;
  if (!spec.speculate) delete canonical.speculate;
  if (!spec.sandbox) delete canonical.sandbox;
  if (!spec.net) delete canonical.net;
  if (!isLimited(spec)) delete canonical.limits;
  if (spec.secrets.length === 0) delete canonical.secrets;
  if (work?.$case === 'process')
    canonical.work = { $case: 'process', value: { ...work.value, environment: sorted(work.value.environment) } };
  if (work?.$case === 'function')
    canonical.work = { $case: 'function', value: { ...work.value, environment: sorted(work.value.environment) } };
  if (resources) canonical.resources = { ...resources, custom: sorted(resources.custom) };
  return canonical;
}

const sorted = <T>(map: Record<string, T>): Record<string, T> =>
  Object.fromEntries(Object.entries(map).sort(([a], [b]) => (a < b ? -1 : 1)));

function checkName(name: string): void {
  if (name.length > NAME_MAX)
    refuse(`the job's name has ${name.length} characters, more than ${NAME_MAX}`, 'give a shorter --name');
  if (/\p{Cc}/u.test(name)) refuse("the job's name holds control characters", 'give it a --name in plain text');
}

function checkWork(work: JobSpec['work'], limits: SpecLimits): CheckedSpec['executor'] {
  switch (work?.$case) {
    case 'process': {
      const { argv, environment } = work.value;
      if (argv.length === 0) refuse('the job has no command', 'put it after --, as in: mesh submit -- echo hello');
      if (argv[0]?.trim() === '')
        refuse('the command is empty', 'name a program after --, as in: mesh submit -- echo hello');
      argv.forEach((argument, at) => checkString(at === 0 ? 'the command' : `argument ${at}`, argument, limits));
      checkEnvironment(environment, argv, limits);
      return 'process';
    }
    case 'function': {
      const { moduleDigest, exportName, environment } = work.value;
      if (!DIGEST.test(moduleDigest))
        refuse('the function names no module by its SHA-256', 'name a file with --fn MODULE#EXPORT');
      if (exportName !== '' && !EXPORT_NAME.test(exportName))
        refuse(`"${printable(exportName)}" is no name of an export`, 'name the function as in --fn tools.mjs#resize');
      checkEnvironment(environment, [], limits);
      return 'function';
    }
    default:
      return refuse('the job has no command', 'put it after --, as in: mesh submit -- echo hello, or use --fn');
  }
}

function checkString(what: string, text: string, limits: SpecLimits): void {
  if (text.includes('\0')) refuse(`${what} holds a NUL character`, 'no program can be given one; remove it');
  const bytes = text.length * 3 > limits.stringBytesMax ? Buffer.byteLength(text) : 0;
  if (bytes > limits.stringBytesMax)
    refuse(`${what} has ${bytes} bytes, more than ${limits.stringBytesMax}`, 'put long input into a staged file');
}

function checkEnvironment(environment: Record<string, string>, argv: readonly string[], limits: SpecLimits): void {
  let total = argv.reduce((sum, argument) => sum + Buffer.byteLength(argument) + 1, 0);
  for (const [name, value] of Object.entries(environment)) {
    if (!ENVIRONMENT_NAME.test(name))
      refuse(`"${printable(name)}" is no name of an environment variable`, 'use letters, digits and _, no digit first');
    if (name.startsWith('MESH_'))
      refuse(
        `the environment variable ${printable(name)} is reserved`,
        'names that begin with MESH_ are set by the mesh',
      );
    checkString(`the environment variable ${printable(name)}`, value, limits);
    total += Buffer.byteLength(name) + Buffer.byteLength(value) + 2;
  }
  if (total > limits.commandBytesMax)
    refuse(
      `command and environment have ${total} bytes, more than ${limits.commandBytesMax}`,
      'put long input into a staged file',
    );
}

function checkCount(count: number, limits: SpecLimits): number {
  if (!Number.isSafeInteger(count) || count < 1)
    return refuse('the job has no tasks', 'give at least one item or index');
  if (count > limits.tasksMax)
    refuse(
      `the job has ${count.toLocaleString('en')} tasks, more than the ${limits.tasksMax.toLocaleString('en')} one job may have (--max-job-tasks)`,
      'split it into several jobs, or let each task do more',
    );
  return count;
}

function checkArray({ start, step }: ArraySpec, count: number): void {
  if (step === 0) refuse('the array has a step of zero', 'write it like --array 0-99 or --array 0-99:3');
  if (![start, step, start + (count - 1) * step].every(Number.isSafeInteger))
    refuse('the array leaves the range of whole numbers that are exact', 'use values between -2^53 and 2^53');
}

function checkResources(resources: Resources): Resources {
  inRange('the CPUs asked, in thousandths', resources.cpuMillis, 0, CPU_MILLIS_MAX, '--cpus');
  inRange('the memory asked, in bytes', resources.memoryBytes, 0, MEMORY_BYTES_MAX, '--memory');
  inRange('the number of GPUs', resources.gpus, 0, COUNT_MAX, '--gpus');
  for (const [name, amount] of Object.entries(resources.custom)) {
    if (!RESOURCE_NAME.test(name))
      refuse(`"${printable(name)}" is no name of a resource`, 'use 1 to 63 of a-z, 0-9 and -, a letter first');
    inRange(`the amount of ${name}`, amount, 0, COUNT_MAX, 'the resource');
  }
  return resources;
}

function inRange(what: string, value: number, min: number, max: number, flag: string): void {
  if (!Number.isSafeInteger(value) || value < min || value > max)
    refuse(`${what} is ${value}, not a whole number from ${min} to ${max}`, `correct ${flag}`);
}

function checkFiles(files: readonly StagedFile[], task: string, limits: SpecLimits): void {
  const whose = ` of ${task}`;
  if (files.length > limits.filesMax)
    refuse(
      `${files.length} files are staged${whose}, more than ${limits.filesMax} (--max-task-files)`,
      'pack them into one archive',
    );
  const taken = new Map<string, 'file' | 'folder'>();
  const folded = new Map<string, string>();
  for (const { path, digest, sizeBytes } of files) {
    const fault = pathFault(path);
    if (fault)
      refuse(
        `the staged path "${printable(path)}"${whose} ${fault}`,
        "use a path below the task's directory, such as data/a.txt",
      );
    if (!DIGEST.test(digest))
      refuse(`the staged file "${printable(path)}"${whose} has no valid SHA-256`, 'upload it, then name its digest');
    if (!Number.isSafeInteger(sizeBytes) || sizeBytes < 0)
      refuse(`the staged file "${printable(path)}"${whose} has an impossible size`, 'give its size in bytes');
    const before = taken.get(path);
    if (before === 'file')
      refuse(`two staged files${whose} want the path "${printable(path)}"`, 'give each its own path');
    if (before === 'folder')
      refuse(`"${printable(path)}" is both a staged file and a folder${whose}`, 'rename one of them');
    taken.set(path, 'file');
    requireDistinct(folded, path, whose);
    for (let slash = path.indexOf('/'); slash >= 0; slash = path.indexOf('/', slash + 1)) {
      const folder = path.slice(0, slash);
      if (taken.get(folder) === 'file')
        refuse(`"${printable(folder)}" is both a staged file and a folder${whose}`, 'rename one of them');
      if (taken.get(folder) === 'folder') continue;
      taken.set(folder, 'folder');
      requireDistinct(folded, folder, whose);
    }
  }
}

/** Nodes whose file systems fold case, or write accents in one way, would put two of these in one place. */
function requireDistinct(folded: Map<string, string>, path: string, whose: string): void {
  const key = path.normalize('NFC').toLowerCase();
  const other = folded.get(key);
  if (other !== undefined)
    refuse(`"${printable(path)}" and "${printable(other)}"${whose} would be one on some nodes`, 'rename one of them');
  folded.set(key, path);
}

/** What is wrong with a staged path; undefined when it is relative, normalised and stays where it is put. */
export function pathFault(path: string): string | undefined {
  if (path === '') return 'is empty';
  if (path.includes('\0')) return 'holds a NUL character';
  if (Buffer.byteLength(path) > PATH_BYTES_MAX) return `is longer than ${PATH_BYTES_MAX} bytes`;
  if (path.startsWith('/') || /^[A-Za-z]:/.test(path)) return 'is absolute';
  if (path.includes('\\')) return 'holds a backslash';
  for (const part of path.split('/')) {
    if (part === '..') return 'leaves the directory';
    if (part === '' || part === '.') return 'is not normalised';
    if (Buffer.byteLength(part) > 255) return 'has a name longer than 255 bytes';
  }
  return undefined;
}

/** For messages: short, and without control characters that would act on a terminal. */
export const printable = (text: string): string => text.replace(/\p{C}/gu, '?').slice(0, 80);
