/**
 * The composition root: everything is made here, once, and handed what it needs. Started in the order of dependence,
 * stopped in reverse: the door closes before the services, the services before the store, the store before PostgreSQL.
 */
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { unlock } from '../ca/unlock.js';
import { unlessAborted } from '../common/abort.js';
import type { Clock } from '../common/clock.js';
import { DataLock } from '../common/data-lock.js';
import { makePrivateDir, readIfExists, removeIfEmpty, writeFileAtomic } from '../common/files.js';
import { randomCharacters } from '../common/ids.js';
import { lanAddresses } from '../common/interfaces.js';
import { ServiceGroup } from '../common/lifecycle.js';
import type { Logger } from '../common/log.js';
import type { Values } from '../common/settings.js';
import { EmbeddedAuthority } from './authority.js';
import { assertRestored } from './backup/paths.js';
import { auditRestored } from './backup/restored.js';
import { Door } from './door/door.js';
import { assertListenable } from './door/listen.js';
import { RefusalLog } from './door/refusal-log.js';
import { makeHttp } from './http/server.js';
import type { PostgresStore } from './store/index.js';
import { openStore } from './store/index.js';
import { EmbeddedPostgres } from './postgres/embedded.js';
import { registerServices } from './rpc/register.js';
import { Advertiser } from './services/advertise.js';
import { auditedCertificates } from './services/audited-certificates.js';
import { checkLeases } from './services/leases.js';
import { checkLimits, doorLimits } from './services/limits.js';
import type { coordinatorSettings } from './services/settings.js';
import { Throttle } from './services/throttle.js';
import { ControlPlane } from './control-plane.js';
import { foreignDatabase, joinedName, joinIfAsked } from './joining.js';
import { SecretKeeper } from './secret-keeper.js';
import { makeRoots } from './roots.js';

export type CoordinatorConfig = Values<typeof coordinatorSettings> & { dataDir: string };

export interface Running {
  meshId: string;
  caFingerprint: string;
  address: string;
  adminProfile: string;
  stop(): Promise<void>;
}

export interface Surroundings {
  clock: Clock;
  log: Logger;
  random: () => number;
  /** Aborts when the process is to end while it starts. */
  signal: AbortSignal;
}

/** A start that is interrupted ends in good order, if that takes no longer; then it is cut off from the database. */
const GOOD_ORDER_MS_MAX = 1000;

/**
 * @throws MeshError, INTERRUPTED when it was told to end before it was ready; nothing runs any more when it does, and
 * nothing new is there unless it is whole
 */
export async function startCoordinator(config: CoordinatorConfig, surroundings: Surroundings): Promise<Running> {
  const { log, signal } = surroundings;
  checkLeases(config, log);
  checkLimits(config);
  const isNew = !existsSync(config.dataDir);
  makePrivateDir(config.dataDir);
  assertRestored(config.dataDir);
  const lock = new DataLock(join(config.dataDir, 'coordinator.lock'), 'a coordinator');
  lock.acquire();
  const group = new ServiceGroup('coordinator');
  group.add({ name: 'data-lock', start: async () => undefined, stop: async () => lock.release() });
  const cut = new AbortController();
  await group.start();
  const starting = start(config, surroundings, group, cut.signal);
  starting.catch(() => undefined);
  try {
    return await unlessAborted(starting, signal, 'the coordinator was stopped while it started');
  } catch (error) {
    const timer = surroundings.clock.after(GOOD_ORDER_MS_MAX, () => cut.abort());
    await group.stop().catch((stopping: unknown) => log.error({ event: 'stop.failed', err: stopping }));
    timer.cancel();
    // What had not been started yet, such as a database that does not answer, is none of the group's.
    cut.abort();
    await starting.catch(() => undefined);
    if (isNew) removeIfEmpty(config.dataDir);
    throw error;
  }
}

async function start(
  config: CoordinatorConfig,
  surroundings: Surroundings,
  group: ServiceGroup,
  cut: AbortSignal,
): Promise<Running> {
  const { clock, log } = surroundings;
  await assertListenable(hostOf(config), config.port);
  const passphrase = await unlock(join(config.dataDir, 'ca'), {
    file: config.caPassphraseFile,
    descriptor: config.caPassphraseFd,
    flag: '--ca-passphrase',
  });
  const store = await startStore(config, surroundings, group, cut);
  await joinIfAsked(config, await store.owner(), { ...surroundings, passphrase });
  await store.migrate();
  const name = config.name ?? joinedName(config.dataDir);
  const authority = await EmbeddedAuthority.open(config.dataDir, { name, passphrase, clock, log, lifetimes: config });
  await claimDatabase(store, authority.meshId);
  return await serve(config, surroundings, { authority, store, group });
}

async function startStore(
  config: CoordinatorConfig,
  { clock, log }: Surroundings,
  group: ServiceGroup,
  cut: AbortSignal,
): Promise<PostgresStore> {
  let postgres: EmbeddedPostgres | undefined;
  if (!config.databaseUrl) {
    postgres = new EmbeddedPostgres({ directory: join(config.dataDir, 'postgres'), log, clock });
    await group.run(postgres);
  }
  const store = await openStore({
    url: config.databaseUrl,
    connection: postgres?.connection,
    prepare: config.preparedStatements,
    ...{ log, clock, cut },
  });
  await group.run({ name: 'store', start: async () => undefined, stop: () => store.close() });
  return store;
}

/** A database serves one mesh for ever. */
async function claimDatabase(store: PostgresStore, meshId: string): Promise<void> {
  const owner = await store.settings.claim('mesh-id', meshId);
  if (owner !== meshId) throw foreignDatabase(owner, `is of ${meshId}`);
}

