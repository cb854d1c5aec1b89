/**
 * Every bound on what a peer, an identity or a job may take of this coordinator: declared here, once, as settings. The
 * door, the gate, the intake, the stores of logs, results and files get theirs from the functions below, `docs/limits.md`
 * is generated from the same table, and `checkLimits` says at the start what cannot be together.
 *
 * A rate is a token bucket that holds BURST_SECONDS' worth: short bursts pass, a flood does not.
 */
import { MeshError } from '../../common/errors.js';
import { asInteger, type Setting, setting, type Values } from '../../common/settings.js';
import { formatDuration, formatSize, parseDuration, parseSize } from '../../common/units.js';
import { MESSAGE_BYTES_MAX } from '../../link/credentials.js';
import { SPEC_LIMITS, type SpecLimits } from '../core/spec.js';

export const BURST_SECONDS = 10;

type Unit = 'count' | 'per second' | 'per minute' | 'bytes' | 'bytes per second' | 'time';

export interface Limit extends Setting<number> {
  group: 'Connections' | 'Requests' | 'Agents' | 'Jobs';
  unit: Unit;
  min: number;
  max: number;
  /** What happens at the bound, as the one who meets it sees it. */
  beyond: string;
  /** What to mind in production before it is changed. */
  caveat: string;
}

const KIB = 2 ** 10;
const MIB = 2 ** 20;
const GIB = 2 ** 30;
const TIB = 2 ** 40;

const PLACEHOLDER: Record<Unit, string> = {
  count: '<number>',
  'per second': '<number>',
  'per minute': '<number>',
  bytes: '<size>',
  'bytes per second': '<size>',
  time: '<duration>',
};

interface Declared extends Pick<Limit, 'group' | 'unit' | 'describe' | 'fallback' | 'beyond' | 'caveat'> {
  range: readonly [min: number, max: number];
}

function limit(name: string, { range: [min, max], ...declared }: Declared): Limit {
  const parse =
    declared.unit === 'time' ? parseDuration : declared.unit.startsWith('bytes') ? parseSize : asInteger(min, max);
  return { ...setting({ ...declared, flag: `--${name} ${PLACEHOLDER[declared.unit]}`, parse }), ...declared, min, max };
}

const DESTROYED = 'the connection is closed without an answer; `door.crowded` in the log';
const REFUSED = 'OVERLOADED, with when to try again';

