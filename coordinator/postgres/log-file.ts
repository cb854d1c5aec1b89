import { closeSync, fstatSync, openSync, renameSync, writeSync } from 'node:fs';

const BYTES_MAX = 4 * 1024 * 1024;

/** An append-only file of at most `bytesMax`, and one predecessor beside it (`.1`). Failures to write are swallowed. */
export class LogFile {
  readonly #path: string;
  readonly #bytesMax: number;
  #descriptor: number | undefined;
  #bytes = 0;

  constructor(path: string, bytesMax = BYTES_MAX) {
    this.#path = path;
    this.#bytesMax = bytesMax;
  }

  write(chunk: Uint8Array): void {
    try {
      if (this.#descriptor === undefined) this.#open();
      if (this.#bytes > 0 && this.#bytes + chunk.length > this.#bytesMax) this.#rotate();
      writeSync(this.#descriptor as number, chunk);
      this.#bytes += chunk.length;
    } catch {
      // A full disk must not take the database's supervisor down; PostgreSQL reports the full disk by itself.
    }
  }

  close(): void {
    if (this.#descriptor !== undefined) closeSync(this.#descriptor);
    this.#descriptor = undefined;
  }

  #open(): void {
    this.#descriptor = openSync(this.#path, 'a', 0o600);
    this.#bytes = fstatSync(this.#descriptor).size;
  }

  #rotate(): void {
    this.close();
    renameSync(this.#path, `${this.#path}.1`);
    this.#open();
  }
}
