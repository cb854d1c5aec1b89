/** How the CA directory of a coordinator follows the row that says which roots hold (services/trust.ts). */
import { X509Certificate } from 'node:crypto';
import { existsSync } from 'node:fs';
import type { CaDirectory } from '../ca/directory.js';
import { filesOf } from '../ca/layout.js';
import {
  endorseNextRoot,
  isEndorsed,
  learnNextRoot,
  makeNextIssuer,
  makeNextRoot,
  takeNextRoot,
} from '../ca/next-root.js';
import type { Clock } from '../common/clock.js';
import { MeshError } from '../common/errors.js';
import { readRoots } from '../common/identity/roots.js';
import { type IssuerRenewalOptions, obtainNextIssuer } from './issuer-renewal.js';
import type { TrustRow } from './ports.js';

const digestOf = (pem: string): string => readRoots(pem).digests[0] as string;

const nextDigestOf = (directory: CaDirectory): string | undefined =>
  directory.nextRoot && digestOf(directory.nextRoot.certificate.toString());

/**
 * That this coordinator has not missed a whole rotation: the root that the mesh stands on is known here, and so is an
 * issuer of it, or can be made. Nobody would sign one for the old chain any more.
 * @throws MeshError CONFLICT
 */
export function checkRoots(directory: CaDirectory, { root }: TrustRow): void {
  const digest = digestOf(root);
  if (digest === directory.authority.rootFingerprint) return;
  if (digest === nextDigestOf(directory) && (directory.nextRoot?.authority || makesNext(directory))) return;
  throw new MeshError('CONFLICT', 'the root of this mesh was replaced while this coordinator was off', {
    hint: `move ${directory.directory} away and join again: mesh token create --role coordinator, then --join TOKEN`,
  });
}

/**
 * Makes the other root, PEM, where the key of the present one is, and endorses it with that key; the same one again when
 * it is there already.
 */
export async function prepareNextRoot(
  directory: CaDirectory,
  nowMs: number,
): Promise<{ pem: string; endorsement: string }> {
  let endorsement = '';
  await directory.takeStep((folder, passphrase) => {
    makeNextRoot(folder, directory.authority.meshId, nowMs, passphrase);
    endorsement = endorseNextRoot(folder, passphrase);
  });
  const made = directory.nextRoot?.certificate;
  if (!made) throw new MeshError('INTERNAL', 'the root that was made is not there');
  return { pem: made.toString(), endorsement };
}

/** Whether the key of the root that takes over is here. */
const makesNext = (directory: CaDirectory): boolean => existsSync(filesOf(filesOf(directory.directory).next).rootKey);

const makeIssuerOfNext = (directory: CaDirectory, clock: Clock): Promise<void> =>
  directory.takeStep((folder, passphrase) => makeNextIssuer(folder, clock.wallMs(), passphrase));

/** @throws MeshError while a step cannot be taken */
export async function followTrust(options: IssuerRenewalOptions, state: TrustRow): Promise<void> {
  const { directory, clock } = options;
  checkRoots(directory, state);
  if (digestOf(state.root) === nextDigestOf(directory)) {
    if (makesNext(directory)) await makeIssuerOfNext(directory, clock);
    await directory.takeStep(takeNextRoot);
  }
  const { nextRoot, nextRootEndorsement = '' } = state;
  if (nextRoot === undefined) return;
  if (digestOf(nextRoot) !== nextDigestOf(directory)) {
    const root = new X509Certificate(nextRoot);
    if (!isEndorsed(directory.directory, root, nextRootEndorsement))
      throw new MeshError('BAD_CERTIFICATE', 'the root in the database was not endorsed by the root of this mesh', {
        hint: 'somebody else has written to the database: see mesh-ca rotate status, and who has access to it',
      });
    await directory.takeStep((folder) => learnNextRoot(folder, root));
  }
  if (state.phase !== 'moving' || directory.nextRoot?.authority) return;
  if (makesNext(directory)) await makeIssuerOfNext(directory, clock);
  else await obtainNextIssuer(options, digestOf(nextRoot));
}
