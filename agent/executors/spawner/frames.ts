/** What the agent and its spawner say to each other; the other half is spawner.c. Numbers are in the machine's order. */
import { endianness } from 'node:os';
import type { StartPlan } from '../child.js';
import { type Bounds, cpuLimits, needsLauncher, wholeBlocks } from '../sandbox/bounds.js';

const START = 1;
export const ASK = 2;
export const PAUSE = 3;
export const RESUME = 4;
export const CLOSE = 5;
export const SIGNAL = 6;
export const DROP = 7;

const WITH_USER = 1;
const WITH_DIRECTORY = 2;
const WITH_REPORT = 4;
const WITH_WORDS = 8;
const MAKE_DIRECTORY = 16;

/** Length and type. */
const HEAD_BYTES = 5;
const START_BYTES = 36;
const LIMIT_BYTES = 24;
/** The spawner's own bound, less what surrounds the texts. */
const FRAME_BYTES_MAX = (8 << 20) - 4096;

/** As the system numbers them on Linux, whatever the processor. */
const RLIMIT_CPU = 0;
const RLIMIT_FSIZE = 1;
const RLIMIT_CORE = 4;
const RLIMIT_NOFILE = 7;

const little = endianness() === 'LE';
const putWord = (to: Buffer, value: number, at: number): number =>
  little ? to.writeUInt32LE(value, at) : to.writeUInt32BE(value, at);
const putLong = (to: Buffer, value: number, at: number): number =>
  little ? to.writeBigUInt64LE(BigInt(value), at) : to.writeBigUInt64BE(BigInt(value), at);
const getWord = (from: Buffer, at: number): number => (little ? from.readUInt32LE(at) : from.readUInt32BE(at));

/** Soft and hard. */
type Limit = readonly [resource: number, soft: number, hard: number];

/** The same as what a launcher in the shell sets; see `limitScript`. */
function limitsOf(bounds: Bounds): Limit[] {
  if (!needsLauncher(bounds)) return [];
  const { openFiles, fileSizeBytes, cpuTimeMs } = bounds;
  const limits: Limit[] = [[RLIMIT_CORE, 0, 0]];
  if (openFiles > 0) limits.push([RLIMIT_NOFILE, openFiles, openFiles]);
  if (fileSizeBytes > 0) limits.push([RLIMIT_FSIZE, wholeBlocks(fileSizeBytes), wholeBlocks(fileSizeBytes)]);
  if (cpuTimeMs > 0) limits.push([RLIMIT_CPU, ...cpuLimits(cpuTimeMs)]);
  return limits;
}

/** What the spawner calls a directory that it has put aside, after its own name. */
export const asideSuffix = (id: number): string => `.${id}.aside`;

/** An error of the system, as Node makes them. */
export const systemError = (code: string, message: string): NodeJS.ErrnoException =>
  Object.assign(new Error(message), { code });

/** What commands of a chain have in common. */
export type ChainPlan = Pick<StartPlan, 'directory' | 'environment' | 'user' | 'bounds'>;
/** What one of them has to itself. Its environment is beside the common one, and has no name of that. */
export type LinkPlan = Pick<StartPlan, 'argv' | 'environment' | 'directoryCare' | 'words'>;

/** Each with a NUL at its end. */
function joined(texts: readonly string[]): string {
  for (const text of texts) if (text.includes('\0')) throw systemError('ERR_INVALID_ARG_VALUE', 'a text holds a NUL');
  return texts.length > 0 ? `${texts.join('\0')}\0` : '';
}

const variablesOf = (environment: Readonly<Record<string, string>>): string[] =>
  Object.keys(environment).map((name) => `${name}=${environment[name]}`);

function limitsFrame(limits: readonly Limit[]): Buffer {
  const frame = Buffer.allocUnsafe(limits.length * LIMIT_BYTES);
  let at = 0;
  for (const [resource, soft, hard] of limits) {
    at = putWord(frame, resource, at);
    at = putWord(frame, 0, at);
    at = putLong(frame, soft, at);
    at = putLong(frame, hard, at);
  }
  return frame;
}

/**
 * Makes the frames of commands that have much in common; that is put into words once.
 * @throws what `spawn` throws, here and with each frame: ERR_INVALID_ARG_VALUE for a text with a NUL, E2BIG for what no process can be given
 */
