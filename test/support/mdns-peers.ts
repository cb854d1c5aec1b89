/** Processes that speak mDNS inside namespaces (mdns-peer.ts), as a test sees them: lines that can be waited for. */
import type { ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import type { Test } from 'tap';
import { packageRoot } from '../../common/package.js';
import type { Candidate } from '../../link/candidates.js';
import type { LanHost } from './netns.js';

const PEER = join(packageRoot, 'test/support/mdns-peer.ts');

export type Said = Partial<{
  candidate: Candidate;
  held: Candidate[];
  interfaces: string[];
  instance: string;
  foreign: number;
  goodbye: boolean;
  stopped: boolean;
  /** All that a flood consists of was sent once more. */
  flooded: boolean;
  /** Of a rogue: its port, how often somebody connected, what it was told inside TLS. */
  port: number;
  visited: number;
  heard: string;
  /** Of a plain browser: what its library holds, what it took for gone. */
  names: string[];
  kept: number;
  down: string;
  /** Resident memory, bytes. */
  rss: number;
}>;

/** A process in a namespace whose lines can be waited for. */
export class Peer {
  readonly lines: Said[] = [];
  readonly #child: ChildProcess;
  #wake: () => void = () => undefined;

  constructor(t: Test, host: LanHost, args: string[]) {
    this.#child = host.spawn(process.execPath, ['--import=tsx', PEER, ...args], {
      stdio: ['pipe', 'pipe', 'inherit'],
      cwd: packageRoot,
    });
    t.teardown(() => this.#child.kill('SIGKILL'));
    createInterface(this.#child.stdout as NodeJS.ReadableStream).on('line', (line) => {
      this.lines.push(JSON.parse(line) as Said);
      this.#wake();
    });
    this.#child.on('exit', () => this.#wake());
  }

  async said(condition: (line: Said) => boolean): Promise<Said> {
    for (let next = 0; ; next++) {
      while (next >= this.lines.length) {
        if (this.#child.exitCode !== null) throw new Error(`it ended with ${this.#child.exitCode}`);
        await new Promise<void>((resolve) => {
          this.#wake = resolve;
        });
      }
      const line = this.lines[next] as Said;
      if (condition(line)) return line;
    }
  }

  async found(host: string, port: number): Promise<Candidate> {
    const { candidate } = await this.said((line) => line.candidate?.host === host && line.candidate.port === port);
    return candidate as Candidate;
  }

  /** Asks for a report of everything it can tell. */
  async report(): Promise<Said> {
    const asked = this.lines.length;
    this.tell('held');
    return this.said((line) => line.rss !== undefined && this.lines.indexOf(line) >= asked);
  }

  async held(): Promise<Required<Pick<Said, 'held' | 'foreign' | 'interfaces'>>> {
    return (await this.report()) as Required<Pick<Said, 'held' | 'foreign' | 'interfaces'>>;
  }

  tell(word: string): void {
    this.#child.stdin?.write(`${word}\n`);
  }

  async stop(): Promise<void> {
    this.#child.kill('SIGTERM');
    if (this.#child.exitCode === null) await once(this.#child, 'exit');
  }
}

/** Resolves when the process works; its first line says so. */
export async function startPeer(t: Test, host: LanHost, ...args: string[]): Promise<Peer> {
  const peer = new Peer(t, host, args);
  await peer.said(() => true);
  return peer;
}
