import { dnsName, ipName, subjectAltName, uriName } from '../../../ca/x509/certificate.js';
import { type AlternativeName, NAME_TAGS } from '../../../common/identity/fields.js';
import type { Role } from '../../../common/identity/identity.js';
import { EXTENSION_OIDS } from '../../../common/identity/profile.js';
import { type Change, withExtension, withoutExtension } from '../forger.js';
import { type Forgery, hex, inside } from './forgery.js';

const latin1 = (text: string): Buffer => Buffer.from(text, 'latin1');

const uri = (make: (mesh: string, role: Role) => Buffer | string): Change =>
  names((mesh, role) => {
    const text = make(mesh, role);
    return [{ tag: NAME_TAGS.uri, bytes: typeof text === 'string' ? latin1(text) : text }];
  });

function names(make: (mesh: string, role: Role) => AlternativeName[]): Change {
  return (draft, forger, role) => withExtension(subjectAltName(make(forger.meshId, role)))(draft, forger, role);
}

/** The one good name, and others beside it. */
const beside = (...others: AlternativeName[]): Change =>
  names((mesh, role) => [uriName(`spiffe://${mesh}/${role}/box`), ...others]);

export const NAMES: Forgery[] = [
  {
    what: 'no alternative name',
    change: withoutExtension(EXTENSION_OIDS.subjectAltName),
    reason: /0 URI/,
    threat: 'A8',
  },
  { what: 'a host name and no URI', change: names(() => [dnsName('localhost')]), reason: /0 URI/, threat: 'A8' },
  { what: 'an empty list of names', change: inside('subjectAltName', '30 00', false), reason: /2\.5\.29\.17 is empty/ },
  { what: 'an empty URI', change: uri(() => ''), reason: /does not begin with spiffe:/ },
  {
    what: 'two URIs, one of them another identity',
    change: names((mesh, role) => ['operator/root', `${role}/box`].map((path) => uriName(`spiffe://${mesh}/${path}`))),
    reason: /2 URI/,
    threat: 'A9',
  },
  {
    what: 'the same URI twice',
    change: names((mesh, role) => [1, 2].map(() => uriName(`spiffe://${mesh}/${role}/box`))),
    reason: /2 URI/,
    threat: 'A9',
  },
  {
    what: 'a URI of the web beside it',
    change: beside(uriName('https://example.org/')),
    reason: /2 URI/,
    threat: 'A9',
  },
  { what: 'an e-mail address beside it', change: beside({ tag: 0x81, bytes: latin1('a@b') }), reason: /foreign kind/ },
  { what: 'another name beside it', change: beside({ tag: 0xa0, bytes: hex('06 01 2a') }), reason: /foreign kind/ },
  { what: 'a registered id beside it', change: beside({ tag: 0x88, bytes: hex('2a') }), reason: /foreign kind/ },
  {
    what: 'a host name beside it',
    change: beside(dnsName('localhost')),
    reason: /only a coordinator has/,
    only: 'agent',
  },
  {
    what: 'an address beside it',
    change: beside(ipName('127.0.0.1')),
    reason: /only a coordinator has/,
    only: 'agent',
  },
  {
    what: 'host names and addresses',
    change: beside(dnsName('a.lan'), ipName('::1')),
    reason: undefined,
    only: 'coordinator',
  },
  {
    what: 'a host name with NUL',
    change: beside(dnsName('a\0.lan')),
    reason: /not a host name/,
    only: 'coordinator',
    threat: 'A9',
  },
  { what: 'a wildcard', change: beside(dnsName('*.lan')), reason: /not a host name/, only: 'coordinator' },
  { what: 'a host name in capitals', change: beside(dnsName('A.lan')), reason: /not a host name/, only: 'coordinator' },
  {
    what: 'an address of five bytes',
    change: beside({ tag: NAME_TAGS.ip, bytes: Buffer.alloc(5) }),
    reason: /impossible size/,
    only: 'coordinator',
  },
  {
    what: 'more names than anybody has',
    change: beside(...Array(256).fill(dnsName('a.lan'))),
    reason: /more than 256/,
  },
  {
    what: 'a NUL in the name',
    change: uri((m, r) => `spiffe://${m}/${r}/box\0.x`),
    reason: /no valid name/,
    threat: 'A9',
  },
  {
    what: 'a NUL in the mesh',
    change: uri((m, r) => `spiffe://${m}\0/${r}/box`),
    reason: /no valid mesh id/,
    threat: 'A9',
  },
  {
    what: 'a NUL at the end',
    change: uri((m, r) => `spiffe://${m}/${r}/box\0`),
    reason: /no valid name/,
    threat: 'A9',
  },
  {
    what: 'a homoglyph in the name',
    change: uri((m, r) => Buffer.from(`spiffe://${m}/${r}/b\u043ex`)),
    reason: /no valid name/,
    threat: 'A9',
  },
  {
    what: 'a homoglyph in the role',
    change: uri((m) => Buffer.from(`spiffe://${m}/\u0430gent/box`)),
    reason: /has no role/,
    threat: 'A9',
  },
  {
    what: 'an invisible character',
    change: uri((m, r) => Buffer.from(`spiffe://${m}/${r}/bo\u200bx`)),
    reason: /no valid name/,
  },
  {
    what: 'capitals in the name',
    change: uri((m, r) => `spiffe://${m}/${r}/Box`),
    reason: /no valid name/,
    threat: 'A9',
  },
  {
    what: 'capitals in the mesh',
    change: uri((m, r) => `spiffe://${m.toUpperCase()}/${r}/box`),
    reason: /no valid mesh id/,
  },
  {
    what: 'capitals in the role',
    change: uri((m, r) => `spiffe://${m}/${r.toUpperCase()}/box`),
    reason: /has no role/,
  },
  { what: 'capitals in the scheme', change: uri((m, r) => `SPIFFE://${m}/${r}/box`), reason: /does not begin with/ },
  { what: 'another scheme', change: uri((m, r) => `https://${m}/${r}/box`), reason: /does not begin with/ },
  { what: 'no scheme', change: uri((m, r) => `//${m}/${r}/box`), reason: /does not begin with/ },
  { what: 'one slash', change: uri((m, r) => `spiffe:/${m}/${r}/box`), reason: /does not begin with/ },
  { what: 'three slashes', change: uri((m, r) => `spiffe:///${m}/${r}/box`), reason: /too many segments/ },
  { what: 'a slash at the end', change: uri((m, r) => `spiffe://${m}/${r}/box/`), reason: /too many segments/ },
  { what: 'a dot at the end', change: uri((m, r) => `spiffe://${m}/${r}/box.`), reason: /no valid name/ },
  {
    what: 'a dot at the end of the mesh',
    change: uri((m, r) => `spiffe://${m}./${r}/box`),
    reason: /no valid mesh id/,
  },
  { what: 'an empty segment', change: uri((m, r) => `spiffe://${m}/${r}//box`), reason: /too many segments/ },
  { what: 'a segment too many', change: uri((m, r) => `spiffe://${m}/${r}/box/more`), reason: /too many segments/ },
  { what: 'steps upwards', change: uri((m, r) => `spiffe://${m}/${r}/..`), reason: /no valid name/ },
  { what: 'percent-encoding', change: uri((m, r) => `spiffe://${m}/${r}/b%6fx`), reason: /no valid name/ },
  { what: 'percent-encoded slashes', change: uri((m, r) => `spiffe://${m}%2f${r}/box`), reason: /no valid mesh id/ },
  { what: 'a query', change: uri((m, r) => `spiffe://${m}/${r}/box?a=b`), reason: /no valid name/ },
  { what: 'a fragment', change: uri((m, r) => `spiffe://${m}/${r}/box#a`), reason: /no valid name/ },
  { what: 'a user', change: uri((m, r) => `spiffe://me@${m}/${r}/box`), reason: /no valid mesh id/ },
  { what: 'a port', change: uri((m, r) => `spiffe://${m}:7443/${r}/box`), reason: /no valid mesh id/ },
  { what: 'a backslash', change: uri((m, r) => `spiffe://${m}\\${r}\\box`), reason: /no valid mesh id/ },
  { what: 'a newline', change: uri((m, r) => `spiffe://${m}/${r}/box\n`), reason: /no valid name/ },
  { what: 'a blank before it', change: uri((m, r) => ` spiffe://${m}/${r}/box`), reason: /does not begin with/ },
  { what: 'no name', change: uri((m, r) => `spiffe://${m}/${r}/`), reason: /no valid name/ },
  { what: 'no role', change: uri((m) => `spiffe://${m}//box`), reason: /has no role/ },
  { what: 'no mesh', change: uri((_, r) => `spiffe:///${r}`), reason: /no valid mesh id/ },
  { what: 'an unknown role', change: uri((m) => `spiffe://${m}/admin/box`), reason: /has no role/ },
  { what: 'a role of JavaScript', change: uri((m) => `spiffe://${m}/__proto__/box`), reason: /has no role/ },
  { what: 'the identity of an authority', change: uri((m) => `spiffe://${m}`), reason: /has no role/ },
  {
    what: 'another mesh',
    change: uri((_, r) => `spiffe://other/${r}/box`),
    reason: /belongs to the mesh other/,
    threat: 'A5',
  },
  { what: 'a name of 63 characters', change: uri((m, r) => `spiffe://${m}/${r}/${'a'.repeat(63)}`), reason: undefined },
  {
    what: 'a name of 64 characters',
    change: uri((m, r) => `spiffe://${m}/${r}/${'a'.repeat(64)}`),
    reason: /no valid name/,
  },
  { what: 'a hyphen first', change: uri((m, r) => `spiffe://${m}/${r}/-box`), reason: /no valid name/ },
  { what: 'a hyphen last', change: uri((m, r) => `spiffe://${m}/${r}/box-`), reason: /no valid name/ },
  { what: 'an underscore', change: uri((m, r) => `spiffe://${m}/${r}/b_x`), reason: /no valid name/ },
  { what: 'a name of digits', change: uri((m, r) => `spiffe://${m}/${r}/007`), reason: undefined },
];
