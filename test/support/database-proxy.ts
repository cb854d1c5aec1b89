/**
 * A way to PostgreSQL that misbehaves on request: late, silent, cut, or cut at the worst moment, which is after a
 * statement was committed and before its answer is heard. It reads the protocol as far as needed to know which statement
 * a message belongs to ("Message Formats" in PostgreSQL's documentation); connections must not be encrypted.
 *
 *   const proxy = await startDatabaseProxy(t, connection);
 *   const store = await openTestStore(t, proxy.connection);
 *   const lost = proxy.loseNext(/insert into "job"/, 'answer');
 *   await t.rejects(store.jobs.create(job, pages()), { code: 'DATABASE_DOWN' });
 *   await lost;   // it was committed
 */
import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import { connect, createServer, type Server, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Test } from 'tap';
import type { Connection } from '../../coordinator/store/index.js';
import { SeededRandom } from './random.js';

/** What of a statement is lost: the request, so that it never ran, or the answer, after it was committed. */
export type Lost = 'request' | 'answer';

interface Ambush {
  pattern: RegExp;
  lost: Lost;
  sprung: () => void;
}

const PORT = 5432;
const STARTUP_HEADER_BYTES = 4;
const HEADER_BYTES = 5;

/** Cuts a stream of protocol messages; the first of a client has no type byte. */
class Messages {
  #rest: Buffer = Buffer.alloc(0);
  #startup: boolean;

  constructor(options: { startup: boolean }) {
    this.#startup = options.startup;
  }

