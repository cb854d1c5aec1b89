/** HTTP/2 by hand (RFC 9113), for peers that keep to no rule: frames, and heads without compression. */
export const PREFACE = Buffer.from('PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n');

export const FRAME = {
  data: 0,
  headers: 1,
  reset: 3,
  settings: 4,
  ping: 6,
  goaway: 7,
  window: 8,
  continuation: 9,
} as const;
export const END_STREAM = 1;
export const END_HEADERS = 4;

export function frame(type: number, flags: number, stream: number, payload: Uint8Array = Buffer.alloc(0)): Buffer {
  const head = Buffer.alloc(9);
  head.writeUIntBE(payload.length, 0, 3);
  head.writeUInt8(type, 3);
  head.writeUInt8(flags, 4);
  head.writeUInt32BE(stream, 5);
  return Buffer.concat([head, payload]);
}

/** HPACK: literal, never indexed, no Huffman; texts below 16 KiB. */
export function head(fields: Iterable<readonly [string, string]>): Buffer {
  const parts: Buffer[] = [];
  for (const [name, value] of fields) parts.push(Buffer.from([0x10]), text(name), text(value));
  return Buffer.concat(parts);
}

function text(value: string): Buffer {
  const bytes = Buffer.from(value, 'latin1');
  if (bytes.length < 127) return Buffer.concat([Buffer.from([bytes.length]), bytes]);
  const rest = bytes.length - 127;
  const length = rest < 128 ? [127, rest] : [127, (rest & 127) | 128, rest >> 7];
  return Buffer.concat([Buffer.from(length), bytes]);
}

/** A method that takes a stream, so that a call to it stays open. */
export const STREAM_PATH = '/mesh.v1.MeshService/PutBlob';

export const grpcHead = (path: string): Buffer =>
  head([
    [':method', 'POST'],
    [':scheme', 'https'],
    [':path', path],
    [':authority', 'coordinator'],
    ['content-type', 'application/grpc'],
    ['te', 'trailers'],
  ]);

/** The types of the frames in what was received, a cut-off last one left out. */
export function framesIn(bytes: Buffer): { type: number; stream: number; payload: Buffer }[] {
  const found: { type: number; stream: number; payload: Buffer }[] = [];
  for (let at = 0; at + 9 <= bytes.length; ) {
    const length = bytes.readUIntBE(at, 3);
    if (at + 9 + length > bytes.length) break;
    const payload = bytes.subarray(at + 9, at + 9 + length);
    found.push({ type: bytes.readUInt8(at + 3), stream: bytes.readUInt32BE(at + 5) & 0x7fffffff, payload });
    at += 9 + length;
  }
  return found;
}
