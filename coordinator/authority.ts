/**
 * The bundled CA inside the coordinator: opens or makes the CA directory, signs for the services, and keeps the
 * coordinator's own certificate and the first operator's profile alive. The coordinator's leaf is made at every start
 * with the host names and addresses of that moment and lives in memory alone.
 */
import type { KeyObject } from 'node:crypto';
import { existsSync } from 'node:fs';
import { hostname } from 'node:os';
import { join } from 'node:path';
import { CRL_LIFETIME_MS } from '../ca/crl.js';
import { type CaDirectory, initDirectory, openDirectory } from '../ca/directory.js';
import type { Clock } from '../common/clock.js';
import { toMeshError } from '../common/errors.js';
import { writeFileAtomic } from '../common/files.js';
import { nameFrom } from '../common/ids.js';
import { fieldsOf, fingerprintOf } from '../common/identity/check.js';
import { makeCsr, readCsr } from '../common/identity/csr.js';
import { readRoots } from '../common/identity/roots.js';
import { makeKeyPair, publicKeyDigest } from '../common/identity/keys.js';
import { lanAddresses } from '../common/interfaces.js';
import type { Service } from '../common/lifecycle.js';
import { ServiceGroup } from '../common/lifecycle.js';
import type { Logger } from '../common/log.js';
import { Loop } from '../common/loop.js';
import type { Passphrase } from '../common/passphrase.js';
import type { Credential } from '../link/credentials.js';
import { CredentialStore } from '../link/credential-store.js';
import { expiredAtMs } from '../link/recover.js';
import { Renewal } from '../link/renewal.js';
import { IndexWatch } from './index-watch.js';
import { renewIssuer } from './issuer-renewal.js';
import type { CertificateRow, CertificateStore } from './ports.js';
import type { Crl, Issued, Signer } from './services/issuance.js';
import { lifetimeOf, type LifetimeSettings } from './services/lifetimes.js';

const ISSUER_CHECK_MS = 3_600_000;
const ADMIN = 'admin';

export interface Keeper extends Service {
  reissue(): Promise<void>;
  /** Of this coordinator, now. */
  credential(): Credential;
}

export class EmbeddedAuthority implements Signer {
  private constructor(
    readonly directory: CaDirectory,
    private readonly lifetimes: LifetimeSettings,
    private readonly clock: Clock,
    private readonly log: Logger,
    /** This coordinator's name in its certificate. */
    readonly name: string,
  ) {}

  static isIn(dataDir: string): boolean {
    return existsSync(join(dataDir, 'ca', 'ca.crt'));
  }

  static async open(
    dataDir: string,
    options: {
      name: string | undefined;
      passphrase: Passphrase | undefined;
      lifetimes: LifetimeSettings;
      clock: Clock;
      log: Logger;
    },
  ): Promise<EmbeddedAuthority> {
    const path = join(dataDir, 'ca');
    const { clock, log, passphrase } = options;
    const directory = EmbeddedAuthority.isIn(dataDir)
      ? openDirectory(path, clock, passphrase)
      : await initDirectory(path, { nowMs: clock.wallMs(), clock, passphrase });
    if (passphrase && !directory.isSealed)
      log.warn(
        { event: 'ca.keys-unencrypted' },
        `a passphrase was given, but the keys in ${path} are not encrypted; set it: mesh-ca passphrase set --dir ${path}`,
      );
    await directory.renewIssuerIfDue(clock.wallMs());
    const name = options.name ?? nameFrom(hostname(), 'coordinator');
    return new EmbeddedAuthority(directory, options.lifetimes, clock, log, name);
  }

  /** A key file beside the CA's own. */
  readKey(name: string): KeyObject | undefined {
    return this.directory.readKey(name);
  }

  writeKey(name: string, key: KeyObject): void {
    this.directory.writeKey(name, key);
  }

  get meshId(): string {
    return this.directory.authority.meshId;
  }

  get rootPem(): string {
    return this.directory.rootsPem;
  }

  get rootDigest(): string {
    return this.directory.authority.rootFingerprint;
  }

  /** When they end. */
  get authorities(): { role: 'issuer' | 'root'; name: string; notAfterMs: number }[] {
    const roots = readRoots(this.rootPem).certificates.map((root) => ({
      ...{ role: 'root' as const, name: fingerprintOf(root).slice(0, 16), notAfterMs: fieldsOf(root).notAfterMs },
    }));
    const { notAfterMs } = fieldsOf(this.directory.issuing.issuer);
    return [{ role: 'issuer', name: this.name, notAfterMs }, ...roots];
  }

  get rootDigests(): readonly string[] {
    return this.directory.rootDigests;
  }

  publicKeyDigest(csr: Uint8Array): string {
    return publicKeyDigest(readCsr(csr).publicKeyDer);
  }

  get hasRootKey(): boolean {
    return this.directory.hasRootKey;
  }

  signIssuer(csr: Uint8Array, nowMs: number, rootDigest?: string): string {
    return this.directory.signIssuer(readCsr(csr).publicKeyDer, nowMs, rootDigest);
  }

  sign(request: Parameters<Signer['sign']>[0]): Issued {
    const { csr, role, name, lifetimeMs, nowMs } = request;
    // Coordinators present the root that everybody knows, until the one that takes over has done so.
    const authority = role === 'coordinator' ? this.directory.authority : this.directory.issuing;
    const { pem, ...issued } = authority.issue({
      csrDer: csr,
      role,
      name,
      nowMs,
      ...(lifetimeMs === undefined ? {} : { lifetimeMs }),
      ...(role === 'coordinator' ? hostNames() : {}),
    });
    return { ...issued, chainPem: pem };
  }

