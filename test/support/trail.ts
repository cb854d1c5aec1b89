/**
 * The history of a mesh of real processes, for the checker in test/history. Three witnesses: tasks write a line when
 * they begin, while they go on and when they end; triggers in the database note every transition at its commit; the
 * test itself says what it broke. All times are milliseconds since the machine was booted.
 *
 * A task that was killed wrote no end: it ended after its last line, so what runs beside it is seen as far as its lines
 * reach. One that still lives when the history is made gets no end at all.
 */
import { readFileSync } from 'node:fs';
import type postgres from 'postgres';
import { type HistoryEvent, merge, type TerminalStatus } from '../history/events.js';
import { isAlive } from '../../common/process-life.js';

const UPTIME_STEP_MS = 10;

/** Uptime of the machine, which tasks can read without a process of their own; 10 ms fine. */
export const uptimeMs = (): number => Number(readFileSync('/proc/uptime', 'utf8').split(' ')[0]) * 1000;

/** A script whose attempts leave a trail in this file. `beat` writes a line; the result names the process. */
export const recorded = (trail: string, body: string): string =>
  [
    `say() { read -r up idle < /proc/uptime; echo "$up $MESH_JOB_ID $MESH_TASK_INDEX $MESH_GENERATION $MESH_NODE $$ $1" >> '${trail}'; }`,
    'beat() { sleep "$1"; say beat; }',
    'say began',
    body,
    'say ended',
    'echo "$$"',
  ].join('\n');

interface TrailLine {
  atMs: number;
  job: string;
  index: number;
  generation: number;
  node: string;
  pid: number;
  what: string;
}

function parseLine(text: string): TrailLine {
  const [up, job = '', index, generation, node = '', pid, what = ''] = text.split(' ');
  return {
    ...{ atMs: Number(up) * 1000, job, node, what },
    ...{ index: Number(index), generation: Number(generation), pid: Number(pid) },
  };
}

/** What ran, by the tasks' own lines. */
export class Trail {
  readonly runs: { first: TrailLine; last: TrailLine; ended: boolean }[] = [];

  constructor(lines: readonly string[]) {
    const open = new Map<string, (typeof this.runs)[number]>();
    for (const line of lines.map(parseLine)) {
      const key = `${line.node} ${line.pid} ${line.job} ${line.index} ${line.generation}`;
      const run = open.get(key);
      if (run) {
        run.last = line;
        run.ended = line.what === 'ended';
      } else {
        const begun = { first: line, last: line, ended: false };
        open.set(key, begun);
        this.runs.push(begun);
      }
    }
  }

  /** Attempts that began beyond the first of each task. */
  get again(): number {
    return this.runs.length - new Set(this.runs.map(({ first }) => `${first.job}.${first.index}`)).size;
  }

  events(): HistoryEvent[] {
    return this.runs.flatMap(({ first, last, ended }) => {
      const { job, index, generation, node } = first;
      const attempt = { job, index, generation, node };
      const began: HistoryEvent = { kind: 'attempt-began', ...attempt, atMs: first.atMs };
      if (!ended && isAlive(first.pid)) return [began];
      return [began, { kind: 'attempt-ended', ...attempt, atMs: last.atMs } satisfies HistoryEvent];
    });
  }
}

const TRIGGERS = `
create table if not exists trail (
  seq bigint generated always as identity primary key, at timestamptz not null default clock_timestamp(),
  epoch bigint, holder text, job bigint, index int, generation int, node int, was text, became text,
  assigned boolean, failed boolean, lost boolean, due_ms double precision
);
create or replace function note_task() returns trigger language plpgsql as $$
begin
  -- A row is made by its first assignment, or where a task leaves the range that it was assigned with.
  if tg_op = 'INSERT' and exists (select from task_range where job = new.job and first <= new.index and after > new.index) then
    if new.status <> 'ASSIGNED' then
      insert into trail (epoch, job, index, generation, node, was, became, assigned, failed, lost)
      values ((select epoch from leader), new.job, new.index, new.generation, new.node, 'ASSIGNED', new.status, false, false, false);
    end if;
  elsif tg_op = 'INSERT' then
    insert into trail (epoch, job, index, generation, node, was, became, assigned, failed, lost)
    values ((select epoch from leader), new.job, new.index, new.generation, new.node, 'QUEUED', new.status, true, false, false);
  elsif new.status is distinct from old.status or new.generation is distinct from old.generation then
    insert into trail (epoch, job, index, generation, node, was, became, assigned, failed, lost, due_ms)
    select (select epoch from leader), new.job, new.index, new.generation, coalesce(new.node, old.node), old.status,
      new.status, new.generation > old.generation, new.failures > old.failures, new.losses > old.losses,
      extract(epoch from new.due_at - clock_timestamp()) * 1000;
  end if;
  return null;
end $$;
create or replace function note_span() returns trigger language plpgsql as $$
begin
  insert into trail (epoch, job, index, generation, node, was, became, assigned, failed, lost)
  select (select epoch from leader), new.job, i, 1, new.node, tg_argv[0], tg_argv[1], tg_argv[1] = 'ASSIGNED', false, false
  from generate_series(new.first, new.after - 1) i;
  return null;
end $$;
create or replace function note_leader() returns trigger language plpgsql as $$
begin
  if tg_op = 'INSERT' or new.epoch is distinct from old.epoch then
    insert into trail (epoch, holder) values (new.epoch, new.holder);
  end if;
  return null;
end $$;
create or replace trigger note_task after insert or update on task for each row execute function note_task();
create or replace trigger note_range after insert on task_range for each row execute function note_span('QUEUED', 'ASSIGNED');
create or replace trigger note_block after insert on task_block for each row execute function note_span('ASSIGNED', 'COMPLETED');
create or replace trigger note_leader after insert or update on leader for each row execute function note_leader();
`;

