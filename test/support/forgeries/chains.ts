import { X509Certificate } from 'node:crypto';
import { basicConstraints, extendedKeyUsage, keyUsage, uriName, subjectAltName } from '../../../ca/x509/certificate.js';
import { EXTENDED_KEY_USAGE_OIDS, EXTENSION_OIDS } from '../../../common/identity/profile.js';
import { writeDer, writeSequence, writeTime } from '../../../common/identity/der.js';
import { fieldsOf } from '../../../common/identity/check.js';
import { makeKeyPair } from '../../../common/identity/keys.js';
import type { Certified } from '../../../ca/authority.js';
import type { Role } from '../../../common/identity/identity.js';
import { type Change, Forger, type Forged, withExtension, withoutExtension } from '../forger.js';

/** A chain that does not lead from a good leaf to the root of this mesh, however good it looks. */
export interface CrookedChain {
  what: string;
  /** The leaf for this role, and what is presented above it. */
  build: (forger: Forger, role: Role) => { leaf: Forged; above: X509Certificate[] };
  reason: RegExp;
  threat?: string;
}

const YEAR_MS = 365 * 86_400_000;
const { clientAuth } = EXTENDED_KEY_USAGE_OIDS;

const signedBy =
  ({ certificate, privateKey }: Certified): Change =>
  () => ({ issuer: fieldsOf(certificate).subjectDer, signer: privateKey });

/** A leaf of an intermediate that differs from the profile of one. */
const below =
  (change: Change): CrookedChain['build'] =>
  (forger, role) => {
    const issuer = forger.authorityBelow(forger.root, change);
    return { leaf: forger.leaf(role, signedBy(issuer)), above: [issuer.certificate] };
  };

/** A whole mesh of the same name, made by somebody else. */
const impostor = (forger: Forger): Forger => new Forger(forger.meshId, forger.nowMs);

/** A leaf that behaves as if it were an issuer, and one that it signed. */
function leafAsIssuer(forger: Forger, role: Role, change: Change = () => ({})) {
  const pair = makeKeyPair();
  const { der } = forger.leaf('agent', change, pair);
  const usurper = { ...pair, certificate: new X509Certificate(der) };
  return { leaf: forger.leaf(role, signedBy(usurper)), usurper: usurper.certificate };
}

