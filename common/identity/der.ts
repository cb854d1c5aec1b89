/**
 * DER, the encoding of certificates (ITU-T X.690), as strict as we need it. The reader takes one value at a time and
 * never recurses; it refuses everything DER forbids that has been used to make two readers see two things: indefinite
 * and padded lengths, trailing bytes, padded integers, booleans other than 00 and FF, stray bits. The writer makes just
 * what certificate requests, revocation lists and encrypted keys need.
 */
export class DerError extends Error {
  override name = 'DerError';
}

export interface DerValue {
  /** Class, constructed bit and number in one byte, as it stands in the encoding. */
  tag: number;
  content: Buffer;
  /** The whole value, with tag and length. */
  raw: Buffer;
}

export const TAG = {
  boolean: 0x01,
  integer: 0x02,
  bitString: 0x03,
  octetString: 0x04,
  null: 0x05,
  oid: 0x06,
  utf8String: 0x0c,
  utcTime: 0x17,
  generalizedTime: 0x18,
  sequence: 0x30,
  set: 0x31,
} as const;

/** Nothing that a peer presents is larger; what is, is refused unread. */
export const DER_BYTES_MAX = 64 * 1024;
const CHILDREN_MAX = 256;

/** `[number]` of ASN.1; EXPLICIT tags are constructed. */
export const contextTag = (number: number, constructed = true): number => 0x80 | (constructed ? 0x20 : 0) | number;

function readAt(bytes: Buffer, offset: number): DerValue {
  const tag = bytes[offset];
  const first = bytes[offset + 1];
  if (tag === undefined || first === undefined) throw new DerError('the encoding is cut off');
  if (tag === 0 || (tag & 0x1f) === 0x1f) throw new DerError('an unknown kind of tag');
  let start = offset + 2;
  let length = first;
  if (first === 0x80) throw new DerError('an indefinite length');
  if (first > 0x80) {
    const count = first & 0x7f;
    if (count > 3) throw new DerError('a length beyond any bound');
    if (start + count > bytes.length) throw new DerError('the encoding is cut off');
    length = bytes.readUIntBE(start, count);
    start += count;
    if (length < 0x80 || length < 2 ** (8 * (count - 1))) throw new DerError('a length that is not minimal');
  }
  if (start + length > bytes.length) throw new DerError('the encoding is cut off');
  return { tag, content: bytes.subarray(start, start + length), raw: bytes.subarray(offset, start + length) };
}

function expectTag(value: DerValue | undefined, tag: number): DerValue {
  if (value === undefined) throw new DerError('a value is missing');
  if (value.tag !== tag)
    throw new DerError(`tag 0x${value.tag.toString(16)} stands where 0x${tag.toString(16)} belongs`);
  return value;
}

/**
 * The one value that fills `bytes`.
 * @throws DerError when it is not DER, larger than `DER_BYTES_MAX`, of another tag, or something follows it
 */
export function readDer(bytes: Uint8Array, tag: number): DerValue {
  if (bytes.length > DER_BYTES_MAX) throw new DerError(`it is larger than ${DER_BYTES_MAX} bytes`);
  const value = readAt(Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength), 0);
  if (value.raw.length !== bytes.length) throw new DerError('bytes follow the end');
  return expectTag(value, tag);
}

/** The values that fill a constructed one, in order. */
export function readChildren(parent: DerValue | undefined, tag: number = TAG.sequence): DerValue[] {
  const { content } = expectTag(parent, tag);
  const children: DerValue[] = [];
  for (let offset = 0; offset < content.length; ) {
    if (children.length === CHILDREN_MAX) throw new DerError(`a list of more than ${CHILDREN_MAX} values`);
    const child = readAt(content, offset);
    children.push(child);
    offset += child.raw.length;
  }
  return children;
}

export function readBoolean(value: DerValue | undefined): boolean {
  const { content } = expectTag(value, TAG.boolean);
  if (content.length !== 1 || (content[0] !== 0 && content[0] !== 0xff))
    throw new DerError('a boolean that is neither true nor false');
  return content[0] === 0xff;
}

/** A positive integer or zero, as lower-case hexadecimal without leading zeros (`0` for zero). */
export function readPositiveInteger(value: DerValue | undefined): string {
  const { content } = expectTag(value, TAG.integer);
  if (content.length === 0) throw new DerError('an empty integer');
  const [first = 0, second = 0] = content;
  if (first >= 0x80) throw new DerError('a negative integer');
  if (content.length > 1 && first === 0 && second < 0x80) throw new DerError('an integer that is not minimal');
  return content.toString('hex').replace(/^0+(?=.)/, '');
}

