/**
 * A folder in which tasks leave traces and wait for the test. Any user may write to it, because tasks of an agent that
 * runs as root do not. A trace is a line in a file; a gate is a pipe that a task reads a line from (`read x < GATE`).
 */
import { execFileSync } from 'node:child_process';
import { chmodSync, closeSync, constants, existsSync, mkdirSync, openSync, readFileSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { FolderSignal, until } from './until.js';

export class Gate {
  readonly #descriptor: number;

  constructor(readonly path: string) {
    execFileSync('mkfifo', [path]);
    chmodSync(path, 0o666);
    // Open for both: neither this nor a task that opens it ever blocks in open().
    this.#descriptor = openSync(path, constants.O_RDWR);
  }

  /** Lets so many tasks through, waiting ones or later ones. */
  open(tasks = 1): void {
    writeSync(this.#descriptor, '\n'.repeat(tasks));
  }

  close(): void {
    closeSync(this.#descriptor);
  }
}

export class Witness {
  readonly signal: FolderSignal;
  readonly #gates: Gate[] = [];

  constructor(readonly folder: string) {
    mkdirSync(folder);
    chmodSync(folder, 0o777);
    this.signal = new FolderSignal(folder);
  }

  path(name: string): string {
    return join(this.folder, name);
  }

  gate(name: string): Gate {
    const gate = new Gate(this.path(name));
    this.#gates.push(gate);
    return gate;
  }

  /** The whole lines of a file; none when it does not exist. */
  lines(name: string): string[] {
    if (!existsSync(this.path(name))) return [];
    return readFileSync(this.path(name), 'utf8').split('\n').slice(0, -1);
  }

  /** Waits until the file has at least so many lines, and gives them. */
  async seen(name: string, count = 1): Promise<string[]> {
    const enough = () => (this.lines(name).length >= count ? this.lines(name) : undefined);
    return until(`${count} lines in ${name}`, enough, this.signal);
  }

  close(): void {
    this.signal.close();
    for (const gate of this.#gates) gate.close();
  }
}
