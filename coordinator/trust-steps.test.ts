import { createPublicKey } from 'node:crypto';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type Test, test } from 'tap';
import { initAdopted, initDirectory, keyForIssuer, openDirectory } from '../ca/directory.js';
import { systemClock } from '../common/clock.js';
import { silentLogger } from '../common/log.js';
import type { TrustRow } from './ports.js';
import { followTrust, prepareNextRoot } from './trust-steps.js';

const NOW_MS = Date.now();

/** A directory with the root's key, and one of another coordinator that has none. */
async function twoCoordinators(t: Test) {
  const folder = mkdtempSync(join(tmpdir(), 'mesh-trust-'));
  t.teardown(() => rmSync(folder, { recursive: true, force: true }));
  const first = await initDirectory(join(folder, 'first'), { nowMs: NOW_MS });
  const path = join(folder, 'second');
  const key = createPublicKey(keyForIssuer(path, undefined));
  const issuerPem = first.signIssuer(key.export({ type: 'spki', format: 'der' }), NOW_MS);
  const { rootPem } = first.authority;
  await initAdopted(path, { rootPem, issuerPem, nowMs: NOW_MS, passphrase: undefined });
  return { folder, first, second: openDirectory(path) };
}

test('a root is taken over from the database only if the present one has endorsed it', async (t) => {
  const { folder, first, second } = await twoCoordinators(t);
  const follow = (over: Partial<TrustRow>) => {
    const row = { generation: 2, phase: 'spreading', root: first.authority.rootPem, startedAtMs: NOW_MS } as const;
    const credential = () => ({ certificateChain: '', privateKey: '', root: '' });
    const rest = { credential, coordinators: () => [], clock: systemClock, log: silentLogger };
    const none = { nextRoot: undefined, nextRootEndorsement: undefined };
    return followTrust({ directory: second, ...rest }, { ...row, ...none, ...over });
  };
  const trusted = [...second.rootDigests];
  const { pem: nextRoot, endorsement } = await prepareNextRoot(first, NOW_MS);
  const foreign = await initDirectory(join(folder, 'foreign'), { meshId: first.authority.meshId, nowMs: NOW_MS });
  const theirs = await prepareNextRoot(foreign, NOW_MS);
  const forged: [string, Partial<TrustRow>][] = [
    ['not endorsed', { nextRoot: foreign.authority.rootPem, nextRootEndorsement: '' }],
    ['endorsed by itself', { nextRoot: theirs.pem, nextRootEndorsement: theirs.endorsement }],
    ['with the endorsement of another', { nextRoot: theirs.pem, nextRootEndorsement: endorsement }],
    ['with none', { nextRoot }],
  ];
  for (const [what, row] of forged) {
    await t.rejects(follow(row), { code: 'BAD_CERTIFICATE', message: /not endorsed by the root of this mesh/ }, what);
    t.same(second.rootDigests, trusted, `${what}: nothing else is trusted`);
  }
  await follow({ nextRoot, nextRootEndorsement: endorsement });
  t.equal(second.rootDigests.length, 2);
});
