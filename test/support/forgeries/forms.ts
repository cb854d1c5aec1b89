import {
  contextTag,
  readChildren,
  readDer,
  TAG,
  writeDer,
  writeOid,
  writeSequence,
} from '../../../common/identity/der.js';
import { algorithmOf, type Change, explicitVersion, integer, withMore } from '../forger.js';
import { type Forgery, hex, inside } from './forgery.js';

/** The usual extensions, and one in an encoding of its own. */
const rawExtension =
  (extension: Buffer): Change =>
  () => ({ extensions: [], more: [writeDer(contextTag(3), writeSequence(extension))] });

/** The three parts of the finished certificate, put together otherwise. */
const reassembled =
  (put: (signed: Buffer, algorithm: Buffer, signature: Buffer) => Buffer[]): Change =>
  () => ({
    finish: (der) => {
      const [signed, algorithm, signature] = readChildren(readDer(der, TAG.sequence)).map(({ raw }) => raw);
      return writeSequence(...put(signed as Buffer, algorithm as Buffer, signature as Buffer));
    },
  });
const finish =
  (change: (der: Buffer) => Buffer): Change =>
  () => ({ finish: change });
export const FORMS: Forgery[] = [
  { what: 'version 1', change: () => ({ version: undefined, extensions: [] }), reason: /0 URI/ },
  { what: 'version 1 with extensions', change: () => ({ version: undefined }), reason: /version 1, not 3/ },
  { what: 'version 2', change: () => ({ version: explicitVersion(integer(1)) }), reason: /version 2, not 3/ },
  { what: 'version 4', change: () => ({ version: explicitVersion(integer(3)) }), reason: /version 4, not 3/ },
  {
    what: 'two versions',
    change: () => ({ version: explicitVersion(Buffer.concat([integer(2), integer(2)])) }),
    reason: /version is one number/,
  },
  { what: 'a negative serial', change: () => ({ serial: integer(0x80) }), reason: /negative integer/ },
  { what: 'the serial zero', change: () => ({ serial: integer(0) }), reason: /zero or too long/ },
  { what: 'an empty serial', change: () => ({ serial: integer() }), reason: /empty integer/ },
  { what: 'a padded serial', change: () => ({ serial: integer(0, 1) }), reason: /integer that is not minimal/ },
  {
    what: 'a serial of 20 bytes',
    change: () => ({ serial: writeDer(TAG.integer, Buffer.alloc(20, 0x7f)) }),
    reason: undefined,
  },
  {
    what: 'a serial of 21 bytes',
    change: () => ({ serial: writeDer(TAG.integer, Buffer.alloc(21, 0x7f)) }),
    reason: /zero or too long/,
  },
  {
    what: 'a unique id of the subject',
    change: () => ({ more: [writeDer(contextTag(2, false), hex('00 01'))] }),
    reason: /parts that do not belong/,
  },
  {
    what: 'two signature algorithms',
    change: () => ({ outerAlgorithm: algorithmOf('1.2.3') }),
    reason: /two signature algorithms/,
  },
  { what: 'no signature', change: reassembled((signed, algorithm) => [signed, algorithm]), reason: /has three parts/ },
  {
    what: 'a signature of odd bits',
    change: reassembled((signed, algorithm) => [signed, algorithm, writeDer(TAG.bitString, hex('01 80'))]),
    reason: /whole number of bytes/,
  },
  {
    what: 'bytes after the end',
    change: finish((der) => Buffer.concat([der, Buffer.of(0)])),
    reason: /bytes follow the end/,
  },
  { what: 'an end that is missing', change: finish((der) => der.subarray(0, -1)), reason: /cut off/ },
  { what: 'no certificate at all', change: finish(() => Buffer.from('hello')), reason: /does not parse/ },
  {
    what: 'more bytes than anybody needs',
    change: withMore({ oid: '1.2.3', critical: false, value: Buffer.alloc(70_000) }),
    reason: /larger than 65536 bytes/,
  },
  { what: 'an empty extension', change: rawExtension(writeSequence()), reason: /a value is missing/ },
  {
    what: 'an extension of one part',
    change: rawExtension(writeSequence(writeOid('1.2.3'))),
    reason: /extension of impossible form/,
  },
  {
    what: 'critical: false, written out',
    change: rawExtension(writeSequence(writeOid('1.2.3'), hex('01 01 00'), hex('04 00'))),
    reason: /default value that is written out/,
  },
  {
    what: 'CA: false, written out',
    change: inside('basicConstraints', '30 03 01 01 00'),
    reason: /default value that is written out/,
  },
  { what: 'a boolean of 1', change: inside('basicConstraints', '30 03 01 01 01'), reason: /neither true nor false/ },
  {
    what: 'constraints of three parts',
    change: inside('basicConstraints', '30 09 01 01 ff 02 01 00 02 01 00'),
    reason: /constraints of impossible form/,
  },
  { what: 'an indefinite length', change: inside('basicConstraints', '30 80 00 00'), reason: /indefinite length/ },
  { what: 'a padded length', change: inside('basicConstraints', '30 81 00'), reason: /length that is not minimal/ },
  {
    what: 'a length of four bytes',
    change: inside('basicConstraints', '30 84 00 00 00 00'),
    reason: /length beyond any bound/,
  },
  { what: 'a length that is cut off', change: inside('basicConstraints', '30 82 00'), reason: /cut off/ },
  { what: 'a tag of two bytes', change: inside('basicConstraints', '3f 81 00'), reason: /unknown kind of tag/ },
  { what: 'a set for a sequence', change: inside('basicConstraints', '31 00'), reason: /tag 0x31 stands where 0x30/ },
  { what: 'a key usage of no bytes', change: inside('keyUsage', '03 00'), reason: /bit string of impossible length/ },
  { what: 'stray bits in the key usage', change: inside('keyUsage', '03 02 07 c0'), reason: /stray bits/ },
  {
    what: 'zeros after the key usage',
    change: inside('keyUsage', '03 02 00 80'),
    reason: /key usage that is not minimal/,
  },
  {
    what: 'a key usage of two bytes',
    change: inside('keyUsage', '03 03 00 80 01'),
    reason: /key usage of impossible length/,
  },
  {
    what: 'an empty identifier',
    change: inside('extendedKeyUsage', '30 02 06 00', false),
    reason: /identifier of impossible length/,
  },
  {
    what: 'a padded identifier',
    change: inside('extendedKeyUsage', '30 04 06 02 80 01', false),
    reason: /identifier that is not minimal/,
  },
  {
    what: 'a huge identifier',
    change: inside('extendedKeyUsage', '30 09 06 07 2a 9f ff ff ff ff 7f', false),
    reason: /identifier out of bounds/,
  },
  {
    what: 'half an identifier',
    change: inside('extendedKeyUsage', '30 03 06 01 81', false),
    reason: /identifier that is cut off/,
  },
];