const hostOf = (config: CoordinatorConfig): string | undefined => (config.listen === '::' ? undefined : config.listen);

async function serve(
  config: CoordinatorConfig,
  surroundings: Surroundings,
  parts: { authority: EmbeddedAuthority; store: PostgresStore; group: ServiceGroup },
): Promise<Running> {
  const { clock, log } = surroundings;
  const { authority, store, group } = parts;
  const { meshId } = authority;
  // Without a port there is no address yet; nobody may remember one that leads nowhere.
  const addresses = () => (door.port === 0 ? [] : reachableAt(config, door.port));
  const credential = await authority.ownCredential(store.certificates);
  let present = credential;
  const coordinators = () => plane.roster.addresses();
  const keyHolder = new SecretKeeper({
    ...{ dataDir: config.dataDir, authority, settings: store.settings, coordinators, clock, log },
    credential: () => present,
  });
  const plane: ControlPlane = new ControlPlane({
    ...surroundings,
    config,
    store,
    // An embedded database is on the same disk as the files and serves nobody else.
    blobContent: config.databaseUrl === undefined ? undefined : store.blobContent,
    signer: authority,
    authorities: () => authority.authorities,
    trustGeneration: () => roots.trust.generation,
    renewalWanted: (serial) => roots.rotation.wants(serial),
    holder: coordinatorId(config.dataDir),
    name: authority.name,
    coordinators: addresses,
    databaseWarning: store.database.target.warning,
    auditHeadFile: join(config.dataDir, 'audit.head'),
    onRevoked: (isRevoked) => void door.destroyWhere(isRevoked),
    keyHolder,
  });
  let advertiser: Advertiser | undefined;
  const refusals = new RefusalLog(log, clock);
  const throttle = new Throttle(config, clock, (who, why) => refusals.refused('caller.throttled', who, why));
  const roots = await makeRoots({
    ...{ authority, plane, store, clock, log, coordinators },
    keeper: () => keeper,
    onStep: () => advertiser?.announceAnew(),
  });
  const http = await makeHttp({
    peerOf: (socket) => door.peerOf(socket),
    denylist: plane.denylist,
    audit: plane.audit,
    throttle,
    metrics: plane.metrics,
    crl: () => plane.revocationList.current(),
    log,
    notReady: () => plane.notReady(),
  });
  const door: Door = new Door({
    meshId,
    credential,
    clock,
    log,
    port: config.port,
    host: hostOf(config),
    limits: doorLimits(config),
    http: http.server,
    register: (server) =>
      registerServices(server, plane, {
        meshId,
        rotation: roots.rotation,
        peerOf: (call) => door.peerOf(call),
        ...{ throttle, limits: config, clock, log },
      }),
  });
  await auditRestored(config.dataDir, (at) => plane.audit.record(plane.audit.self, 'mesh.restored', at));
  await group.run(keyHolder);
  await group.run(plane);
  const why = 'with mesh-ca in the CA directory of this coordinator';
  const imported = auditedCertificates(store.certificates, plane.audit, 'certificate.imported');
  const revoke = (serial: string) => plane.issuance.revoke(plane.audit.self, serial, why);
  await group.run(authority.indexWatch(imported, revoke));
  await group.run({ name: 'http', start: async () => undefined, stop: () => http.app.close() });
  await group.run(door);
  plane.roster.refresh();
  await group.run({ name: 'sessions', start: async () => undefined, stop: async () => plane.sayGoodbye() });
  const local =
    config.listen === '::' || config.listen === '0.0.0.0'
      ? `127.0.0.1:${door.port}`
      : (listeningAt(config.listen, door.port)[0] as string);
  const adminDir = join(config.dataDir, 'admin');
  const certificates = auditedCertificates(store.certificates, plane.audit, 'certificate.issued');
  await authority.writeAdminProfile(adminDir, [...new Set([local, ...addresses()])], certificates);
  const onRenewed = (renewed: typeof credential) => {
    present = renewed;
    door.swapCertificate(renewed);
  };
  const keeper = await group.run(authority.keeper({ certificates, credential, onRenewed, adminDir, coordinators }));
  await group.run(roots.trust);
  await group.run(roots.rotation);
  if (config.mdns) {
    const [host, rootDigest] = [hostOf(config), () => authority.rootDigest];
    advertiser = new Advertiser({ clock, log, name: authority.name, port: door.port, rootDigest, host });
    await group.run(advertiser);
  }
  log.info({ event: 'coordinator.ready', meshId, address: local });
  return {
    meshId,
    caFingerprint: authority.rootDigest,
    address: local,
    adminProfile: adminDir,
    stop: () => group.stop(),
  };
}

/** Where others may reach this coordinator; loopback only when there is nothing else. */
function reachableAt({ advertise, listen }: CoordinatorConfig, port: number): string[] {
  return advertise.length > 0 ? advertise : listeningAt(listen, port);
}

function listeningAt(listen: string, port: number): string[] {
  const wrap = (address: string) => (address.includes(':') ? `[${address}]:${port}` : `${address}:${port}`);
  if (listen !== '::' && listen !== '0.0.0.0') return [wrap(listen)];
  const others = lanAddresses().map(({ address }) => wrap(address));
  return others.length > 0 ? others.slice(0, 16) : [wrap('127.0.0.1')];
}

/** The same after every restart on this data directory: the holder in the lease. */
function coordinatorId(dataDir: string): string {
  const path = join(dataDir, 'coordinator.id');
  const known = existsSync(path) ? readIfExists(path)?.trim() : undefined;
  if (known) return known;
  const made = randomCharacters(16);
  writeFileAtomic(path, `${made}\n`);
  return made;
}