export const limitSettings = {
  maxConnections: limit('max-connections', {
    group: 'Connections',
    unit: 'count',
    describe: 'TCP connections in all, of whatever kind',
    ...{ fallback: 4096, range: [16, 1_000_000] },
    beyond: DESTROYED,
    caveat: 'an agent has two; the limit of open files (LimitNOFILE) must be well above it',
  }),
  maxConnectionsPerAddress: limit('max-connections-per-address', {
    group: 'Connections',
    unit: 'count',
    describe: 'TCP connections from one address, of whatever kind',
    ...{ fallback: 1024, range: [4, 1_000_000] },
    beyond: DESTROYED,
    caveat: 'more than 500 agents behind one address (containers, NAT) need more: two for each, and room for people',
  }),
  maxConnectionsPerIdentity: limit('max-connections-per-identity', {
    group: 'Connections',
    unit: 'count',
    describe: 'connections that one certificate name may have open',
    ...{ fallback: 64, range: [4, 1_000_000] },
    beyond: DESTROYED,
    caveat: 'each running `mesh` command is one; share an operator profile among fewer programs before raising it',
  }),
  maxHandshakesPerAddress: limit('max-handshakes-per-address', {
    group: 'Connections',
    unit: 'count',
    describe: 'connections from one address that have not finished their TLS handshake',
    ...{ fallback: 64, range: [1, 1_000_000] },
    beyond: DESTROYED,
    caveat: 'what comes at once after a power cut: agents behind one address that all return together try again',
  }),
  maxStrangersPerAddress: limit('max-strangers-per-address', {
    group: 'Connections',
    unit: 'count',
    describe: 'connections from one address without a certificate of this mesh (they join, or ask for health)',
    ...{ fallback: 16, range: [1, 1_000_000] },
    beyond: DESTROYED,
    caveat: 'load balancers that probe `/healthz` count here',
  }),
  maxConnectionRate: limit('max-connection-rate', {
    group: 'Connections',
    unit: 'per second',
    describe:
      'new connections from one address, and of one certificate name; one with a certificate of this mesh counts for its name alone. A handshake costs one to three milliseconds of CPU',
    ...{ fallback: 50, range: [1, 1_000_000] },
    beyond: DESTROYED,
    caveat: 'scripts that run many short `mesh` commands at a time from one machine',
  }),
  handshakeTimeout: limit('handshake-timeout', {
    group: 'Connections',
    unit: 'time',
    describe: 'from accepting a connection to the end of its TLS handshake',
    ...{ fallback: 5000, range: [100, 60_000] },
    beyond: 'the connection is closed',
    caveat: 'only links with round trips of a second need more',
  }),
  strangerTimeout: limit('stranger-timeout', {
    group: 'Connections',
    unit: 'time',
    describe: 'how long a connection without a certificate of this mesh lives',
    ...{ fallback: 10_000, range: [1000, 600_000] },
    beyond: 'the connection is closed, whatever it is doing',
    caveat: 'enough to join; keep-alive of health probes ends with it',
  }),
  maxStreams: limit('max-streams', {
    group: 'Connections',
    unit: 'count',
    describe: 'calls open at a time on one connection',
    ...{ fallback: 128, range: [8, 100_000] },
    beyond: 'HTTP/2 makes the caller wait; one that ignores it is cut off',
    caveat: 'the memory of a hostile connection grows with it',
  }),
  maxSessionMemory: limit('max-session-memory', {
    group: 'Connections',
    unit: 'bytes',
    describe: 'memory that the HTTP/2 layer may hold for one connection',
    ...{ fallback: 32 * MIB, range: [16 * MIB, GIB] },
    beyond: 'new calls on that connection are refused',
    caveat: 'it must hold several messages of the largest size',
  }),
  maxMessageBytes: limit('max-message-bytes', {
    group: 'Connections',
    unit: 'bytes',
    describe: 'one gRPC message, after decompression',
    ...{ fallback: MESSAGE_BYTES_MAX, range: [4 * MIB, 64 * MIB] },
    beyond: 'RESOURCE_EXHAUSTED; nothing beyond the bound is unpacked',
    caveat: 'clients and agents send no more than 8 MiB, so more helps nobody',
  }),

  maxStrangerRate: limit('max-stranger-rate', {
    group: 'Requests',
    unit: 'per second',
    describe: 'requests of peers without a certificate of this mesh, by address: joins and health',
    ...{ fallback: 10, range: [1, 100_000] },
    beyond: `${REFUSED}; 429 with Retry-After over HTTP`,
    caveat: 'load balancers that probe `/healthz` count here',
  }),
  maxFailedJoins: limit('max-failed-joins', {
    group: 'Requests',
    unit: 'per minute',
    describe: 'joins from one address that were refused',
    ...{ fallback: 20, range: [1, 10_000] },
    beyond: 'OVERLOADED for a minute, also with the right token',
    caveat: 'a guess would have to hit 128 bits; this spares the log and the CPU',
  }),
  maxRequestRate: limit('max-request-rate', {
    group: 'Requests',
    unit: 'per second',
    describe: 'requests of one operator, submitter, viewer or scraper',
    ...{ fallback: 1000, range: [1, 1_000_000] },
    beyond: `${REFUSED}; 429 with Retry-After over HTTP`,
    caveat: 'a submission is one request, whatever its number of tasks',
  }),
  maxAgentRequestRate: limit('max-agent-request-rate', {
    group: 'Requests',
    unit: 'per second',
    describe: 'calls of one agent: its session, log streams, and files it fetches',
    ...{ fallback: 1000, range: [10, 1_000_000] },
    beyond: REFUSED,
    caveat: 'each staged file that an agent does not have yet is one call',
  }),
  maxOpenCalls: limit('max-open-calls', {
    group: 'Requests',
    unit: 'count',
    describe: 'calls of one identity under way at a time, over all its connections',
    ...{ fallback: 512, range: [8, 100_000] },
    beyond: REFUSED,
    caveat: 'each follower of a job or a log is one',
  }),
  maxSecrets: limit('max-secrets', {
    group: 'Requests',
    unit: 'count',
    describe: 'secrets that one owner has: a person, or everyone together',
    ...{ fallback: 256, range: [1, 100_000] },
    beyond: 'CONFLICT; a value that is there can still be replaced',
    caveat: 'a list of secrets is one answer; each takes up to 64 KiB of the database',
  }),
  maxUploadBytes: limit('max-upload-bytes', {
    group: 'Requests',
    unit: 'bytes',
    describe: 'files of one identity on their way in at a time',
    ...{ fallback: 64 * GIB, range: [MIB, 1024 * TIB] },
    beyond: 'OVERLOADED; what was complete stays for the next try',
    caveat: 'at least --max-blob-bytes; free space is looked at too (--min-free-bytes)',
  }),

  maxSessionStarts: limit('max-session-starts', {
    group: 'Agents',
    unit: 'per minute',
    describe: 'sessions that one agent begins',
    ...{ fallback: 60, range: [5, 10_000] },
    beyond: REFUSED,
    caveat: 'each is written to the database; an agent that loses its connection backs off and stays far below',
  }),
  maxSessionRate: limit('max-session-rate', {
    group: 'Agents',
    unit: 'per second',
    describe: 'messages of one session; results travel up to a thousand in a message',
    ...{ fallback: 5000, range: [100, 1_000_000] },
    beyond: 'that session is read no faster; a node that floods becomes SUSPECT, nobody else notices',
    caveat: 'an agent at 100,000 tasks a second sends some hundreds',
  }),
  maxSessionBacklog: limit('max-session-backlog', {
    group: 'Agents',
    unit: 'bytes',
    describe: 'reports of one session that wait for their commit',
    ...{ fallback: 64 * MIB, range: [16 * MIB, 4 * GIB] },
    beyond: 'that session is read again when the database has caught up',
    caveat: 'an agent has at most 8 MiB of results under way, so a sound one never meets it',
  }),
  maxLogRate: limit('max-log-rate', {
    group: 'Agents',
    unit: 'bytes per second',
    describe: 'task output that one agent streams',
    ...{ fallback: 64 * MIB, range: [64 * KIB, 64 * GIB] },
    beyond: "the stream is read no faster; the agent's spool keeps the first and the last half",
    caveat: 'the disk of the coordinator takes what all agents send together',
  }),

  maxLiveJobs: limit('max-live-jobs', {
    group: 'Jobs',
    unit: 'count',
    describe: 'jobs waiting or running at a time; more are refused, with a retryable error',
    ...{ fallback: 100_000, range: [1, 1_000_000] },
    beyond: 'OVERLOADED; `mesh submit` waits',
    caveat: 'about 3 KiB of memory each',
  }),
  maxJobTasks: limit('max-job-tasks', {
    group: 'Jobs',
    unit: 'count',
    describe: 'tasks of one job',
    ...{ fallback: SPEC_LIMITS.tasksMax, range: [1, SPEC_LIMITS.tasksMax] },
    beyond: 'BAD_SPEC',
    caveat: 'each is a row; clients refuse more than ten million themselves',
  }),
  maxTaskFiles: limit('max-task-files', {
    group: 'Jobs',
    unit: 'count',
    describe: 'files staged for one task',
    ...{ fallback: SPEC_LIMITS.filesMax, range: [1, 1_000_000] },
    beyond: 'BAD_SPEC that names the task',
    caveat: 'an archive is one file',
  }),
  maxJobFiles: limit('max-job-files', {
    group: 'Jobs',
    unit: 'count',
    describe: 'different files staged for one job',
    ...{ fallback: 250_000, range: [1, 10_000_000] },
    beyond: 'BAD_SPEC that names the task at which it was passed',
    caveat: 'the coordinator holds 100 bytes of memory for each while the job comes in',
  }),
  maxJobBytes: limit('max-job-bytes', {
    group: 'Jobs',
    unit: 'bytes',
    describe: 'bytes staged for one job, each different file counted once',
    ...{ fallback: 256 * GIB, range: [1, 1024 * TIB] },
    beyond: 'BAD_SPEC that names the task at which it was passed',
    caveat: 'they stay as long as the job is retained',
  }),
  maxBlobBytes: limit('max-blob-bytes', {
    group: 'Jobs',
    unit: 'bytes',
    describe: 'the largest file that can be staged',
    ...{ fallback: 16 * GIB, range: [1, 1024 * TIB] },
    beyond: 'BAD_SPEC',
    caveat: 'with --database-url its bytes go to the database too',
  }),
  maxLogBytes: limit('max-log-bytes', {
    group: 'Jobs',
    unit: 'bytes',
    describe: 'output kept per attempt: the first and the last half, a marker between',
    ...{ fallback: 16 * MIB, range: [64 * KIB, TIB] },
    beyond: 'the middle is left out, with a marker that says how much',
    caveat: 'the disk holds one and a half times as much; the agent spools as much',
  }),
  maxJobLogBytes: limit('max-job-log-bytes', {
    group: 'Jobs',
    unit: 'bytes',
    describe: 'output of one job that is streamed to the coordinator, over all its attempts',
    ...{ fallback: 16 * GIB, range: [MIB, 1024 * TIB] },
    beyond: 'the rest is left out, with a marker; the last 64 KiB of each attempt still come with its result',
    caveat: 'short output travels with the result and counts there',
  }),
  maxJobResultBytes: limit('max-job-result-bytes', {
    group: 'Jobs',
    unit: 'bytes',
    describe: 'results of one job, with the last output of its tasks',
    ...{ fallback: 4 * GIB, range: [MIB, 1024 * TIB] },
    beyond: 'a function whose result does not fit fails; of a command the last output is left out, with a marker',
    caveat: 'they are in the database; large results belong into files',
  }),
} as const satisfies Record<string, Limit>;

