import { X509Certificate } from 'node:crypto';
import { test } from 'tap';
import { makeTestMesh } from '../../test/support/test-mesh.js';
import { chainFromPem, checkIssuer, verifyChain } from './chain.js';

const NOW_MS = Date.parse('2027-01-01T00:00:00Z');
const YEAR_MS = 365 * 86_400_000;

/** Two of one name, so that only keys and signatures tell them apart. */
const [ours, theirs] = [makeTestMesh('lab', NOW_MS), makeTestMesh('lab', NOW_MS)];
const rootsOf = ({ authority }: typeof ours) => [new X509Certificate(authority.rootPem)];
const chainOf = (mesh: typeof ours) => chainFromPem(mesh.credential('agent', 'attic').certificateChain);
const reasonOf = (act: () => void): string => {
  try {
    act();
    return 'accepted';
  } catch (error) {
    return (error as Error).message;
  }
};

test('an issuer that was good once is asked again for everything but its bytes', async (t) => {
  const [roots, chain] = [rootsOf(ours), chainOf(ours)];
  const verify = (presented = chain, trusted = roots, nowMs = NOW_MS) =>
    reasonOf(() => verifyChain(presented, trusted, nowMs));
  t.equal(verify(), 'accepted');
  t.equal(verify(), 'accepted', 'known by now');
  t.match(verify(chain, roots, NOW_MS + 2 * YEAR_MS), /the issuer certificate of lab has expired/);
  t.match(verify(chain, roots, NOW_MS + 20 * YEAR_MS), /the root certificate of lab has expired/);
  t.match(verify(chain, roots, NOW_MS - YEAR_MS), /not valid yet/);
  t.match(verify(chain, rootsOf(theirs)), /does not lead to the root/, 'another root did not sign it');
  t.match(verify(chain, []), /does not lead to the root/, 'its root is trusted no more');
  t.equal(verify(chain, [...rootsOf(theirs), ...roots]), 'accepted');
  const [foreign] = chainOf(theirs);
  const [, issuer] = chain;
  t.match(verify([foreign as X509Certificate, issuer as X509Certificate]), /not signed by the issuer beside it/);
  t.equal(verify(), 'accepted');
});

test('whether a root still vouches for an issuer', async (t) => {
  const [, issuer] = chainOf(ours) as [X509Certificate, X509Certificate];
  const check = (trusted: X509Certificate[], nowMs = NOW_MS) => reasonOf(() => checkIssuer(issuer, trusted, nowMs));
  t.equal(check(rootsOf(ours)), 'accepted');
  t.match(check(rootsOf(theirs)), /does not lead to the root/);
  t.match(check(rootsOf(ours), NOW_MS + 2 * YEAR_MS), /has expired/);
});
