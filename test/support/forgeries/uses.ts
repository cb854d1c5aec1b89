import { basicConstraints, extendedKeyUsage, type ExtensionTemplate, keyUsage } from '../../../ca/x509/certificate.js';
import { EXTENDED_KEY_USAGE_OIDS, EXTENSION_OIDS } from '../../../common/identity/profile.js';
import { withExtension, withMore, withoutExtension } from '../forger.js';
import { type Forgery, hex, inside } from './forgery.js';

const { serverAuth, clientAuth } = EXTENDED_KEY_USAGE_OIDS;
const unknown = (critical: boolean): ExtensionTemplate => ({ oid: '1.2.3.4', critical, value: Buffer.of(5, 0) });

export const USES: Forgery[] = [
  {
    what: 'no extended key usage',
    change: withoutExtension(EXTENSION_OIDS.extendedKeyUsage),
    reason: /extended key usage is nothing/,
    threat: 'A6',
  },
  {
    what: 'any extended key usage',
    change: withExtension(extendedKeyUsage(['2.5.29.37.0'])),
    reason: /usage is 2\.5\.29\.37\.0/,
    threat: 'A6',
  },
  {
    what: 'the server alone',
    change: withExtension(extendedKeyUsage([serverAuth])),
    reason: /usage is serverAuth, and/,
    threat: 'A6',
  },
  {
    what: 'signing of code',
    change: withExtension(extendedKeyUsage(['1.3.6.1.5.5.7.3.3'])),
    reason: /5\.7\.3\.3/,
    threat: 'A6',
  },
  {
    what: 'a usage too many',
    change: withExtension(extendedKeyUsage([clientAuth, serverAuth, '1.3.6.1.5.5.7.3.3'])),
    reason: /3\.3, and/,
    threat: 'A6',
  },
  {
    what: 'the client twice',
    change: withExtension(extendedKeyUsage([clientAuth, clientAuth])),
    reason: /clientAuth \+ clientAuth, and/,
    threat: 'A6',
  },
  {
    what: "an agent's usages",
    change: withExtension(extendedKeyUsage([clientAuth])),
    reason: /is clientAuth, and/,
    only: 'coordinator',
    threat: 'A10',
  },
  {
    what: "a coordinator's usages",
    change: withExtension(extendedKeyUsage([serverAuth, clientAuth])),
    reason: /\+ clientAuth, and clientAuth/,
    only: 'agent',
    threat: 'A10',
  },
  {
    what: 'usages in another order',
    change: withExtension(extendedKeyUsage([clientAuth, serverAuth])),
    reason: undefined,
    only: 'coordinator',
  },
  {
    what: 'a critical extended key usage',
    change: withExtension({ ...extendedKeyUsage([clientAuth]), critical: true }),
    reason: undefined,
    only: 'agent',
  },
  {
    what: 'an empty list of usages',
    change: inside('extendedKeyUsage', '30 00', false),
    reason: /2\.5\.29\.37 is empty/,
  },
  { what: 'CA:TRUE', change: withExtension(basicConstraints(true)), reason: /CA bit is true/, threat: 'A7' },
  {
    what: 'CA:TRUE with a path length',
    change: withExtension(basicConstraints(true, 0)),
    reason: /CA bit is true/,
    threat: 'A7',
  },
  {
    what: 'a path length without CA',
    change: inside('basicConstraints', '30 03 02 01 00'),
    reason: /tag 0x2 stands where 0x1/,
  },
  {
    what: 'no basic constraints',
    change: withoutExtension(EXTENSION_OIDS.basicConstraints),
    reason: /no basic constraints/,
  },
  {
    what: 'lax basic constraints',
    change: withExtension({ ...basicConstraints(false), critical: false }),
    reason: /basicConstraints is not critical/,
  },
  { what: 'no key usage', change: withoutExtension(EXTENSION_OIDS.keyUsage), reason: /key usage is nothing/ },
  {
    what: 'a lax key usage',
    change: withExtension({ ...keyUsage(['digitalSignature']), critical: false }),
    reason: /keyUsage is not critical/,
  },
  {
    what: 'keyCertSign',
    change: withExtension(keyUsage(['digitalSignature', 'keyCertSign'])),
    reason: /\+ keyCertSign, and/,
    threat: 'A7',
  },
  { what: 'cRLSign', change: withExtension(keyUsage(['digitalSignature', 'cRLSign'])), reason: /\+ cRLSign, and/ },
  ...(
    ['nonRepudiation', 'keyEncipherment', 'dataEncipherment', 'keyAgreement', 'encipherOnly', 'decipherOnly'] as const
  ).flatMap((usage) => [
    {
      what: `${usage} too`,
      change: withExtension(keyUsage(['digitalSignature', usage])),
      reason: new RegExp(`\\+ ${usage}, and`),
    },
    { what: `${usage} alone`, change: withExtension(keyUsage([usage])), reason: new RegExp(`usage is ${usage}, and`) },
  ]),
  {
    what: 'a critical extension nobody knows',
    change: withMore(unknown(true)),
    reason: /unknown critical extension \(1\.2\.3\.4\)/,
  },
  {
    what: 'name constraints',
    change: withMore({ oid: '2.5.29.30', critical: true, value: hex('30 00') }),
    reason: /2\.5\.29\.30/,
  },
  { what: 'an extension nobody knows', change: withMore(unknown(false)), reason: undefined },
  {
    what: 'critical names',
    change: (draft) => ({ extensions: draft.extensions.map((e) => ({ ...e, critical: true })) }),
    reason: undefined,
  },
  {
    what: 'an extension twice',
    change: withMore(keyUsage(['digitalSignature'])),
    reason: /2\.5\.29\.15 stands there twice/,
  },
  {
    what: 'an unknown extension twice',
    change: (draft) => ({ extensions: [...draft.extensions, unknown(false), unknown(false)] }),
    reason: /twice/,
  },
];