export type Limits = Values<typeof limitSettings>;

/** Bounds of the protocol itself: the same everywhere, so no settings. */
export const FIXED_LIMITS: readonly [what: string, value: string][] = [
  ['Calls at a time of a peer without a certificate', '1'],
  ['One message of a peer without a certificate', '64 KiB'],
  ['A request head over HTTP', '16 KiB, within 10 s'],
  ['A request body over HTTP', '64 KiB, within 30 s; compressed bodies are not unpacked'],
  ['A silent HTTP connection', '60 s'],
  ['Request and response heads over HTTP/2', '64 KiB and 128 fields'],
  ['One argument, variable or input', '128 KiB, as Linux has it'],
  ['Command and environment together', '1 MiB'],
  ['One result of a function', '64 KiB'],
  ['Output that travels with a result', '64 KiB'],
  ['One secret', '64 KiB'],
  ['Secrets of one job', '32, and 256 KiB together: they travel in one message'],
  ['Attempts named in one message of a session', '100,000; reports 10,000'],
  ['Messages that wait for an agent which does not read', '4,096; then its session ends'],
];

/** What the door is given; see door/limits.ts. */
export const doorLimits = (limits: Limits) => ({
  connectionsMax: limits.maxConnections,
  perAddressMax: limits.maxConnectionsPerAddress,
  perIdentityMax: limits.maxConnectionsPerIdentity,
  handshakesPerAddressMax: limits.maxHandshakesPerAddress,
  nobodiesPerAddressMax: limits.maxStrangersPerAddress,
  connectionsPerSecond: limits.maxConnectionRate,
  connectionsBurst: limits.maxConnectionRate * BURST_SECONDS,
  handshakeMs: limits.handshakeTimeout,
  nobodyLifeMs: limits.strangerTimeout,
  streamsMax: limits.maxStreams,
  messageBytesMax: limits.maxMessageBytes,
  sessionMemoryMb: Math.ceil(limits.maxSessionMemory / MIB),
});

