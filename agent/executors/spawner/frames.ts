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

/**
 * @param chain commands of one run one after the other; 0 for one that starts at once
 * @throws what `spawn` throws: ERR_INVALID_ARG_VALUE for a text with a NUL, E2BIG for what no process can be given
 */
export function startFrame(id: number, plan: StartPlan, chain = 0): Buffer {
  const { argv, environment, directory, user, words = '' } = plan;
  const limits = limitsOf(plan.bounds);
  const texts = [directory, ...argv];
  for (const name of Object.keys(environment)) texts.push(`${name}=${environment[name]}`);
  for (const text of texts) if (text.includes('\0')) throw systemError('ERR_INVALID_ARG_VALUE', 'a text holds a NUL');
  const joined = `${texts.join('\0')}\0`;
  const textsBytes = Buffer.byteLength(joined);
  const wordsBytes = Buffer.byteLength(words);
  const length = HEAD_BYTES + START_BYTES + limits.length * LIMIT_BYTES + textsBytes + wordsBytes;
  if (length > FRAME_BYTES_MAX) throw systemError('E2BIG', 'arguments and environment are too long');
  const frame = Buffer.allocUnsafe(length);
  putWord(frame, length - 4, 0);
  frame.writeUInt8(START, 4);
  const flags =
    (user ? WITH_USER : 0) |
    (plan.directoryCare ? WITH_DIRECTORY : 0) |
    (plan.directoryCare === 'make' ? MAKE_DIRECTORY : 0) |
    (plan.words === undefined ? 0 : WITH_REPORT | WITH_WORDS);
  const variables = texts.length - 1 - argv.length;
  let at = HEAD_BYTES;
  for (const word of [
    id,
    flags,
    user?.uid ?? 0,
    user?.gid ?? 0,
    limits.length,
    argv.length,
    variables,
    wordsBytes,
    chain,
  ])
    at = putWord(frame, word, at);
  for (const [resource, soft, hard] of limits) {
    at = putWord(frame, resource, at);
    at = putWord(frame, 0, at);
    at = putLong(frame, soft, at);
    at = putLong(frame, hard, at);
  }
  at += frame.write(joined, at);
  if (wordsBytes > 0) frame.write(words, at);
  return frame;
}

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
      const report = parse(bytes.subarray(at + 4, end));
      if (report) use(report);
      at = end;
    }
    if (at < bytes.length) this.#held = Buffer.from(bytes.subarray(at));
  }
}

function parse(frame: Buffer): Report | undefined {
  const id = getWord(frame, 1);
  switch (frame[0]) {
    case 1:
      return { kind: 'pid', id, pid: getWord(frame, 5), ageMs: getWord(frame, 9) };
    case 2:
      return { kind: 'data', id, stream: frame[5] as number, data: frame.subarray(6) };
    case 3: {
      const [status, step, errno] = [getWord(frame, 5), getWord(frame, 9), getWord(frame, 13)];
      const runUs = getWord(frame, 17) + getWord(frame, 21) * 2 ** 32;
      const bits = getWord(frame, 25);
      const common = { id, status, step: STEPS[step], errno, runUs, pid: getWord(frame, 29) };
      const directory = { directoryPristine: (bits & 2) !== 0, directoryAside: (bits & 4) !== 0 };
      return { kind: 'exit', ...common, ...directory, closed: (bits & 1) !== 0 };
    }
    case 4:
      return { kind: 'closed', id };
    case 5:
      return { kind: 'dropped', id };
    default:
      return undefined;
  }
}
