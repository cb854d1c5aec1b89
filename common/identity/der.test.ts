import { test } from 'tap';
import {
  DER_BYTES_MAX,
  DerError,
  readBitString,
  readBoolean,
  readChildren,
  readDer,
  readOid,
  readPositiveInteger,
  readTime,
  TAG,
  writeBitString,
  writeDer,
  writeOid,
  writeSequence,
} from './der.js';

const hex = (text: string): Buffer => Buffer.from(text.replace(/\s/g, ''), 'hex');

test('what the writer makes, the reader reads', async (t) => {
  for (const size of [0, 1, 127, 128, 255, 256, 60_000]) {
    const value = readDer(writeDer(TAG.octetString, Buffer.alloc(size, 7)), TAG.octetString);
    t.equal(value.content.length, size, `${size} bytes`);
  }
  for (const oid of ['1.2.840.10045.4.3.2', '2.5.4.3', '2.16.840.1.101.3.4.2.1', '1.3.6.1.5.5.7.3.1', '0.9.2342'])
    t.equal(readOid(readDer(writeOid(oid), TAG.oid)), oid);
  const list = writeSequence(writeOid('2.5.4.3'), writeBitString(hex('a0')));
  const [oid, bits] = readChildren(readDer(list, TAG.sequence));
  t.equal(readOid(oid), '2.5.4.3');
  t.same(readBitString(bits).bytes, hex('a0'));
});

test('the frame of a value', async (t) => {
  const refused: [string, string][] = [
    ['', 'nothing at all'],
    ['30', 'no length'],
    ['30 05 0500', 'content cut off'],
    ['30 80 0500 0000', 'indefinite length'],
    ['30 8102 0500', 'long form where the short one suffices'],
    ['30 820002 0500', 'padded length'],
    ['30 84 00000002 0500', 'length of four bytes'],
    ['30 82 01', 'length cut off'],
    ['30 02 0500 00', 'a byte behind the end'],
    ['1f 81 00', 'a tag of several bytes'],
    ['00 00', 'end of contents'],
    ['10 02 0500', 'a sequence that claims to be primitive'],
    ['31 02 0500', 'another tag'],
  ];
  for (const [text, why] of refused) t.throws(() => readDer(hex(text), TAG.sequence), DerError, why);
  t.throws(() => readDer(writeDer(TAG.sequence, Buffer.alloc(DER_BYTES_MAX)), TAG.sequence), DerError, 'too large');
  const many = writeSequence(...new Array<Buffer>(257).fill(hex('0500')));
  t.throws(() => readChildren(readDer(many, TAG.sequence)), DerError, 'too many values');
  t.throws(() => readChildren(readDer(hex('30 03 0500 05'), TAG.sequence)), DerError, 'half a value at the end');
  t.throws(() => readChildren(undefined), DerError, 'a missing value');
});

test('primitive values', async (t) => {
  const value = (tag: number, text: string) => readDer(writeDer(tag, hex(text)), tag);
  t.equal(readBoolean(value(TAG.boolean, 'ff')), true);
  t.equal(readBoolean(value(TAG.boolean, '00')), false);
  for (const text of ['01', '', 'ffff']) t.throws(() => readBoolean(value(TAG.boolean, text)), DerError);

  t.equal(readPositiveInteger(value(TAG.integer, '00')), '0');
  t.equal(readPositiveInteger(value(TAG.integer, '00ff')), 'ff');
  t.equal(readPositiveInteger(value(TAG.integer, '0abc')), 'abc');
  for (const text of ['', '80', '007f', '0000'])
    t.throws(() => readPositiveInteger(value(TAG.integer, text)), DerError, `integer ${text}`);

  for (const text of ['', '08', '01', '0801', '0101'])
    t.throws(() => readBitString(value(TAG.bitString, text)), DerError, `bits ${text}`);
  t.equal(readBitString(value(TAG.bitString, '0780')).unused, 7);

  for (const text of ['', '8055', '5581', '2aff ffff ffff ff7f'])
    t.throws(() => readOid(value(TAG.oid, text)), DerError, `oid ${text}`);
});

test('times', async (t) => {
  const time = (tag: number, text: string) => readTime(readDer(writeDer(tag, Buffer.from(text)), tag));
  t.equal(time(TAG.utcTime, '260228235959Z'), Date.UTC(2026, 1, 28, 23, 59, 59));
  t.equal(time(TAG.utcTime, '500101000000Z'), Date.UTC(1950, 0, 1));
  t.equal(time(TAG.generalizedTime, '20500101000000Z'), Date.UTC(2050, 0, 1));
  for (const text of [
    '260230000000Z',
    '261301000000Z',
    '260101240000Z',
    '260101006000Z',
    '2601010000Z',
    '260101000000+0100',
  ])
    t.throws(() => time(TAG.utcTime, text), DerError, text);
  t.throws(() => time(TAG.generalizedTime, '20500101000000.5Z'), DerError);
});