export function startFrames(common: ChainPlan): (id: number, plan: LinkPlan, chain: number) => Buffer {
  const { directory, user } = common;
  const limits = limitsFrame(limitsOf(common.bounds));
  const shared = variablesOf(common.environment);
  const sharedTexts = Buffer.from(joined(shared));
  return (id, { argv, environment, directoryCare, words }, chain) => {
    const own = variablesOf(environment);
    const texts = joined([directory, ...argv, ...own]);
    const textsBytes = Buffer.byteLength(texts);
    const wordsBytes = Buffer.byteLength(words ?? '');
    const length = HEAD_BYTES + START_BYTES + limits.length + textsBytes + sharedTexts.length + wordsBytes;
    if (length > FRAME_BYTES_MAX) throw systemError('E2BIG', 'arguments and environment are too long');
    const frame = Buffer.allocUnsafe(length);
    putWord(frame, length - 4, 0);
    frame.writeUInt8(START, 4);
    const flags =
      (user ? WITH_USER : 0) |
      (directoryCare ? WITH_DIRECTORY : 0) |
      (directoryCare === 'make' ? MAKE_DIRECTORY : 0) |
      (words === undefined ? 0 : WITH_REPORT | WITH_WORDS);
    let at = putWord(frame, id, HEAD_BYTES);
    at = putWord(frame, flags, at);
    at = putWord(frame, user?.uid ?? 0, at);
    at = putWord(frame, user?.gid ?? 0, at);
    at = putWord(frame, limits.length / LIMIT_BYTES, at);
    at = putWord(frame, argv.length, at);
    at = putWord(frame, own.length + shared.length, at);
    at = putWord(frame, wordsBytes, at);
    at = putWord(frame, chain, at);
    at += limits.copy(frame, at);
    at += frame.write(texts, at);
    at += sharedTexts.copy(frame, at);
    if (wordsBytes > 0) frame.write(words as string, at);
    return frame;
  };
}

/** Of a command that starts at once. @throws as `startFrames` */
export const startFrame = (id: number, plan: StartPlan): Buffer =>
  startFrames({ ...plan, environment: {} })(id, plan, 0);

/** @param about a stream, or the number of a signal */
export function commandFrame(type: number, id: number, about = 0): Buffer {
  const frame = Buffer.allocUnsafe(HEAD_BYTES + 8);
  putWord(frame, frame.length - 4, 0);
  frame.writeUInt8(type, 4);
  putWord(frame, id, HEAD_BYTES);
  putWord(frame, about, HEAD_BYTES + 4);
  return frame;
}

/** Which part of a start did not work. */
export type Step = 'directory' | 'process' | 'command';
const STEPS: readonly (Step | undefined)[] = [undefined, 'directory', 'process', 'command'];

export type Report =
  | {
      kind: 'pid';
      id: number;
      pid: number;
      /** Since it was started. */
      ageMs: number;
    }
  | { kind: 'data'; id: number; stream: number; data: Buffer }
  | {
      kind: 'exit';
      id: number;
      /** As `wait` gives it: the signal in the low seven bits, the exit code above eight. */
      status: number;
      step: Step | undefined;
      errno: number;
      runUs: number;
      pid: number;
      closed: boolean;
      directoryPristine: boolean;
      directoryAside: boolean;
    }
  | { kind: 'closed'; id: number }
  /** Of a chain, and not begun: it was asked for, or the one before it left something behind. */
  | { kind: 'dropped'; id: number };

/** Puts frames together from pieces as a stream delivers them. Data are views: use them before the next piece. */
export class FrameReader {
  #held: Buffer | undefined;

  read(piece: Buffer, use: (report: Report) => void): void {
    const bytes = this.#held ? Buffer.concat([this.#held, piece]) : piece;
    this.#held = undefined;
    let at = 0;
    while (bytes.length - at >= 4) {
      const end = at + 4 + getWord(bytes, at);
      if (end > bytes.length) break;
      const report = parse(bytes, at + 4, end);
      if (report) use(report);
      at = end;
    }
    if (at < bytes.length) this.#held = Buffer.from(bytes.subarray(at));
  }
}

function parse(bytes: Buffer, start: number, end: number): Report | undefined {
  const word = (at: number): number => getWord(bytes, start + at);
  const id = word(1);
  switch (bytes[start]) {
    case 1:
      return { kind: 'pid', id, pid: word(5), ageMs: word(9) };
    case 2:
      return { kind: 'data', id, stream: bytes[start + 5] as number, data: bytes.subarray(start + 6, end) };
    case 3: {
      const bits = word(25);
      return {
        kind: 'exit',
        id,
        status: word(5),
        step: STEPS[word(9)],
        errno: word(13),
        runUs: word(17) + word(21) * 2 ** 32,
        pid: word(29),
        closed: (bits & 1) !== 0,
        directoryPristine: (bits & 2) !== 0,
        directoryAside: (bits & 4) !== 0,
      };
    }
    case 4:
      return { kind: 'closed', id };
    case 5:
      return { kind: 'dropped', id };
    default:
      return undefined;
  }
}