/** Every task that was ever assigned, wherever it is kept: as its row, in a block, or still in its range. */
export const everyTask = (sql: postgres.Sql) => sql`(
  select job, index, status, generation, failures, losses, result_json, output from task
  union all
  select b.job, b.first + e.position::int - 1, 'COMPLETED', 1, 0, 0, coalesce(e.result, b.result), null
  from task_block b cross join lateral unnest(b.age_ms, b.results) with ordinality e(age_ms, result, position)
  union all
  select r.job, i, 'ASSIGNED', 1, 0, 0, null, null
  from task_range r cross join lateral generate_series(r.first, r.after - 1) i where not r.out @> i
)`;

/** From now on every transition is noted where it is committed. Once the schema is there. */
export async function noteTransitions(sql: postgres.Sql): Promise<void> {
  await sql.unsafe(TRIGGERS);
}

interface TrailRow {
  at_ms: number;
  epoch: string;
  holder: string | null;
  job: string | null;
  index: number;
  generation: number;
  node: string | null;
  became: string;
  was: string;
  assigned: boolean;
  failed: boolean;
  lost: boolean;
  due_ms: number | null;
}

const TERMINAL = new Set(['COMPLETED', 'FAILED', 'CANCELLED']);

function transitionEvents(row: TrailRow, atMs: number): HistoryEvent[] {
  const epoch = Number(row.epoch);
  if (row.job === null) return [{ kind: 'leader-elected', atMs, epoch, holder: row.holder ?? '' }];
  const { job, index, generation, became } = row;
  const attempt = { job, index, generation, node: row.node ?? '', epoch };
  // What ran and is assigned anew has got a copy.
  const copy = row.was === 'RUNNING' && became === 'ASSIGNED' ? ({ copy: true } as const) : {};
  if (row.assigned) return [{ kind: 'task-assigned', atMs, ...attempt, ...copy }];
  const events: HistoryEvent[] = [];
  const returned = became === 'RETRYING' || became === 'QUEUED';
  if (became === 'COMPLETED' || became === 'FAILED' || returned) {
    const outcome = becameBy(row);
    const dueInMs = returned && row.due_ms !== null ? { dueInMs: Math.max(0, row.due_ms) } : {};
    events.push({ kind: 'attempt-settled', atMs, ...attempt, outcome, to: became, ...dueInMs });
  }
  if (TERMINAL.has(became)) events.push({ kind: 'task-terminal', atMs, job, index, status: became as TerminalStatus });
  return events;
}

function becameBy({ became, failed, lost }: TrailRow): string {
  if (became === 'COMPLETED') return 'succeeded';
  if (failed) return 'failed';
  return lost ? 'node-lost' : 'retracted';
}

/** What the database saw, and how everything stands at the end. */
export async function databaseEvents(sql: postgres.Sql): Promise<HistoryEvent[]> {
  // Rounded so that a commit is never dated before what a task wrote before it.
  const bootMs = Date.now() - uptimeMs() - UPTIME_STEP_MS;
  const rows = await sql<TrailRow[]>`
    select extract(epoch from trail.at)::float8 * 1000 as at_ms, trail.epoch, trail.holder, job.id as job, trail.index,
           trail.generation, node.name as node, was, became, trail.assigned, trail.failed, lost, due_ms
    from trail left join job on job.seq = trail.job left join node on node.seq = trail.node
    order by trail.seq`;
  const events = rows.flatMap((row) => transitionEvents(row, row.at_ms - bootMs));
  const atMs = uptimeMs();
  const tasks = await sql<
    { job: string; index: number; status: string; generation: number; failures: number; losses: number }[]
  >`
    select job.id as job, index, task.status, generation, failures, losses
    from ${everyTask(sql)} task join job on job.seq = task.job`;
  const jobs = await sql<{ job: string; status: string; completed: number; failed: number; cancelled: number }[]>`
    select id as job, status, completed, failed, cancelled from job`;
  return [
    ...events,
    ...tasks.map((task) => ({ kind: 'final-task', atMs, ...task }) as const),
    ...jobs.map((job) => ({ kind: 'final-job', atMs, ...job }) as const),
    { kind: 'end', atMs },
  ];
}

/** Everything in the order in which it happened. */
export const historyOf = (...sources: HistoryEvent[][]): HistoryEvent[] => merge(...sources);
