/**
 * All rows of a mesh, out of one database and into another, as PostgreSQL's own text format (COPY). Out: one snapshot, so
 * that what belongs together is together, while the coordinator works on. In: one transaction, into the schema the rows
 * were taken from.
 */
import { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { MeshError } from '../../common/errors.js';
import type { Target } from './connection.js';
import { openPool, type Pool } from './database.js';
import { asStoreError } from './failures.js';
import { MARKS } from './migrate.js';

export interface TableShape {
  name: string;
  columns: string[];
}

export interface RowSource {
  /** The last migration of the schema. */
  migration: string;
  /** Those another one refers to come before it. */
  tables: TableShape[];
  rows(table: TableShape): AsyncIterable<Buffer>;
}

/** Kysely's own; written by the migrations. */
const BOOKKEEPING = [MARKS, 'migration_lock'];
/**
 * More than there can have been leaders, jobs or nodes since the rows were taken. Agents obey no epoch below the highest
 * they have seen; and they name a job by its number, so none may be given out again while a result for it may come.
 */
const STEP = 1_000_000;

const quoted = (name: string): string => `"${name.replaceAll('"', '""')}"`;
const columnsOf = ({ columns }: TableShape): string => columns.map(quoted).join(', ');

/** One connection, and a transaction on it for as long as `work` takes. @throws MeshError DATABASE_DOWN and others */
async function inTransaction<T>(target: Target, begin: string, work: (sql: Pool) => Promise<T>): Promise<T> {
  const parameters = { application_name: 'planetary-mesh-backup', TimeZone: 'UTC' };
  const sql = openPool({ target, max: 1, prepare: false, reserves: false, parameters });
  try {
    await sql.unsafe(begin);
    const result = await work(sql);
    await sql.unsafe('commit');
    return result;
  } catch (error) {
    throw error instanceof MeshError ? error : asStoreError(error, target.place);
  } finally {
    // What is not committed is undone with the connection.
    await sql.end({ timeout: 1 });
  }
}

/** @param work reads the rows; the snapshot ends with it */
export const dumpRows = <T>(target: Target, work: (source: RowSource) => Promise<T>): Promise<T> =>
  inTransaction(target, 'begin isolation level repeatable read read only', async (sql) => {
    const shapes = await sql<{ name: string; columns: string[]; needs: string[] }[]>`
      select c.relname::text as name,
        array(
          select a.attname::text from pg_attribute a
          where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped and a.attgenerated = '' order by a.attnum
        ) as columns,
        array(
          select r.relname::text from pg_constraint k join pg_class r on r.oid = k.confrelid
          where k.conrelid = c.oid and k.contype = 'f' and r.oid <> c.oid
        ) as needs
      from pg_class c
      where c.relnamespace = current_schema()::regnamespace and c.relkind = 'r' order by 1`;
    const tables = shapes.filter(({ name }) => !BOOKKEEPING.includes(name));
    const [last] = await sql.unsafe<{ name: string }[]>(`select name from ${MARKS} order by name desc limit 1`);
    if (!last) throw new MeshError('CONFLICT', 'the database holds no mesh yet');
    return work({
      migration: last.name,
      tables: inOrder(tables).map(({ name, columns }) => ({ name, columns })),
      async *rows(table) {
        const rows = await sql.unsafe(`copy ${quoted(table.name)} (${columnsOf(table)}) to stdout`).readable();
        yield* rows;
        // The driver stops reading from its connection while enough waits here, and goes on when more is asked for; after
        // the last row nobody asks, and it never reads again (postgres 3.4.9, `CopyData` in src/connection.js).
        rows._read(0);
      },
    });
  });

/** Those that are referred to first. */
function inOrder<T extends { name: string; needs: string[] }>(tables: readonly T[]): T[] {
  const ordered: T[] = [];
  const place = (table: T, above: readonly T[]): void => {
    if (ordered.includes(table) || above.includes(table)) return;
    for (const need of table.needs) {
      const needed = tables.find(({ name }) => name === need);
      if (needed) place(needed, [...above, table]);
    }
    ordered.push(table);
  };
  for (const table of tables) place(table, []);
  return ordered;
}

/** Whether no mesh has ever been in a database. */
export const isUnused = (target: Target): Promise<boolean> =>
  inTransaction(target, 'begin read only', async (sql) => {
    const [row] = await sql<{ unused: boolean }[]>`select to_regclass(${MARKS}) is null as unused`;
    return row?.unused === true;
  });

/**
 * Replaces everything in a database whose schema is at the rows' migration. The lead is raised above every epoch that
 * agents may have obeyed since, and no join token is left: one that was spent since could be spent again.
 * @param rows each table with its rows, in the order of the dump
 */
export const loadRows = (
  target: Target,
  tables: readonly TableShape[],
  rows: AsyncIterable<[TableShape, AsyncIterable<Buffer>]>,
): Promise<void> =>
  inTransaction(target, 'begin', async (sql) => {
    const names = tables.map(({ name }) => quoted(name));
    for (const name of names) await sql.unsafe(`alter table ${name} disable trigger user`);
    await sql.unsafe(`truncate ${names.join(', ')}`);
    for await (const [table, chunks] of rows) await copyIn(sql, table, chunks);
    await sql.unsafe(`update leader set epoch = epoch + ${STEP}, holder = '', renewals = 0`);
    await sql.unsafe('update join_token set uses_left = 0');
    await resetSequences(sql);
    for (const name of names) await sql.unsafe(`alter table ${name} enable trigger user`);
  });

async function copyIn(sql: Pool, table: TableShape, chunks: AsyncIterable<Buffer>): Promise<void> {
  const into = await sql.unsafe(`copy ${quoted(table.name)} (${columnsOf(table)}) from stdin`).writable();
  const written = pipeline(Readable.from(chunks), into);
  written.catch(() => undefined);
  // When the server refuses rows after the last was sent, the driver never tells the stream (postgres 3.4.9, `final` in
  // src/connection.js). The next statement, which waits for this one, then fails.
  const refused = sql.unsafe('select 1').then(
    () => written,
    (error: unknown) => {
      throw new MeshError('DATA_DIR', `the rows of ${table.name} do not fit their table`, {
        hint: 'use another copy of the backup',
        cause: error,
      });
    },
  );
  await Promise.race([written, refused]);
}

/** Numbers go on far behind the highest that is there. */
async function resetSequences(sql: Pool): Promise<void> {
  const owned = await sql<{ table: string; column: string; sequence: string }[]>`
    select c.relname::text as table, a.attname::text as column,
      pg_get_serial_sequence(quote_ident(c.relname), a.attname) as sequence
    from pg_class c join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
    where c.relnamespace = current_schema()::regnamespace and c.relkind = 'r'
      and pg_get_serial_sequence(quote_ident(c.relname), a.attname) is not null`;
  for (const { table, column, sequence } of owned)
    await sql.unsafe(
      `select setval('${sequence.replaceAll("'", "''")}', coalesce(max(${quoted(column)}), 0) + ${STEP}, false) from ${quoted(table)}`,
    );
}
