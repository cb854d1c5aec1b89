/** Machines that wait for approval, with the words by which people tell their keys. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { readRoots } from '../common/identity/roots.js';
import type { MeshConnection } from '../sdk/connect.js';
import { type WaitingShape, waitingShape } from '../sdk/shapes.js';

export interface Waiting {
  shown: WaitingShape;
  /** SubjectPublicKeyInfo: what a decision names. */
  publicKey: Buffer;
}

/** The words are worked out here, from the key the coordinator holds and the root of the profile. */
export async function listWaiting({ nodes, profile }: Pick<MeshConnection, 'nodes' | 'profile'>): Promise<Waiting[]> {
  const [rootDigest = ''] = readRoots(readFileSync(join(profile.directory, 'ca.crt'), 'utf8')).digests;
  const { items } = await nodes.listWaiting({});
  return items.map((item) => ({ shown: waitingShape(item, rootDigest), publicKey: item.publicKey }));
}