export const CHAINS: readonly CrookedChain[] = [
  {
    what: 'another root of the same name',
    build: (forger, role) => {
      const other = impostor(forger);
      return { leaf: other.leaf(role), above: [other.issuer.certificate] };
    },
    reason: /does not lead to the root/,
    threat: 'A5',
  },
  {
    what: 'an intermediate of another root above a leaf of ours',
    build: (forger, role) => ({ leaf: forger.leaf(role), above: [impostor(forger).issuer.certificate] }),
    reason: /does not lead to the root/,
  },
  {
    what: 'our intermediate above a leaf of another',
    build: (forger, role) => ({ leaf: impostor(forger).leaf(role), above: [forger.issuer.certificate] }),
    reason: /not signed by the issuer beside it/,
  },
  {
    what: 'signed by itself',
    build: (forger, role) => {
      const pair = makeKeyPair();
      const own: Change = ({ subject }) => ({ issuer: subject, signer: pair.privateKey });
      return { leaf: forger.leaf(role, own, pair), above: [] };
    },
    reason: /0 intermediate/,
    threat: 'A5',
  },
  {
    what: 'signed by the root itself',
    build: (forger, role) => ({ leaf: forger.leaf(role, signedBy(forger.root)), above: [] }),
    reason: /0 intermediate/,
  },
  {
    what: 'a leaf as the issuer',
    build: (forger, role) => {
      const { leaf, usurper } = leafAsIssuer(forger, role);
      return { leaf, above: [usurper] };
    },
    reason: /does not lead to the root/,
    threat: 'A7',
  },
  {
    what: 'a leaf as the issuer, below the real one',
    build: (forger, role) => {
      const { leaf, usurper } = leafAsIssuer(forger, role);
      return { leaf, above: [usurper, forger.issuer.certificate] };
    },
    reason: /2 intermediate/,
    threat: 'A7',
  },
  {
    what: 'a leaf that calls itself an authority as the issuer',
    build: (forger, role) => {
      const authority: Change = (draft, ...rest) => ({
        ...withExtension(keyUsage(['keyCertSign']))(draft, ...rest),
        extensions: draft.extensions.map((usual) =>
          usual.oid === EXTENSION_OIDS.basicConstraints ? basicConstraints(true) : usual,
        ),
      });
      const { leaf, usurper } = leafAsIssuer(forger, role, authority);
      return { leaf, above: [usurper, forger.issuer.certificate] };
    },
    reason: /2 intermediate/,
    threat: 'A7',
  },
  {
    what: 'an intermediate below the intermediate',
    build: (forger, role) => {
      const second = forger.authorityBelow(forger.issuer);
      return {
        leaf: forger.leaf(role, signedBy(second)),
        above: [second.certificate, forger.issuer.certificate],
      };
    },
    reason: /2 intermediate/,
    threat: 'A7',
  },
  {
    what: 'an intermediate of path length 1',
    build: below(withExtension(basicConstraints(true, 1))),
    reason: /path length is 1, and 0/,
  },
  {
    what: 'an intermediate without path length',
    build: below(withExtension(basicConstraints(true))),
    reason: /path length is unlimited/,
  },
  {
    what: 'an intermediate that is no authority',
    build: below(withExtension(basicConstraints(false))),
    reason: /CA bit is false|does not lead to the root|not signed by the issuer/,
    threat: 'A7',
  },
  {
    what: 'an intermediate that may not sign certificates',
    build: below(withExtension(keyUsage(['cRLSign']))),
    reason: /key usage is cRLSign|not signed by the issuer/,
  },
  {
    what: 'an intermediate with an extended key usage',
    build: below(withExtension(extendedKeyUsage([clientAuth]))),
    reason: /extended key usage is clientAuth/,
  },
  {
    what: 'an intermediate of no mesh',
    build: below(withoutExtension(EXTENSION_OIDS.subjectAltName)),
    reason: /0 URI/,
  },
  {
    what: 'an intermediate of another mesh',
    build: below(withExtension(subjectAltName([uriName('spiffe://other')]))),
    reason: /belong to two meshes/,
  },
  {
    what: 'an intermediate with the name of a node',
    build: below((draft, ...rest) =>
      withExtension(subjectAltName([uriName(`spiffe://${rest[0].meshId}/agent/box`)]))(draft, ...rest),
    ),
    reason: /not the identity of a certificate authority/,
  },
  {
    what: 'an intermediate that has expired',
    build: below((_, { nowMs }) => ({
      notBefore: writeTime(nowMs - 7_200_000),
      notAfter: writeTime(nowMs - 3_600_000),
    })),
    reason: /issuer certificate of .* has expired/,
    threat: 'A5',
  },
  {
    what: 'an intermediate that is not valid yet',
    build: below((_, { nowMs }) => ({
      notBefore: writeTime(nowMs + 3_600_000),
      notAfter: writeTime(nowMs + 7_200_000),
    })),
    reason: /issuer certificate of .* is not valid yet/,
    threat: 'A5',
  },
  {
    what: 'an intermediate for three years',
    build: below((_, { nowMs }) => ({ notAfter: writeTime(nowMs + 3 * YEAR_MS) })),
    reason: /valid for 109\d days/,
  },
  {
    what: 'an intermediate that names another key',
    build: (forger, role) => {
      const keyId = writeSequence(writeDer(0x80, Buffer.alloc(20)));
      const foreign = withExtension({ oid: EXTENSION_OIDS.authorityKeyIdentifier, critical: false, value: keyId });
      return { leaf: forger.leaf(role, foreign), above: [forger.issuer.certificate] };
    },
    reason: /not signed by the issuer beside it/,
  },
];
