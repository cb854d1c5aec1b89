/**
 * Keeps a person's certificate alive from whatever command runs when its time has come (50 to 80 % of its life), or when
 * the mesh asks for it because it replaces its root. Best
 * effort: a profile that cannot be written, or a coordinator that is away, costs nothing but another try next time. One
 * command renews at a time; two writing at once could leave a key beside the certificate of another.
 */
import { X509Certificate } from 'node:crypto';
import { closeSync, openSync, rmSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { type Clock, systemClock } from '../common/clock.js';
import { renewalAtMs } from '../common/identity/profile.js';
import { CredentialStore } from '../link/credential-store.js';
import type { Issued } from '../link/renewal.js';

/** A lock this old was left behind by a crash. */
const LOCK_MS_MAX = 60_000;
/** How long a command that is done waits for a renewal it began. */
const STOP_MS_MAX = 3000;

export interface KeptRenewed {
  /** Renews now, whatever the dates say; once. */
  now(): void;
  stop(): Promise<void>;
}

export function keepRenewed(
  directory: string,
  issue: (csr: Uint8Array) => Promise<Issued>,
  clock: Clock = systemClock,
): KeptRenewed {
  let running: Promise<void> | undefined;
  const begin = (isDue: () => boolean) => {
    running ??= renew(directory, issue, isDue, clock).catch(() => undefined);
  };
  const timer = clock.after(dueInMs(directory, clock), () => begin(() => dueInMs(directory, clock) <= 0), {
    background: true,
  });
  const before = certificateIn(directory);
  return {
    now: () => begin(() => certificateIn(directory) === before),
    stop: async () => {
      timer.cancel();
      if (!running) return;
      let late: { cancel(): void } | undefined;
      const patience = new Promise<void>((resolve) => {
        late = clock.after(STOP_MS_MAX, resolve);
      });
      await Promise.race([running, patience]);
      late?.cancel();
    },
  };
}

function dueInMs(directory: string, clock: Clock): number {
  try {
    const credential = new CredentialStore(directory, 'client').load();
    if (!credential) return Number.POSITIVE_INFINITY;
    const certificate = new X509Certificate(credential.certificateChain);
    const dates = {
      notBeforeMs: Date.parse(certificate.validFrom),
      notAfterMs: Date.parse(certificate.validTo),
      fingerprint: certificate.fingerprint256.replaceAll(':', '').toLowerCase(),
    };
    return renewalAtMs(dates) - clock.wallMs();
  } catch {
    return Number.POSITIVE_INFINITY;
  }
}

function certificateIn(directory: string): string | undefined {
  try {
    return new CredentialStore(directory, 'client').load()?.certificateChain;
  } catch {
    return undefined;
  }
}

async function renew(
  directory: string,
  issue: (csr: Uint8Array) => Promise<Issued>,
  isDue: () => boolean,
  clock: Clock,
): Promise<void> {
  const lock = join(directory, 'renewal.lock');
  if (!takeLock(lock, clock)) return;
  try {
    // Another command may have renewed since we looked.
    if (!isDue()) return;
    const [{ makeCsr }, { makeKeyPair }] = await Promise.all([
      import('../common/identity/csr.js'),
      import('../common/identity/keys.js'),
    ]);
    const { privateKey, privateKeyPem } = makeKeyPair();
    const { certificateChain, root } = await issue(makeCsr(privateKey, 'renewal'));
    new CredentialStore(directory, 'client').save({ certificateChain, privateKey: privateKeyPem, root });
  } finally {
    rmSync(lock, { force: true });
  }
}

function takeLock(path: string, clock: Clock): boolean {
  const ageMs = () => clock.wallMs() - (statSync(path, { throwIfNoEntry: false })?.mtimeMs ?? 0);
  if (ageMs() > LOCK_MS_MAX) rmSync(path, { force: true });
  try {
    closeSync(openSync(path, 'wx', 0o600));
    return true;
  } catch {
    return false;
  }
}
