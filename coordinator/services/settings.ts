import { formatEndpoint, parseEndpoint } from '../../link/endpoints.js';
import { asFlag, asInteger, asNumber, asText, logLevelSetting, setting } from '../../common/settings.js';
import { MeshError } from '../../common/errors.js';
import { PROFILES } from '../../common/identity/profile.js';
import { COEFFICIENTS_DEFAULT } from '../core/scheduler/rank.js';
import { SPECULATION_DEFAULTS } from '../core/speculation.js';
import { asLifetime, asRecoveryTime } from './lifetimes.js';
import { parseDuration, parseSize } from '../../common/units.js';
import { limitSettings } from './limits.js';

const asStrategy = (text: string): 'score' | 'round-robin' | 'random' => {
  if (text === 'score' || text === 'round-robin' || text === 'random') return text;
  throw new MeshError('USAGE', `"${text}" is not a strategy`, { hint: 'use score, round-robin or random' });
};

const weight = (flag: string, describe: string, fallback: number) =>
  setting({ flag: `--${flag} <number>`, describe, parse: asNumber(0, 1000), fallback });

/** Every setting of `mesh-coordinator`. Flags, `MESH_*` variables and the TOML file share these names. */
export const coordinatorSettings = {
  data: setting<string | undefined>({
    flag: '--data <dir>',
    describe: 'the data directory: CA, database, files, logs (default: the XDG data directory, or MESH_HOME)',
    parse: asText,
    fallback: undefined,
  }),
  databaseUrl: setting<string | undefined>({
    flag: '--database-url <url>',
    describe: 'a PostgreSQL of your own, 14 or newer, instead of the embedded one',
    parse: asText,
    fallback: undefined,
    secret: true,
  }),
  caPassphraseFile: setting<string | undefined>({
    flag: '--ca-passphrase-file <file>',
    describe: "its first line opens the CA's keys, or encrypts them when the CA is made; only its owner may read it",
    parse: asText,
    fallback: undefined,
  }),
  caPassphraseFd: setting<number | undefined>({
    flag: '--ca-passphrase-fd <number>',
    describe: 'the same from an open descriptor',
    parse: asInteger(0, 65_535),
    fallback: undefined,
  }),
  join: setting<string | undefined>({
    flag: '--join <token>',
    describe: 'a token of the role coordinator: to become one more coordinator of a mesh, the first time only',
    parse: asText,
    fallback: undefined,
    secret: true,
  }),
  coordinator: setting<string | undefined>({
    flag: '--coordinator <host[:port]>',
    describe: 'with --join: where the mesh is, for networks that multicast does not pass',
    parse: asText,
    fallback: undefined,
  }),
  approveNodes: setting({
    flag: '--approve-nodes',
    describe:
      'a new agent with a good token waits until an operator has compared its words: mesh nodes approve. Alike on all coordinators of a mesh',
    parse: asFlag,
    fallback: false,
  }),
  preparedStatements: setting({
    flag: '--no-prepared-statements',
    describe: 'for a pooler in transaction mode between this coordinator and PostgreSQL',
    parse: asFlag,
    fallback: true,
  }),
  listen: setting({
    flag: '--listen <address>',
    describe: 'the address to listen on; :: is every address, IPv4 too',
    parse: asText,
    fallback: '::',
  }),
  port: setting({
    flag: '--port <number>',
    describe: 'the one TCP port; 0 picks a free one',
    parse: asInteger(0, 65535),
    fallback: 7443,
  }),
  advertise: setting<string[]>({
    flag: '--advertise <host:port>',
    describe:
      'where others reach this coordinator when that is not where it listens (a proxy, a mapped port); may repeat',
    parse: (text) => formatEndpoint(parseEndpoint(text)),
    fallback: [],
    list: true,
  }),
  mdns: setting({ flag: '--no-mdns', describe: 'do not advertise over mDNS', parse: asFlag, fallback: true }),
  name: setting<string | undefined>({
    flag: '--name <name>',
    describe: "this coordinator's name (default: the host name)",
    parse: asText,
    fallback: undefined,
  }),
  readyFile: setting<string | undefined>({
    flag: '--ready-file <file>',
    describe: 'written when the coordinator is ready',
    parse: asText,
    fallback: undefined,
  }),
  logLevel: logLevelSetting,
  heartbeat: setting({
    flag: '--heartbeat <duration>',
    describe: 'how often agents report; three missed make a node SUSPECT',
    parse: parseDuration,
    fallback: 2000,
  }),
  nodeLease: setting({
    flag: '--node-lease <duration>',
    describe: 'silence after which a node is OFFLINE and its tasks are given to others',
    parse: parseDuration,
    fallback: 15_000,
  }),
  leaderLease: setting({
    flag: '--leader-lease <duration>',
    describe: 'how long a silent leader keeps the lead',
    parse: parseDuration,
    fallback: 6000,
  }),
  agentCertificateLife: setting({
    flag: '--agent-certificate-life <duration>',
    describe: 'how long certificates of agents live; they renew themselves after 50 to 80 % of it',
    parse: asLifetime('agent'),
    fallback: PROFILES.agent.lifetimeMs,
  }),
  coordinatorCertificateLife: setting({
    flag: '--coordinator-certificate-life <duration>',
    describe: "how long coordinators' own certificates live; they renew themselves",
    parse: asLifetime('coordinator'),
    fallback: PROFILES.coordinator.lifetimeMs,
  }),
  userCertificateLife: setting({
    flag: '--user-certificate-life <duration>',
    describe: 'how long certificates of operators, submitters and viewers live; commands renew them',
    parse: asLifetime('operator'),
    fallback: PROFILES.operator.lifetimeMs,
  }),
  recoverWithin: setting({
    flag: '--recover-within <duration>',
    describe: 'how long after the end of its certificate an agent that was off may come back by itself; 0: never',
    parse: asRecoveryTime,
    fallback: 30 * 86_400_000,
  }),
  strategy: setting<'score' | 'round-robin' | 'random'>({
    flag: '--strategy <name>',
    describe: 'score; round-robin and random are there for comparison',
    parse: asStrategy,
    fallback: 'score',
  }),
  weightRtt: weight(
    'weight-rtt',
    'α, the weight of round trips relative to task time: higher keeps short tasks near',
    COEFFICIENTS_DEFAULT.rtt,
  ),
  weightLoad: weight(
    'weight-load',
    'β, the weight of machine load: higher spares machines that people sit at',
    COEFFICIENTS_DEFAULT.load,
  ),
  weightQueue: weight(
    'weight-queue',
    'γ, the weight of work already queued there: higher evens queues out',
    COEFFICIENTS_DEFAULT.queue,
  ),
  weightReliability: weight(
    'weight-reliability',
    'δ, the weight of spoiled attempts: higher avoids flaky nodes',
    COEFFICIENTS_DEFAULT.reliability,
  ),
  weightSpeed: weight(
    'weight-speed',
    'ε, the weight of learned speed: higher prefers fast machines; 0 never leaves a slow one idle for a fast one',
    COEFFICIENTS_DEFAULT.speed,
  ),
  prefillMax: setting({
    flag: '--prefill-max <tasks>',
    describe: 'the most tasks an agent may hold beyond its slots',
    parse: asInteger(0, 100_000),
    fallback: 8192,
  }),
  stragglerFactor: setting({
    flag: '--straggler-factor <number>',
    describe:
      'of jobs submitted with --speculate: how many times the usual running time makes a straggler, which gets a second attempt',
    parse: asNumber(1, 1000),
    fallback: SPECULATION_DEFAULTS.factor,
  }),
  stragglerFloor: setting({
    flag: '--straggler-floor <duration>',
    describe: 'no task that has run for less gets a second attempt',
    parse: parseDuration,
    fallback: SPECULATION_DEFAULTS.floorMs,
  }),
  retention: setting({
    flag: '--retention <duration>',
    describe: 'how long ended jobs, their results, logs and files are kept',
    parse: parseDuration,
    fallback: 30 * 86_400_000,
  }),
  minFreeBytes: setting({
    flag: '--min-free-bytes <size>',
    describe: 'free disk space below which no jobs are taken and the oldest ended ones are removed early',
    parse: parseSize,
    fallback: 512 * 2 ** 20,
  }),
  ...limitSettings,
};
