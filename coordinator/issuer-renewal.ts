/**
 * Renews the intermediate of a coordinator that has no root key: with a new key, at whichever coordinator has the root's.
 * An intermediate lives for a year and is due after half of it, so it is asked for hourly for months; what the old one
 * signed stays valid to its end. While the root is being replaced an intermediate of the next one is got in the same way.
 */
import type { KeyObject } from 'node:crypto';
import { type CaDirectory, issuerRenewalDue } from '../ca/directory.js';
import { adoptNextIssuer } from '../ca/next-root.js';
import type { Clock } from '../common/clock.js';
import { MeshError } from '../common/errors.js';
import { makeCsr } from '../common/identity/csr.js';
import { fieldsOf } from '../common/identity/check.js';
import type { Logger } from '../common/log.js';
import type { Credential } from '../link/credentials.js';
import { CaServiceClient, type RenewIssuerRequest, type RenewIssuerResponse } from '../proto/gen/mesh/v1/ca.js';
import { callPeer } from './peer-call.js';

export interface IssuerRenewalOptions {
  directory: CaDirectory;
  credential: () => Credential;
  /** All coordinators, as `host:port`. */
  coordinators: () => readonly string[];
  clock: Clock;
  log: Logger;
}

/** @throws MeshError with what each coordinator said, when none of them renewed an intermediate that is due */
export async function renewIssuer(options: IssuerRenewalOptions): Promise<void> {
  const { directory, clock } = options;
  const nowMs = clock.wallMs();
  if (directory.hasRootKey) return void (await directory.renewIssuerIfDue(nowMs));
  if (!issuerRenewalDue(directory.authority.issuer, nowMs)) return;
  // An operator may have installed one (mesh-ca issuer install).
  directory.reload();
  if (!issuerRenewalDue(directory.authority.issuer, nowMs)) return;
  await askAll(options, directory.keyForNextIssuer(), '', (issuer) => directory.adoptIssuer(issuer));
}

/**
 * Gets an intermediate of the root that takes over.
 * @throws MeshError with what each coordinator said, when none of them signed it
 */
export function obtainNextIssuer(options: IssuerRenewalOptions, rootDigest: string): Promise<void> {
  const { directory } = options;
  return askAll(options, directory.keyForNextRoot(), rootDigest, (issuer) =>
    directory.takeStep((folder, passphrase) => adoptNextIssuer(folder, issuer, passphrase)),
  );
}

/**
 * @param key the one to be certified
 * @param rootDigest of the root that is to sign; '' for the present one
 */
async function askAll(
  options: IssuerRenewalOptions,
  key: KeyObject,
  rootDigest: string,
  adopt: (issuerPem: string) => Promise<void>,
): Promise<void> {
  const { coordinators, directory, log } = options;
  const request = { csr: makeCsr(key, 'issuer'), root: rootDigest };
  const refusals: string[] = [];
  for (const address of coordinators()) {
    try {
      await adopt(await ask(address, request, options));
      return log.info({ event: 'issuer.renewed', coordinator: address });
    } catch (error) {
      refusals.push(`${address}: ${(error as Error).message}`);
    }
  }
  const endsAt = new Date(fieldsOf(directory.authority.issuer).notAfterMs).toISOString();
  const what =
    rootDigest === ''
      ? `the intermediate of this coordinator ends on ${endsAt} and nobody renews it`
      : 'nobody gives this coordinator an intermediate of the new root';
  throw new MeshError('CONFLICT', `${what} (${refusals.join('; ')})`, {
    hint: 'start the coordinator whose data directory holds ca/ca.key, bring the key back (mesh-ca root import), or have a request signed where it is (mesh-ca issuer request)',
  });
}

async function ask(
  address: string,
  request: RenewIssuerRequest,
  { credential, directory, clock }: IssuerRenewalOptions,
): Promise<string> {
  const peer = { address, credential: credential(), meshId: directory.authority.meshId, clock };
  const { issuer } = await callPeer<CaServiceClient, RenewIssuerResponse>(peer, CaServiceClient, (client, ...rest) =>
    client.renewIssuer(request, ...rest),
  );
  return issuer;
}