  readonly crlLifetimeMs = CRL_LIFETIME_MS;

  signCrl(revoked: readonly CertificateRow[], nowMs: number): Promise<Crl> {
    const entries = revoked.map((row) => {
      const { tokenId: _, ...entry } = row;
      return entry;
    });
    return this.directory.signCrl(entries, nowMs);
  }

  /** Takes over what `mesh-ca` issues or revokes in the directory. */
  indexWatch(certificates: CertificateStore, revoke: (serial: string) => Promise<unknown>): Service {
    const { directory, clock, log } = this;
    return new IndexWatch({ directory, certificates, revoke, clock, log });
  }

  /** A fresh certificate of this coordinator. */
  async ownCredential(certificates: CertificateStore): Promise<Credential> {
    return this.#issueOwn('coordinator', this.name, certificates);
  }

  /**
   * Keeps the issuer, the coordinator's own certificate and the operator's profile alive. `reissue` makes the latter two
   * anew, after a change of the roots.
   */
  keeper(options: {
    certificates: CertificateStore;
    credential: Credential;
    onRenewed: (credential: Credential) => void;
    adminDir: string;
    /** All coordinators, as `host:port`: where an intermediate is renewed when the root's key is not here. */
    coordinators: () => readonly string[];
  }): Keeper {
    const { certificates, credential, adminDir, coordinators } = options;
    const { clock, log, directory } = this;
    let present = credential;
    const onRenewed = (renewed: Credential) => {
      present = renewed;
      options.onRenewed(renewed);
    };
    const credentialNow = () => present;
    const group = new ServiceGroup('authority');
    group.add(
      new Loop({
        name: 'authority.issuer',
        clock,
        everyMs: ISSUER_CHECK_MS,
        turn: () => renewIssuer({ directory, credential: credentialNow, coordinators, clock, log }),
        onError: (error) => {
          const { message, hint } = toMeshError(error);
          log.error({ event: 'issuer.renewal-failed', err: error }, `${message}; ${hint}`);
        },
      }),
    );
    const kept: (() => Promise<void>)[] = [];
    const keep = (
      credential: Credential,
      role: 'coordinator' | 'operator',
      name: string,
      onRenewed: (credential: Credential) => void,
    ) => {
      const renewal = new Renewal({
        ...{ clock, log, credential, onRenewed },
        issue: async (csr) => this.#record(csr, role, name, certificates),
      });
      group.add(renewal);
      kept.push(async () => {
        const fresh = await this.#issueOwn(role, name, certificates);
        onRenewed(fresh);
        renewal.adopt(fresh);
      });
    };
    keep(credential, 'coordinator', this.name, onRenewed);
    const store = new CredentialStore(adminDir, 'client');
    const admin = store.load();
    if (admin) keep(admin, 'operator', ADMIN, (renewed) => store.save(renewed));
    const reissue = async () => {
      for (const each of kept) await each();
    };
    return Object.assign(group, { reissue, credential: credentialNow });
  }

  /** The first operator's profile, made once; its addresses follow the port. */
  async writeAdminProfile(adminDir: string, addresses: string[], certificates: CertificateStore): Promise<void> {
    const store = new CredentialStore(adminDir, 'client');
    const usable = store.load();
    if (!usable || usable.root !== this.rootPem || expiredAtMs(usable) <= this.clock.wallMs())
      store.save(await this.#issueOwn('operator', ADMIN, certificates));
    const profile = { meshId: this.meshId, coordinators: addresses };
    writeFileAtomic(join(adminDir, 'profile.json'), `${JSON.stringify(profile, null, 2)}\n`, 0o600);
  }

  async #issueOwn(role: 'coordinator' | 'operator', name: string, certificates: CertificateStore): Promise<Credential> {
    const { privateKey, privateKeyPem } = makeKeyPair();
    const { certificateChain, root } = await this.#record(makeCsr(privateKey, name), role, name, certificates);
    return { certificateChain, privateKey: privateKeyPem, root };
  }

  async #record(
    csr: Uint8Array,
    role: 'coordinator' | 'operator',
    name: string,
    certificates: CertificateStore,
  ): Promise<{ certificateChain: string; root: string }> {
    const lifetimeMs = lifetimeOf(role, this.lifetimes);
    const issued = this.sign({ csr, role, name, lifetimeMs, nowMs: this.clock.wallMs() });
    const { chainPem: pem, ...row } = issued;
    const trusts = this.rootDigests;
    await certificates.record(
      { ...row, role, name, pem, trusts, revokedAtMs: undefined, tokenId: undefined },
      { sameHolder: true },
    );
    return { certificateChain: pem, root: this.rootPem };
  }
}

/** For browsers and Prometheus; mesh peers never look at these. */
function hostNames(): { dnsNames: string[]; ipAddresses: string[] } {
  const name = hostname().toLowerCase();
  return {
    dnsNames: [...new Set(['localhost', name, `${name.split('.')[0]}.local`])].filter((host) =>
      /^[a-z0-9.-]+$/.test(host),
    ),
    ipAddresses: ['127.0.0.1', '::1', ...lanAddresses().map(({ address }) => address)].slice(0, 60),
  };
}
