/** `issue` and `renew`: key, request, certificate, files, in an order that leaves nothing half-made. */
import { randomBytes } from 'node:crypto';
import { chainFromPem } from '../common/identity/chain.js';
import { fieldsOf, fingerprintOf } from '../common/identity/check.js';
import { makeCsr } from '../common/identity/csr.js';
import { MeshError } from '../common/errors.js';
import type { Desk, DeskAnswer } from './desk.js';
import { type KeyPair, makeKeyPair } from './keys.js';
import { nameText } from './names.js';
import { prepareTarget, readPasswordFile, type Target, type TargetPaths, writeIssued } from './output.js';
import { assertPkcs12Password, buildPkcs12 } from './x509/pkcs12.js';

export interface Outcome {
  name: string;
  role: string;
  identity: string;
  serial: string;
  fingerprint: string;
  notBefore: string;
  notAfter: string;
  files: TargetPaths;
}

/** Where the password of a PKCS#12 file comes from: a file, the environment, or chance; then it is told once. */
export function pkcs12Password(file: string | undefined, environment: NodeJS.ProcessEnv): string {
  const given = file === undefined ? environment.MESH_P12_PASSWORD || undefined : readPasswordFile(file);
  if (given !== undefined) {
    assertPkcs12Password(given);
    return given;
  }
  const made = randomBytes(15).toString('base64url');
  process.stderr.write(`the password of the PKCS#12 file, shown only this once: ${made}\n`);
  return made;
}

/**
 * @param ask hands the request to whoever certifies it
 * @param desk told to revoke the certificate when its files cannot be written; a renewal passes none, since the
 * certificate before it still stands
 */
export async function issueInto(
  target: Target,
  password: string | undefined,
  ask: (csr: Buffer) => Promise<DeskAnswer>,
  desk: Desk | undefined,
): Promise<Outcome> {
  prepareTarget(target);
  const pair = makeKeyPair();
  const given = await ask(makeCsr(pair.privateKey, target.name));
  const [leaf] = chainFromPem(given.chainPem);
  if (!leaf) throw new MeshError('INTERNAL', 'a chain without a leaf');
  const fields = fieldsOf(leaf);
  let files: TargetPaths;
  try {
    const p12 = password === undefined ? undefined : envelope(target.name, pair, given, password);
    files = writeIssued(target, { ...given, keyPem: pair.privateKeyPem, p12 });
  } catch (error) {
    await desk?.revoke(fields.serial).catch(() => undefined);
    throw error;
  }
  const [identity = ''] = fields.alternativeNames.map(nameText).filter((name) => name.startsWith('URI:'));
  return {
    name: target.name,
    role: identity.split('/').at(-2) ?? '',
    identity: identity.slice('URI:'.length),
    serial: fields.serial,
    fingerprint: fingerprintOf(leaf),
    notBefore: new Date(fields.notBeforeMs).toISOString(),
    notAfter: new Date(fields.notAfterMs).toISOString(),
    files,
  };
}

function envelope(name: string, pair: KeyPair, given: DeskAnswer, password: string): Buffer {
  const chain = [...chainFromPem(given.chainPem), ...chainFromPem(given.rootPem)];
  return buildPkcs12({ key: pair.privateKey, chain, friendlyName: name, password });
}