/** What a job's specification is checked against. */
export const specLimits = (limits: Limits): SpecLimits => ({
  ...SPEC_LIMITS,
  tasksMax: limits.maxJobTasks,
  filesMax: limits.maxTaskFiles,
});

/** A limit as people read it: `16 MiB`, `5.0 s`, `4,096`. */
export function formatLimit(unit: Unit, value: number): string {
  if (unit === 'time') return formatDuration(value);
  if (unit === 'bytes') return formatSize(value);
  if (unit === 'bytes per second') return `${formatSize(value)}/s`;
  const number = value.toLocaleString('en');
  return unit === 'per second' ? `${number}/s` : unit === 'per minute' ? `${number}/min` : number;
}

/** `--max-live-jobs`. */
export const flagOf = (key: keyof Limits): string => limitSettings[key].flag.split(' ')[0] as string;

export const shownLimit = (limits: Limits, key: keyof Limits): string =>
  formatLimit(limitSettings[key].unit, limits[key]);

/** Pairs of which the first must not be larger than the second, or the second would never be reached. */
const WITHIN: readonly [keyof Limits, keyof Limits][] = [
  ['maxHandshakesPerAddress', 'maxConnectionsPerAddress'],
  ['maxStrangersPerAddress', 'maxConnectionsPerAddress'],
  ['maxConnectionsPerIdentity', 'maxConnections'],
  ['maxConnectionsPerAddress', 'maxConnections'],
  ['maxMessageBytes', 'maxSessionMemory'],
  ['maxBlobBytes', 'maxUploadBytes'],
  ['maxBlobBytes', 'maxJobBytes'],
  ['maxTaskFiles', 'maxJobFiles'],
  ['maxLogBytes', 'maxJobLogBytes'],
];

/** @throws MeshError BAD_CONFIG that names the setting out of its range, or the two that cannot be together */
export function checkLimits(limits: Limits): void {
  const shown = (key: keyof Limits): string => `${flagOf(key)} (${shownLimit(limits, key)})`;
  for (const [key, { unit, min, max }] of Object.entries(limitSettings) as [keyof Limits, Limit][]) {
    if (limits[key] >= min && limits[key] <= max) continue;
    throw new MeshError('BAD_CONFIG', `${shown(key)} is out of its range`, {
      hint: `choose from ${formatLimit(unit, min)} to ${formatLimit(unit, max)}; see docs/limits.md`,
    });
  }
  for (const [smaller, larger] of WITHIN) {
    if (limits[smaller] <= limits[larger]) continue;
    throw new MeshError('BAD_CONFIG', `${shown(smaller)} is more than ${shown(larger)} lets through`, {
      hint: `lower ${flagOf(smaller)} or raise ${flagOf(larger)}; see docs/limits.md`,
    });
  }
}
