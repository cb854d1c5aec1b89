import { BinaryReader, BinaryWriter } from '@bufbuild/protobuf/wire';

const INDEX_BYTES = 4;

/**
 * A message whose large pieces stay where they are until gRPC copies them into its frame; the generated encoder copies them
 * three to six times before. Of a serialized message gRPC asks no more than its length and to be copied.
 */
export class WirePieces {
  readonly #pieces: Uint8Array[] = [];
  #length = 0;

  get length(): number {
    return this.#length;
  }

  get pieces(): readonly Uint8Array[] {
    return this.#pieces;
  }

  get byteLength(): number {
    return this.#length;
  }

  push(piece: Uint8Array): void {
    this.#pieces.push(piece);
    this.#length += piece.length;
  }

  /**
   * A message inside this one, with a field of bytes as its last.
   * @param tag of the message in this one; `dataTag` of the bytes in the message
   * @param fields those before
   */
  nest(tag: number, fields: BinaryWriter, dataTag: number, data: Uint8Array): void {
    if (data.length > 0) fields.uint32(dataTag).uint32(data.length);
    const head = fields.finish();
    this.push(
      new BinaryWriter()
        .uint32(tag)
        .uint32(head.length + data.length)
        .raw(head)
        .finish(),
    );
    if (data.length > 0) this.push(data);
  }

  /** Returns how many bytes were copied. */
  copy(target: Uint8Array, targetStart = 0): number {
    let at = targetStart;
    for (const piece of this.#pieces) {
      target.set(piece, at);
      at += piece.length;
    }
    return at - targetStart;
  }

  /** As what a serializer has to return. */
  get serialized(): Buffer {
    return this as unknown as Buffer;
  }
}

/**
 * Lets a generated decoder read fields of bytes without copying them: it is given a number for each, and whoever asked for
 * the message puts the bytes in its place. A view keeps all of what was read in memory, however little it shows of it.
 */
export class ViewReader extends BinaryReader {
  readonly #views: Buffer[] = [];

  override bytes(): Uint8Array {
    const { buffer, byteOffset, length } = super.bytes();
    const index = Buffer.alloc(INDEX_BYTES);
    index.writeUInt32LE(this.#views.push(Buffer.from(buffer, byteOffset, length)) - 1);
    return index;
  }

  /** The bytes that a decoded field stands for. */
  viewOf(field: Buffer): Buffer {
    return (field.length === INDEX_BYTES && this.#views[field.readUInt32LE()]) || field;
  }
}
