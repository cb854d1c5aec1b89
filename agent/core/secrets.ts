/**
 * What a job's secrets are worth on this node: in memory, with the job's attempts and no longer. How a value may look in
 * output is worked out once, when the first attempt that has it starts.
 */
import type { SecretUse } from '../../proto/gen/mesh/v1/common.js';
import { Mask } from './mask.js';

/** Shorter values would take ordinary words with them. */
export const VALUE_MIN = 4;
/** A line of a value, and an encoding of one, is looked for from here on. */
const PART_MIN = 8;
/** Larger values are looked for as they are and line by line; encodings of them would cost too much memory. */
const ENCODED_MAX = 4096;

/** The folder of the files, for tasks. */
export const SECRETS_VARIABLE = 'MESH_SECRETS';

export class JobSecrets {
  #mask: Mask | undefined;

  /** @param values in the order of `uses` */
  constructor(
    readonly uses: readonly SecretUse[],
    readonly values: readonly Buffer[],
  ) {}

  get mask(): Mask {
    return (this.#mask ??= new Mask(patternsOf(this.values)));
  }

  /** Those to be given as files, by name: once, however many variables name it. */
  get files(): Map<string, Buffer> {
    const files = this.uses.flatMap(({ name, file }, i) => (file ? [[name, this.values[i] as Buffer] as const] : []));
    return new Map(files);
  }

  /** The variables of an attempt. @param directory where the files are */
  variables(directory: string | undefined): Record<string, string> {
    const entries = this.uses.map(({ name, variable, file }, i) => [
      variable,
      file ? `${directory}/${name}` : (this.values[i] as Buffer).toString(),
    ]);
    return { ...Object.fromEntries(entries), ...(directory === undefined ? {} : { [SECRETS_VARIABLE]: directory }) };
  }

  /** Whether these are the same values for the same uses. */
  matches(uses: readonly SecretUse[], values: readonly Buffer[]): boolean {
    return (
      this.uses.length === uses.length &&
      this.uses.every(({ name, variable, file }, i) => {
        const use = uses[i] as SecretUse;
        return use.name === name && use.variable === variable && use.file === file;
      }) &&
      this.values.every((value, i) => value.equals(values[i] as Buffer))
    );
  }
}

/** How the values may look in output. */
export function patternsOf(values: readonly Buffer[]): Buffer[] {
  const patterns = new Map<string, Buffer>();
  const add = (bytes: Buffer, min: number) => {
    if (bytes.length >= min) patterns.set(bytes.toString('latin1'), bytes);
  };
  for (const value of values) {
    // Byte by byte, so that a value that is no text is looked for too.
    const text = value.toString('latin1');
    const trimmed = text.trim();
    add(value, VALUE_MIN);
    add(Buffer.from(trimmed, 'latin1'), VALUE_MIN);
    if (trimmed.length < VALUE_MIN) continue;
    for (const line of trimmed.split(/[\r\n]+/)) add(Buffer.from(line.trim(), 'latin1'), PART_MIN);
    if (value.length > ENCODED_MAX) continue;
    for (const bytes of [value, Buffer.from(trimmed, 'latin1')])
      for (const encoded of encodingsOf(bytes)) add(Buffer.from(encoded), PART_MIN);
  }
  return [...patterns.values()];
}

/** In JSON, in a URL and in base64, where it may begin at any of three offsets within other text. */
function encodingsOf(value: Buffer): string[] {
  const text = value.toString();
  const encoded = [JSON.stringify(text).slice(1, -1), encodeURIComponent(text)];
  for (let offset = 0; offset < 3; offset++) {
    const bits = (offset + value.length) * 8;
    const base64 = Buffer.concat([Buffer.alloc(offset), value]).toString('base64');
    // Characters that hold bits of what stands before or behind it are not its own.
    const own = base64.slice(Math.ceil((offset * 8) / 6), Math.floor(bits / 6));
    encoded.push(own, own.replaceAll('+', '-').replaceAll('/', '_'));
  }
  return encoded;
}
