/**
 * Passphrases and where they come from: a file, an open descriptor, or the terminal. Never a flag's value or a variable's:
 * others on the machine can read those. The first line counts. A file that others could read is refused, as ssh refuses
 * such a key; what systemd hands a service (`LoadCredential=`) is guarded by an access list that the mode does not show.
 */
import { closeSync, fstatSync, openSync, readFileSync } from 'node:fs';
import { dirname, resolve } from 'node:path';
import type { ReadStream } from 'node:tty';
import { MeshError, systemCode } from './errors.js';

const BYTES_MIN = 8;
/** What OpenSSL reads at most. */
const BYTES_MAX = 1024;

/** The text is in a private field, so that neither a log nor an inspection shows it. */
export class Passphrase {
  readonly #text: string;

  constructor(text: string) {
    this.#text = text;
  }

  reveal(): string {
    return this.#text;
  }
}

export interface PassphraseSource {
  file?: string | undefined;
  descriptor?: number | undefined;
  /** The flags these came from, without their `-file` and `-fd`: `--passphrase`. */
  flag: string;
}

/** The one that a file or a descriptor gives; undefined when neither was named. @throws MeshError USAGE, PASSPHRASE */
export function givenPassphrase({ file, descriptor, flag }: PassphraseSource): Passphrase | undefined {
  if (file !== undefined && descriptor !== undefined)
    throw new MeshError('USAGE', `${flag}-file and ${flag}-fd were both given`, { hint: 'name one of them' });
  if (file === undefined && descriptor === undefined) return undefined;
  const place = file ?? `descriptor ${descriptor}`;
  try {
    const text = file === undefined ? readFileSync(descriptor as number, 'utf8') : readPrivate(file);
    const line = text.split(/\r?\n/, 1)[0] ?? '';
    if (line === '' || Buffer.byteLength(line) > BYTES_MAX)
      throw new MeshError('PASSPHRASE', `${place} holds no passphrase in its first line`, {
        hint: `write it there, at most ${BYTES_MAX} bytes`,
      });
    return new Passphrase(line);
  } catch (error) {
    if (error instanceof MeshError) throw error;
    throw new MeshError('PASSPHRASE', `cannot read the passphrase from ${place} (${systemCode(error)})`, {
      hint: `name a file you can read with ${flag}-file`,
    });
  }
}

function readPrivate(path: string): string {
  const descriptor = openSync(path, 'r');
  try {
    const stat = fstatSync(descriptor);
    const fromSystemd = process.env.CREDENTIALS_DIRECTORY === dirname(resolve(path));
    if (stat.isFile() && (stat.mode & 0o077) !== 0 && !fromSystemd && process.platform !== 'win32')
      throw new MeshError(
        'PASSPHRASE',
        `the passphrase file ${path} is open to others (mode ${(stat.mode & 0o777).toString(8).padStart(4, '0')})`,
        { hint: `chmod 600 ${path}` },
      );
    return readFileSync(descriptor, 'utf8');
  } finally {
    closeSync(descriptor);
  }
}

/** One to protect something with: long enough, and asked for twice. @throws MeshError PASSPHRASE */
export async function newPassphrase(source: PassphraseSource, question: string): Promise<Passphrase> {
  const given = givenPassphrase(source);
  const text = given?.reveal() ?? (await ask(source, question));
  if (Buffer.byteLength(text) < BYTES_MIN)
    throw new MeshError('PASSPHRASE', `the new passphrase is shorter than ${BYTES_MIN} bytes`, {
      hint: 'use several words; whoever copies the file may try millions',
    });
  if (!given && text !== (await ask(source, 'again')))
    throw new MeshError('PASSPHRASE', 'the two were not the same', { hint: 'type it again' });
  return new Passphrase(text);
}

/** Asks on the terminal. @throws MeshError PASSPHRASE when there is none */
export const askPassphrase = async (source: PassphraseSource, question: string): Promise<Passphrase> =>
  new Passphrase(await ask(source, question));

async function ask({ flag }: PassphraseSource, question: string): Promise<string> {
  if (!process.stdin.isTTY)
    throw new MeshError('PASSPHRASE', `no ${question} was given, and there is no terminal to ask on`, {
      hint: `name a file with ${flag}-file, or a descriptor with ${flag}-fd`,
    });
  // Before it asks: what is typed early must not show either.
  const typed = readUnseen(process.stdin);
  process.stderr.write(`${question}: `);
  try {
    return await typed;
  } finally {
    process.stderr.write('\n');
  }
}

/** What ends the question without an answer: Ctrl-C, Ctrl-D, and what the terminal makes of a Ctrl-D from before it. */
const INTERRUPTING = '\u0003\u0004\0';

/**
 * A line of the terminal that does not show what is typed. What was typed ahead, beyond the line, is left for the next
 * question. @throws MeshError INTERRUPTED when no line can come any more
 */
export function readUnseen(terminal: ReadStream): Promise<string> {
  let typed = '';
  let over = false;
  return new Promise<string>((done, fail) => {
    const end = (finish: () => void, ahead = ''): void => {
      if (over) return;
      over = true;
      terminal.off('data', onData).off('end', onGone);
      // Of a terminal that is gone there is nothing to restore; that it says so once more is of no interest.
      terminal.setRawMode(false).pause();
      terminal.off('error', onGone);
      if (ahead !== '') terminal.unshift(ahead);
      finish();
    };
    const onGone = (): void =>
      end(() => fail(new MeshError('INTERRUPTED', 'interrupted', { hint: 'nothing was changed' })));
    const onData = (chunk: string): void => {
      const text = chunk.replaceAll('\r\n', '\n');
      let read = 0;
      for (const character of text) {
        read += character.length;
        if (character === '\r' || character === '\n') return end(() => done(typed), text.slice(read));
        if (INTERRUPTING.includes(character)) return onGone();
        if (character === '\u007f' || character === '\b') typed = typed.replace(/.$/su, '');
        else if (character === '\u0015') typed = '';
        else typed += character;
      }
    };
    terminal.on('error', onGone).on('end', onGone);
    if (terminal.readableEnded || terminal.destroyed) return onGone();
    terminal.setEncoding('utf8').setRawMode(true).resume().on('data', onData);
  });
}
