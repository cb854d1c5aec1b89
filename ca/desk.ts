/** What `mesh-ca` asks of an authority, be it a directory on this machine or a coordinator. */
import type { Role } from '../common/identity/identity.js';
import { systemClock } from '../common/clock.js';
import { MeshError } from '../common/errors.js';
import { chainFromPem } from '../common/identity/chain.js';
import { fieldsOf } from '../common/identity/check.js';
import { askedLifetimeMs } from '../common/identity/profile.js';
import type { PassphraseSource } from '../common/passphrase.js';
import { type CaDirectory, type IndexEntry, openDirectory } from './directory.js';
import { hostsIn } from './names.js';
import { unlock } from './unlock.js';

export interface DeskRequest {
  role: Role;
  name: string;
  /** DER. */
  csr: Buffer;
  dnsNames: string[];
  ipAddresses: string[];
  days: number | undefined;
}

export interface DeskCertificate {
  serial: string;
  role: string;
  name: string;
  fingerprint: string;
  notBeforeMs: number;
  notAfterMs: number;
  revokedAtMs: number | undefined;
}

export interface DeskAnswer {
  /** Leaf, then intermediate; PEM. */
  chainPem: string;
  rootPem: string;
}

export interface Desk {
  issue(request: DeskRequest): Promise<DeskAnswer>;
  list(): Promise<DeskCertificate[]>;
  /** What is revoked now that was not before. */
  revoke(nameOrSerial: string): Promise<DeskCertificate[]>;
  /** A fresh revocation list, DER. */
  crl(): Promise<Buffer>;
  close(): Promise<void>;
}

export interface RemoteOptions {
  profile?: string | undefined;
  coordinator?: string | undefined;
}

/** Paths of a certificate and its key. */
export interface OwnFiles {
  certificate: string;
  key: string;
}

/** How far the replacement of the root is; as the coordinator says it. */
export interface RotationAnswer {
  phase: string;
  root: string;
  /** Empty when there is none. */
  nextRoot: string;
  startedAtMs?: number | undefined;
  done: number;
  laggards: { role: string; name: string; live: boolean; untilMs: number; missing: string }[];
  canFinish: boolean;
}

export interface RotationDesk {
  start(): Promise<RotationAnswer>;
  get(): Promise<RotationAnswer>;
  finish(force: boolean): Promise<RotationAnswer>;
  close(): Promise<void>;
}

/** What ca/remote.ts offers; loaded only when a command goes through the coordinator. */
export interface Remote {
  openRemoteDesk: (options: RemoteOptions) => Promise<Desk>;
  openRotationDesk: (options: RemoteOptions) => Promise<RotationDesk>;
  renewOwn: (own: OwnFiles, csr: Buffer, options: RemoteOptions) => Promise<DeskAnswer>;
}

const DAY_MS = 86_400_000;

const shown = (entry: IndexEntry): DeskCertificate => ({ ...entry, revokedAtMs: entry.revokedAtMs });

/** Opens a CA directory to issue from and renews its issuer when that is due. @throws MeshError as `openDirectory` */
export async function openDesk(directory: string, passphrase: PassphraseSource): Promise<DirectoryDesk> {
  const opened = openDirectory(directory, systemClock, await unlock(directory, passphrase));
  await opened.renewIssuerIfDue(systemClock.wallMs());
  return new DirectoryDesk(opened);
}

/** One to look things up and to revoke in, which takes no key. */
export const openFilingDesk = (directory: string): DirectoryDesk => new DirectoryDesk(openDirectory(directory));

export class DirectoryDesk implements Desk {
  constructor(readonly directory: CaDirectory) {}

  issue(request: DeskRequest): Promise<DeskAnswer> {
    const lifetime = request.days === undefined ? {} : { lifetimeMs: request.days * DAY_MS };
    return this.#issue(request, lifetime, false);
  }

  /**
   * The same identity again, for a new key: names as before, and for as long as was asked for then, unless `days` says
   * otherwise.
   * @throws MeshError NOT_FOUND, USAGE when the name stands for several roles, REVOKED
   */
  renew(name: string, role: Role | undefined, csr: Buffer, days: number | undefined): Promise<DeskAnswer> {
    const entry = this.#renewable(name, role);
    const hosts = hostsIn(
      chainFromPem(entry.pem)
        .slice(0, 1)
        .flatMap((leaf) => fieldsOf(leaf).alternativeNames),
    );
    const lifetimeMs = days === undefined ? askedLifetimeMs(entry) : days * DAY_MS;
    const lifetime = lifetimeMs === undefined ? {} : { lifetimeMs };
    return this.#issue({ role: entry.role, name, csr, ...hosts, days }, lifetime, true);
  }

  list(): Promise<DeskCertificate[]> {
    return Promise.resolve(this.directory.list().map(shown));
  }

  async revoke(nameOrSerial: string): Promise<DeskCertificate[]> {
    return (await this.directory.revoke(nameOrSerial, systemClock.wallMs())).map(shown);
  }

  async crl(): Promise<Buffer> {
    return (await this.directory.signCrl([], systemClock.wallMs())).der;
  }

  close(): Promise<void> {
    return Promise.resolve();
  }

  async #issue(request: DeskRequest, lifetime: { lifetimeMs?: number }, sameHolder: boolean): Promise<DeskAnswer> {
    const { role, name, csr, dnsNames, ipAddresses } = request;
    const wish = { role, name, csrDer: csr, dnsNames, ipAddresses, ...lifetime, nowMs: systemClock.wallMs() };
    const issued = await this.directory.issue(wish, { sameHolder });
    return { chainPem: issued.pem, rootPem: this.directory.rootsPem };
  }

  #renewable(name: string, role: Role | undefined): IndexEntry {
    const ofName = this.directory.list().filter((entry) => entry.name === name && (!role || entry.role === role));
    const roles = [...new Set(ofName.map((entry) => entry.role))];
    const latest = ofName.at(-1);
    if (!latest)
      throw new MeshError('NOT_FOUND', `no certificate was issued here to ${JSON.stringify(name)}`, {
        hint: 'list them: mesh-ca list; or issue a first one: mesh-ca issue',
      });
    if (roles.length > 1)
      throw new MeshError('USAGE', `${name} stands for several roles (${roles.join(', ')})`, {
        hint: 'name one with --role',
      });
    if (latest.revokedAtMs !== undefined)
      throw new MeshError('REVOKED', `the certificate of ${latest.role} ${name} is revoked and is not renewed`, {
        hint: 'issue a new one: mesh-ca issue',
      });
    return latest;
  }
}
