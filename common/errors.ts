/**
 * The registry of everything that can go wrong for a person or a program. `docs/errors.md` is checked against it. Each
 * entry fixes the exit code of the command line, the gRPC status on the wire and the hint that is given when the place
 * that throws knows nothing better.
 */
interface ErrorEntry {
  exit: 1 | 2 | 3 | 4 | 5 | 6 | 130;
  /** grpc-js status number; see https://grpc.github.io/grpc/core/md_doc_statuscodes.html */
  grpc: number;
  meaning: string;
  hint: string;
}

const entry = (exit: ErrorEntry['exit'], grpc: number, meaning: string, hint: string): ErrorEntry => ({
  exit,
  grpc,
  meaning,
  hint,
});

export const ERRORS = {
  USAGE: entry(2, 3, 'a flag or argument is wrong', 'see --help'),
  BAD_CONFIG: entry(2, 3, 'a configuration file or environment variable is wrong', 'see --print-config'),
  SANDBOX: entry(
    1,
    9,
    'the sandbox that was asked for does not work on this machine',
    'see "Sandbox" in docs/security.md',
  ),
  BAD_SPEC: entry(2, 3, 'the job cannot be run as it is described', 'see mesh submit --help'),
  BAD_SELECTOR: entry(2, 3, 'a label selector does not parse', "write it like 'os=linux,gpu,zone in (a,b)'"),
  BAD_TOKEN: entry(2, 3, 'a join token is damaged', 'copy the whole token as it was printed'),
  BAD_NAME: entry(2, 3, 'a name is not allowed', 'names are 1 to 63 of a-z, 0-9 and -'),
  BAD_CERTIFICATE: entry(4, 16, 'a certificate does not fit the profile', 'issue a new one with mesh-ca issue'),
  PASSPHRASE: entry(4, 9, 'a passphrase is missing or wrong', 'give the right one'),
  NO_PROFILE: entry(2, 16, 'there is no profile to connect with', 'run: mesh login TOKEN, or name one with --profile'),
  UNREACHABLE: entry(3, 14, 'the coordinator cannot be reached', 'is it running? try --coordinator HOST'),
  NOT_READY: entry(3, 14, 'the coordinator is not ready', 'try again in a few seconds'),
  NOT_LEADER: entry(3, 14, 'this coordinator stands by; another one leads', 'ask the coordinator that leads'),
  OVERLOADED: entry(
    3,
    8,
    'the coordinator takes no more work for now',
    'try again later; the same idempotency key is safe',
  ),
  QUOTA: entry(
    1,
    8,
    'a quota of the namespace does not allow it',
    'wait until some of its work has ended, or ask an operator',
  ),
  UNAUTHENTICATED: entry(
    4,
    16,
    'the peer has no identity in this mesh',
    'join with a token, or use a certificate of this mesh',
  ),
  DENIED: entry(4, 7, 'the role does not allow this', 'ask an operator of the mesh'),
  TOKEN_REFUSED: entry(4, 7, 'the join token is unknown, spent or expired', 'make a new one: mesh token create'),
  NOT_APPROVED: entry(
    4,
    7,
    'an operator has not let this machine in yet',
    'on the coordinator: mesh nodes approve NAME',
  ),
  EXPIRED: entry(4, 16, 'the certificate has expired', 'make a new token: mesh token create'),
  REVOKED: entry(4, 16, 'the certificate is revoked', 'ask an operator for a token that names it'),
  NOT_FOUND: entry(5, 5, 'there is no such thing', 'list what there is: mesh jobs, mesh nodes, mesh token list'),
  CONFLICT: entry(1, 6, 'it is in another state than the request needs', 'look at it first'),
  IDEMPOTENCY_CONFLICT: entry(2, 6, 'the idempotency key was used for another specification', 'use a new key'),
  TIMED_OUT: entry(6, 4, 'it did not happen in time', 'wait longer with --timeout'),
  JOB_FAILED: entry(1, 9, 'the job did not complete', 'see: mesh tasks ID, mesh logs ID'),
  DATABASE_DOWN: entry(3, 14, 'the database cannot be reached', 'is PostgreSQL running, and is --database-url right?'),
  DATABASE_NEWER: entry(1, 9, 'the database has a newer schema than this program knows', 'upgrade this coordinator'),
  DATABASE_FOREIGN: entry(
    1,
    9,
    'the database belongs to another mesh',
    'use an empty database or the right data directory',
  ),
  DATA_DIR: entry(1, 9, 'the data directory cannot be used', 'name a writable one with --data'),
  IN_USE: entry(
    1,
    9,
    'something else holds what is needed',
    'stop the other process, or name another directory or port',
  ),
  PROTOCOL: entry(
    1,
    9,
    'the two sides speak no common protocol version, or one of them broke its rules',
    'upgrade the older side',
  ),
  LEADERSHIP_LOST: entry(1, 10, 'another coordinator leads now', 'the agents follow it by themselves'),
  DISK_FULL: entry(1, 8, 'there is no room left on the disk', 'free some space'),
  PROCESS_FAILED: entry(1, 13, 'a process of the local mesh failed', 'its log says more'),
  INTERRUPTED: entry(130, 1, 'interrupted', 'the job goes on; see: mesh jobs'),
  INTERNAL: entry(1, 13, 'a defect of this program', 'please report it with the log'),
} as const satisfies Record<string, ErrorEntry>;

export type ErrorCode = keyof typeof ERRORS;

export interface MeshErrorOptions {
  /** What to do next, as an imperative; replaces the registry's. */
  hint?: string;
  cause?: unknown;
  /** With NOT_LEADER: where the mesh may be reached instead, as `host:port`, the leader first. */
  coordinators?: readonly string[];
}

/** An error that a person may see: one line that says what and why, and a hint that says what to do. */
export class MeshError extends Error {
  readonly code: ErrorCode;
  readonly hint: string;
  readonly coordinators: readonly string[];

  constructor(code: ErrorCode, message: string, options: MeshErrorOptions = {}) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause });
    this.name = 'MeshError';
    this.code = code;
    this.hint = options.hint ?? ERRORS[code].hint;
    this.coordinators = options.coordinators ?? [];
  }

  get exitCode(): number {
    return ERRORS[this.code].exit;
  }

  get grpcStatus(): number {
    return ERRORS[this.code].grpc;
  }
}

export const isErrorCode = (text: unknown): text is ErrorCode =>
  typeof text === 'string' && Object.hasOwn(ERRORS, text);

/** Turns anything thrown into a MeshError; what was not expected becomes INTERNAL with its cause kept. */
export function toMeshError(error: unknown): MeshError {
  if (error instanceof MeshError) return error;
  return new MeshError('INTERNAL', error instanceof Error ? error.message : String(error), { cause: error });
}

/** The system's own word for a failed call (`ENOENT`, `EADDRINUSE`), or undefined. */
export function systemCode(error: unknown): string | undefined {
  const code = (error as { code?: unknown } | null | undefined)?.code;
  return typeof code === 'string' ? code : undefined;
}

/** Whether the system says that a disk, or what its user may have of it, is full. */
export const isDiskFull = (error: unknown): boolean => ['ENOSPC', 'EDQUOT'].includes(systemCode(error) ?? '');
