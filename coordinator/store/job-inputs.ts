import { type RawBuilder, sql } from 'kysely';
import type { Database } from './database.js';

/**
 * Per-task inputs. Each chunk is a statement of its own, written before the job: no transaction stays open while a client
 * sends a million items. The job's row, written last, is what makes them count. A submission that fails removes its chunks;
 * those of one that a crash cut off are swept a day later.
 *
 * They stay in their chunks for as long as the job is kept, and are read from there by the number of the task: by its
 * assignment, and for the row of a task that needs one (adr/0028-inputs-stay-in-chunks.md).
 */
const CHUNK_ITEMS_MAX = 1000;
const CHUNK_CHARACTERS_MAX = 1 << 20;
/** Chunks of one submission that are being written while the next is read. */
const WRITING_MAX = 2;

/** Stands nowhere in JSON as JSON.stringify writes it: chunks are written and read without looking at their characters. */
export const SEPARATOR = '\n';

/**
 * Of the chunks that overlap successive tasks of a job with inputs, what is theirs: the first of the tasks in the chunk,
 * inputs. One probe of the key for the first chunk, the others follow it.
 */
export const inputParts = (
  id: RawBuilder<unknown>,
  from: RawBuilder<unknown>,
  to: RawBuilder<unknown>,
): RawBuilder<unknown> => sql`
  select greatest(c.from_index, ${from}) as first,
    c.inputs[greatest(${from} - c.from_index, 0) + 1 : least(${to}, c.to_index) - c.from_index] as inputs
  from job_input c
  where c.job_id = any (array[${id}]) and c.from_index < ${to} and c.to_index > ${from} and c.from_index >= coalesce((
    select f.from_index from job_input f
    where f.job_id = ${id} and f.from_index <= ${from} order by f.from_index desc limit 1
  ), ${from})`;

/** Successive tasks and their inputs: index, input. */
export const inputsOf = (
  id: RawBuilder<unknown>,
  from: RawBuilder<unknown>,
  to: RawBuilder<unknown>,
): RawBuilder<unknown> => sql`
  select c.first + i.position::integer - 1 as index, i.input
  from (${inputParts(id, from, to)}) c cross join lateral unnest(c.inputs) with ordinality as i(input, position)`;

/**
 * @param inputs JSON, without line breaks
 * @returns the number of inputs
 */
export async function storeInputs(
  database: Database,
  jobId: string,
  inputs: AsyncIterable<readonly string[]>,
): Promise<number> {
  let stored = 0;
  let chunk: string[] = [];
  let characters = 0;
  const writing = new Set<Promise<unknown>>();
  const flush = async (): Promise<void> => {
    const items = chunk;
    const from = stored;
    if (items.length === 0) return;
    chunk = [];
    characters = 0;
    stored += items.length;
    if (writing.size >= WRITING_MAX) await Promise.race(writing);
    const write = database.run((db) =>
      sql`
        insert into job_input (job_id, from_index, to_index, inputs)
        values (
          ${jobId}, ${from}, ${from + items.length}, string_to_array(${items.join(SEPARATOR)}::text, ${SEPARATOR}::text)
        )`.execute(db),
    );
    const written: Promise<unknown> = write.then(() => writing.delete(written));
    writing.add(written);
    // Whoever awaits it next hears of a failure.
    written.catch(() => undefined);
  };
  try {
    for await (const page of inputs) {
      for (const input of page) {
        chunk.push(input);
        characters += input.length;
        if (chunk.length >= CHUNK_ITEMS_MAX || characters >= CHUNK_CHARACTERS_MAX) await flush();
      }
    }
    await flush();
    await Promise.all(writing);
  } finally {
    // A submission that fails removes its chunks, and none may be written after that.
    await Promise.allSettled(writing);
  }
  return stored;
}

export async function dropInputs(database: Database, jobId: string): Promise<void> {
  await database.run((db) => db.deleteFrom('job_input').where('job_id', '=', jobId).execute());
}

/** Removes chunks older than a day that belong to no job. */
export async function sweepInputs(database: Database): Promise<void> {
  await database.run((db) =>
    sql`
      delete from job_input i
      where i.created_at < now() - interval '1 day' and not exists (select from job j where j.id = i.job_id)`.execute(
      db,
    ),
  );
}
