/**
 * The last program before a task's own: a line of shell that sets limits on itself and becomes the command. It costs
 * about as much as starting one more small process, so it is left out where nothing is to be set.
 *
 * Its own complaint, that the command cannot be executed, goes to the descriptor that is the task's standard error from
 * then on. It begins with a token, so it is told from anything a task prints by chance. One that looks for the token (in a
 * namespace it is on the command line of the first process) can pass its own end off as one that never began, and no more.
 */
import { randomBytes } from 'node:crypto';
import { type Bounds, limitScript } from './bounds.js';

/** More than this no launcher says; a task whose output looked like a complaint so far is passed on from here. */
const HELD_BYTES_MAX = 8192;
const CANNOT_EXECUTE = 126;

export const makeToken = (): string => `mesh-${randomBytes(9).toString('hex')}`;

/**
 * Variables with which a program is made another one before its first line runs (a library of the job's that is loaded
 * into it, commands in the shell's prompt). They are for the command, not for what sets its limits: until then they have
 * another name.
 */
const STEERING = /^(?:(?:LD|DYLD|GLIBC)_\w*|GCONV_PATH|LOCPATH|PS4)$/;
const aside = (name: string): string => `MESH_ASIDE_${name}`;

/** What to start in place of a command, and with which variables. */
export interface Launch {
  argv: string[];
  environment: Record<string, string>;
}

/**
 * `inNamespace`: the command is to have a process namespace of its own, so its processes can be counted.
 * `closing`: descriptors of those who start it, which bubblewrap leaves open.
 */
export function launch(
  {
    argv,
    environment,
    bounds,
  }: { argv: readonly string[]; environment: Readonly<Record<string, string>>; bounds: Bounds },
  token: string,
  { inNamespace = false, closing = [] }: { inNamespace?: boolean; closing?: readonly number[] } = {},
): Launch {
  const names = Object.keys(environment).filter((name) => STEERING.test(name));
  const given = names.map((name) => `export ${name}="$${aside(name)}"; unset ${aside(name)}; `).join('');
  const closed = closing.map((descriptor) => ` ${descriptor}>&-`).join('');
  const script = `${limitScript(bounds, inNamespace)}unset PWD OLDPWD SHLVL; ${given}exec "$@"${closed}`;
  const renamed = Object.entries(environment).map(([name, value]) => [
    names.includes(name) ? aside(name) : name,
    value,
  ]);
  return {
    argv: ['/bin/sh', '-c', script, token, ...argv],
    environment: Object.fromEntries(renamed) as Launch['environment'],
  };
}

/** Holds back what begins like the complaint of a launcher, until it is clear whose it is. */
export class Complaint {
  readonly #prefixes: readonly Buffer[];
  #held = Buffer.alloc(0);
  #passing = false;

  constructor(prefixes: readonly string[]) {
    this.#prefixes = prefixes.map((prefix) => Buffer.from(prefix));
  }

  /** What of this chunk, and of those before, is certainly the task's own. */
  pass(chunk: Buffer): Buffer {
    if (this.#passing) return chunk;
    const held = Buffer.concat([this.#held, chunk]);
    const alike = this.#prefixes.some((prefix) => {
      const length = Math.min(prefix.length, held.length);
      return held.subarray(0, length).equals(prefix.subarray(0, length));
    });
    this.#passing = !alike || held.length > HELD_BYTES_MAX;
    this.#held = this.#passing ? Buffer.alloc(0) : held;
    return this.#passing ? held : this.#held.subarray(0, 0);
  }

  /** What was held back, when the command ran: it was the task's own after all. */
  release(): Buffer {
    const held = this.#held;
    this.#held = Buffer.alloc(0);
    this.#passing = true;
    return held;
  }

  /** The first line of what was held back, without the name of who said it. */
  get line(): string {
    const [first = ''] = this.#held.toString('utf8').split('\n');
    return first.replace(/^[\w-]+: (?:(?:line )?\d+: )?(?:exec: )?/, '').slice(0, 300);
  }

  /** The system error behind a shell's refusal to become the command; undefined when it did become it. */
  executionFailure(exitCode: number | undefined): NodeJS.ErrnoException | undefined {
    const token = this.#prefixes[0] as Buffer;
    if (!this.#held.subarray(0, token.length).equals(token)) return undefined;
    const { line } = this;
    const failure: NodeJS.ErrnoException = new Error(line);
    failure.code = exitCode === CANNOT_EXECUTE ? refusalCode(line) : 'ENOENT';
    return failure;
  }
}

function refusalCode(line: string): string {
  if (/too long/i.test(line)) return 'E2BIG';
  return /exec format/i.test(line) ? 'ENOEXEC' : 'EACCES';
}