  *read(bytes: Buffer): Generator<{ type: string; body: Buffer; whole: Buffer }> {
    this.#rest = Buffer.concat([this.#rest, bytes]);
    for (;;) {
      const header = this.#startup ? STARTUP_HEADER_BYTES : HEADER_BYTES;
      if (this.#rest.length < header) return;
      const length = this.#rest.readUInt32BE(header - 4) + header - 4;
      if (this.#rest.length < length) return;
      const whole = this.#rest.subarray(0, length);
      this.#rest = this.#rest.subarray(length);
      yield { type: this.#startup ? '' : String.fromCharCode(whole[0] as number), body: whole.subarray(header), whole };
      this.#startup = false;
    }
  }
}

const cString = (body: Buffer, from = 0): string => body.toString('utf8', from, body.indexOf(0, from));

class Pair {
  readonly #statements = new Map<string, string>();
  /** Whose answer is waited for, to be lost. */
  #ambush: Ambush | undefined;
  #lastMs = 0;

  constructor(
    private readonly near: Socket,
    private readonly far: Socket,
    private readonly proxy: DatabaseProxy,
  ) {
    const fromClient = new Messages({ startup: true });
    const fromServer = new Messages({ startup: false });
    near.on('data', (bytes: Buffer) => {
      for (const { type, body, whole } of fromClient.read(bytes)) {
        if (!this.#mayPass(type, body)) return this.cut();
        this.#pass(far, whole);
      }
    });
    far.on('data', (bytes: Buffer) => {
      for (const { type, whole } of fromServer.read(bytes)) {
        if (type === 'Z' && this.#ambush) {
          this.cut();
          return this.#ambush.sprung();
        }
        this.#pass(near, whole);
      }
    });
    for (const [socket, other] of [
      [near, far],
      [far, near],
    ] as const) {
      socket.on('error', () => undefined);
      socket.on('close', () => other.destroySoon());
    }
  }

  cut(): void {
    this.near.destroy();
    this.far.destroy();
  }

  /** False when the message is the one whose request gets lost. */
  #mayPass(type: string, body: Buffer): boolean {
    if (type === 'P') {
      const name = cString(body);
      this.#statements.set(name, cString(body, Buffer.byteLength(name) + 1));
    }
    // A Bind names a portal, then the statement.
    const bound = type === 'B' ? this.#statements.get(cString(body, Buffer.byteLength(cString(body)) + 1)) : undefined;
    const text = type === 'Q' ? cString(body) : bound;
    if (text === undefined) return true;
    const ambush = this.proxy.takeAmbush(text);
    if (!ambush) return true;
    if (ambush.lost === 'answer') {
      this.#ambush = ambush;
      return true;
    }
    ambush.sprung();
    return false;
  }

  /** In order, each as late as the proxy says. */
  #pass(to: Socket, bytes: Buffer): void {
    if (this.proxy.isSilent) return;
    const delayMs = this.proxy.nextDelayMs();
    const atMs = Math.max(this.#lastMs, performance.now() + delayMs);
    this.#lastMs = atMs;
    const waitMs = atMs - performance.now();
    if (waitMs <= 0) to.write(bytes);
    else setTimeout(() => !to.destroyed && to.write(bytes), waitMs);
  }
}

export class DatabaseProxy {
  readonly #directory = mkdtempSync(join(tmpdir(), 'mesh-proxy-'));
  readonly #pairs = new Set<Pair>();
  readonly #random: SeededRandom;
  #ambushes: Ambush[] = [];
  #server: Server | undefined;
  #delayMs = 0;
  #silent = false;
  /** Connections it accepted so far. */
  accepted = 0;
  to: Connection;

  constructor(to: Connection, seed = 1) {
    this.to = to;
    this.#random = new SeededRandom(seed);
  }

  /** The database behind it, by this way. */
  get connection(): Connection {
    return { ...this.to, host: this.#directory, port: PORT };
  }

  get isSilent(): boolean {
    return this.#silent;
  }

  nextDelayMs(): number {
    return this.#delayMs === 0 ? 0 : this.#delayMs * (0.5 + this.#random.next());
  }

  /** Takes connections, at first or again after `refuse`. */
  async open(): Promise<void> {
    this.#silent = false;
    if (this.#server) return;
    this.#server = createServer((near) => {
      const { host, port } = this.to;
      const far = connect(host.startsWith('/') ? { path: `${host}/.s.PGSQL.${port}` } : { host, port });
      const pair = new Pair(near, far, this);
      this.accepted++;
      this.#pairs.add(pair);
      near.on('close', () => this.#pairs.delete(pair));
    });
    this.#server.listen(join(this.#directory, `.s.PGSQL.${PORT}`));
    await once(this.#server, 'listening');
  }

  /** Each message, either way, comes about so late; 0 ends it. */
  delay(ms: number): void {
    this.#delayMs = ms;
  }

  /** Connections stay and carry nothing any more, new ones too, until `open`; what was said meanwhile is lost. */
  silence(): void {
    this.#silent = true;
  }

  /** Ends every connection; new ones are whole. */
  cut(): void {
    for (const pair of this.#pairs) pair.cut();
  }

  /** Ends every connection and takes no more. */
  async refuse(): Promise<void> {
    const server = this.#server;
    this.#server = undefined;
    this.cut();
    if (server) await new Promise((resolve) => server.close(resolve));
  }

  /**
   * The next statement whose text matches loses its request or its answer, and its connection with it.
   * @returns resolves when that has happened
   */
  loseNext(pattern: RegExp, lost: Lost): Promise<void> {
    return new Promise((sprung) => this.#ambushes.push({ pattern, lost, sprung }));
  }

  takeAmbush(statement: string): Ambush | undefined {
    const ambush = this.#ambushes.find(({ pattern }) => pattern.test(statement));
    if (ambush) this.#ambushes = this.#ambushes.filter((other) => other !== ambush);
    return ambush;
  }

  async close(): Promise<void> {
    await this.refuse();
    rmSync(this.#directory, { recursive: true, force: true });
  }
}

/** Open, and closed after the test. */
export async function startDatabaseProxy(t: Pick<Test, 'teardown'>, to: Connection): Promise<DatabaseProxy> {
  const proxy = new DatabaseProxy(to);
  await proxy.open();
  t.teardown(() => proxy.close());
  return proxy;
}