export function readOid(value: DerValue | undefined): string {
  const { content } = expectTag(value, TAG.oid);
  if (content.length === 0 || content.length > 32) throw new DerError('an object identifier of impossible length');
  const arcs: number[] = [];
  let arc = 0;
  let begins = true;
  for (const byte of content) {
    if (begins && byte === 0x80) throw new DerError('an object identifier that is not minimal');
    arc = arc * 128 + (byte & 0x7f);
    if (arc > 2 ** 32) throw new DerError('an object identifier out of bounds');
    begins = byte < 0x80;
    if (begins) {
      arcs.push(arc);
      arc = 0;
    }
  }
  if (!begins) throw new DerError('an object identifier that is cut off');
  const [head = 0, ...rest] = arcs;
  const top = Math.min(2, Math.floor(head / 40));
  return [top, head - top * 40, ...rest].join('.');
}

export interface Bits {
  bytes: Buffer;
  /** Bits of the last byte that do not count; they are zero. */
  unused: number;
}

export function readBitString(value: DerValue | undefined): Bits {
  const { content } = expectTag(value, TAG.bitString);
  const unused = content[0];
  if (unused === undefined || unused > 7 || (unused > 0 && content.length === 1))
    throw new DerError('a bit string of impossible length');
  const bytes = content.subarray(1);
  if (((bytes.at(-1) ?? 0) & ((1 << unused) - 1)) !== 0) throw new DerError('a bit string with stray bits');
  return { bytes, unused };
}

export const readOctets = (value: DerValue | undefined): Buffer => expectTag(value, TAG.octetString).content;

/** A UTCTime or GeneralizedTime in the form certificates use (RFC 5280 §4.1.2.5), as milliseconds since 1970. */
export function readTime(value: DerValue | undefined): number {
  if (value?.tag !== TAG.utcTime && value?.tag !== TAG.generalizedTime) throw new DerError('a time is missing');
  const text = value.content.toString('latin1');
  const pattern =
    value.tag === TAG.utcTime ? /^(\d\d)(\d\d)(\d\d)(\d\d)(\d\d)(\d\d)Z$/ : /^(\d{4})(\d\d)(\d\d)(\d\d)(\d\d)(\d\d)Z$/;
  const match = pattern.exec(text);
  if (!match) throw new DerError('a time that does not parse');
  const [given = 0, month = 0, day = 0, hour = 0, minute = 0, second = 0] = match.slice(1).map(Number);
  const year = value.tag === TAG.utcTime ? given + (given >= 50 ? 1900 : 2000) : given;
  if (value.tag === TAG.generalizedTime && year < 2050) throw new DerError('a time in the form of those after 2049');
  const date = new Date(Date.UTC(year, month - 1, day, hour, minute, second));
  if (date.getUTCMonth() !== month - 1 || date.getUTCDate() !== day || hour > 23 || minute > 59 || second > 59)
    throw new DerError('a time that does not exist');
  return date.getTime();
}

export function writeDer(tag: number, ...parts: Uint8Array[]): Buffer {
  const content = Buffer.concat(parts);
  if (content.length < 0x80) return Buffer.concat([Buffer.of(tag, content.length), content]);
  const count = content.length < 0x100 ? 1 : content.length < 0x10000 ? 2 : 3;
  const length = Buffer.alloc(count);
  length.writeUIntBE(content.length, 0, count);
  return Buffer.concat([Buffer.of(tag, 0x80 | count), length, content]);
}

export const writeSequence = (...parts: Uint8Array[]): Buffer => writeDer(TAG.sequence, ...parts);

/** @param value whole and not negative; or its hexadecimal digits, as `readPositiveInteger` gives them */
export function writePositiveInteger(value: number | string): Buffer {
  const hex = value.toString(16);
  const bytes = Buffer.from(hex.length % 2 === 0 ? hex : `0${hex}`, 'hex');
  return writeDer(TAG.integer, (bytes[0] ?? 0) < 0x80 ? bytes : Buffer.concat([Buffer.of(0), bytes]));
}

/** RFC 5280 §4.1.2.5: UTCTime through 2049, GeneralizedTime from 2050; whole seconds. */
export function writeTime(ms: number): Buffer {
  const digits = new Date(ms).toISOString().replace(/[-:T]|\.\d+/g, '');
  return ms < Date.UTC(2050, 0)
    ? writeDer(TAG.utcTime, Buffer.from(digits.slice(2)))
    : writeDer(TAG.generalizedTime, Buffer.from(digits));
}

export const writeBitString = (bytes: Uint8Array): Buffer => writeDer(TAG.bitString, Buffer.of(0), bytes);

export function writeOid(oid: string): Buffer {
  const [top = 0, second = 0, ...rest] = oid.split('.').map(Number);
  const bytes: number[] = [];
  for (const arc of [top * 40 + second, ...rest]) {
    const digits = [arc % 128];
    for (let left = Math.floor(arc / 128); left > 0; left = Math.floor(left / 128)) digits.unshift((left % 128) + 128);
    bytes.push(...digits);
  }
  return writeDer(TAG.oid, Buffer.from(bytes));
}
