import { once } from 'node:events';
import { connect, createServer, type Server, type Socket } from 'node:net';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { sql } from 'kysely';
import { type Test, test } from 'tap';
import { systemClock } from '../../common/clock.js';
import { withDatabase } from '../../test/support/postgres.js';
import { type Connection, fromConnection } from './connection.js';
import { Database } from './database.js';

/** A way to the database that can be cut and mended. */
class Path {
  readonly directory = mkdtempSync(join(tmpdir(), 'mesh-path-'));
  readonly #sockets = new Set<Socket>();
  #server: Server | undefined;

  constructor(private readonly to: Connection) {}

  async open(): Promise<void> {
    const { host, port } = this.to;
    const target = host.startsWith('/') ? { path: `${host}/.s.PGSQL.${port}` } : { host, port };
    this.#server = createServer((near) => {
      const far = connect(target);
      for (const [socket, other] of [
        [near, far],
        [far, near],
      ] as const) {
        this.#sockets.add(socket);
        socket.on('error', () => undefined);
        socket.on('close', () => other.destroy());
        socket.pipe(other);
      }
    });
    this.#server.listen(join(this.directory, '.s.PGSQL.5432'));
    await once(this.#server, 'listening');
  }

  async cut(): Promise<void> {
    for (const socket of this.#sockets) socket.destroy();
    this.#sockets.clear();
    const server = this.#server;
    this.#server = undefined;
    if (server) await new Promise((resolve) => server.close(resolve));
  }

  async remove(): Promise<void> {
    await this.cut();
    rmSync(this.directory, { recursive: true, force: true });
  }
}

async function setUp(t: Test): Promise<{ path: Path; database: Database }> {
  const connection = await withDatabase(t, { migrated: false });
  const path = new Path(connection);
  await path.open();
  const target = fromConnection({ ...connection, host: path.directory, port: 5432 });
  const database = new Database({ target, clock: systemClock, poolMax: 3, prepare: true });
  t.teardown(async () => {
    await path.remove();
    await database.close();
  });
  return { path, database };
}

const one = async (database: Database): Promise<number | undefined> => {
  const { rows } = await database.run((db) => sql<{ one: number }>`select ${1}::integer as one`.execute(db));
  return rows[0]?.one;
};

test('outages, however many statements meet them, leave no statement waiting for ever', async (t) => {
  const { path, database } = await setUp(t);
  t.equal(await one(database), 1);
  for (let outage = 0; outage < 3; outage++) {
    // Cut in the middle of traffic: some statements are answered, the others refused, none is forgotten.
    const traffic = Array.from({ length: 20 }, () => one(database));
    await path.cut();
    for (const result of await Promise.allSettled(traffic))
      if (result.status === 'rejected') t.match(result.reason, { code: 'DATABASE_DOWN' });
    for (let tries = 0; tries < 5; tries++) await t.rejects(one(database), { code: 'DATABASE_DOWN' });
    await path.open();
    t.strictSame(await Promise.all(Array.from({ length: 10 }, () => one(database))), Array(10).fill(1));
  }
});

test('closing waits for what still runs, also on a pool that was replaced', async (t) => {
  const { path, database } = await setUp(t);
  await one(database);
  await path.cut();
  await t.rejects(one(database), { code: 'DATABASE_DOWN' });
  await path.open();
  const last = one(database);
  await Promise.all([last, database.close()]);
  t.equal(await last, 1);
});
