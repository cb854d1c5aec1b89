import { type RawBuilder, sql } from 'kysely';
import { test } from 'tap';
import { withStore } from '../../test/support/postgres.js';
import { lead, lost, newJob, pages, settlement } from '../../test/support/store-fixtures.js';
import type { PostgresStore } from './index.js';
import { assignStatement } from './tasks-assign.js';
import { cancelStatement } from './tasks-cancel.js';
import { completeRowsStatement, completeRowStatement, completeStatement, toSaid } from './tasks-complete.js';
import { listStatement } from './task-list.js';
import { dueStatement, nextDueStatement, returnedStatement } from './tasks-read.js';
import { makeRowsStatement } from './task-ranges.js';
import { readoptStatement } from './tasks-readopt.js';
import { adoptStatement, markRunningStatement } from './tasks-running.js';
import { settleStatement } from './tasks-settle.js';
import { makeCopyStatement, runTimesStatement, settleCopyStatement } from './tasks-speculate.js';

/**
 * The hot statements must reach `task` by its primary key whatever the planner believes about the table: one plan for all
 * states of the statistics. adr/0005-plan-stability.md tells what the wrong plan costs.
 */
interface PlanNode {
  'Node Type': string;
  'Relation Name'?: string;
  'Index Name'?: string;
  'Index Cond'?: string;
  Plans?: PlanNode[];
}

const ACCESS = new Set(['Index Scan', 'Index Only Scan']);
const SMALL = 20_000;
const LARGE = 200_000;

const nodesOf = (node: PlanNode): PlanNode[] => [node, ...(node.Plans ?? []).flatMap(nodesOf)];

async function planOf(store: PostgresStore, statement: RawBuilder<unknown>): Promise<PlanNode[]> {
  const { rows } = await sql<{ 'QUERY PLAN': { Plan: PlanNode }[] }>`explain (format json) ${statement}`.execute(
    store.database.kysely,
  );
  return nodesOf(rows[0]?.['QUERY PLAN'][0]?.Plan as PlanNode);
}

/** The plan a prepared statement keeps: made without knowing any parameter. PostgreSQL 16 and later can show it. */
async function keptPlanOf(store: PostgresStore, statement: RawBuilder<unknown>): Promise<PlanNode[]> {
  const text = statement.compile(store.database.kysely).sql;
  const explain = sql.raw<{ 'QUERY PLAN': { Plan: PlanNode }[] }>(`explain (generic_plan, format json) ${text}`);
  const { rows } = await explain.execute(store.database.kysely);
  return nodesOf(rows[0]?.['QUERY PLAN'][0]?.Plan as PlanNode);
}

function hotStatements(epoch: number, job: number, size: number): [string, RawBuilder<unknown>][] {
  const refs = Array.from({ length: size }, (_, index) => ({ job, index, generation: 1, node: 1 + (index % 4) }));
  const ranges = Array.from({ length: Math.min(size, 8) }, (_, i) => ({
    job,
    node: i + 1,
    from: i * 100,
    to: i * 100 + 100,
  }));
  return [
    ['assign ranges', assignStatement(epoch, ranges)],
    ['assign returned', assignStatement(epoch, [{ job, node: 1, indexes: refs.map(({ index }) => index) }])],
    [
      'mark running',
      markRunningStatement(
        epoch,
        refs.map((ref) => ({ ...ref, ageMs: 300 })),
      ),
    ],
    ['complete', completeStatement(epoch, toSaid(refs.map((ref) => settlement(ref))))],
    ['complete rows', completeRowsStatement(epoch, toSaid(refs.map((ref) => settlement(ref))))],
    ['complete a row', completeRowStatement(epoch, settlement({ job, index: 5, generation: 1, node: 1 }))],
    [
      'settle',
      settleStatement(
        epoch,
        refs.map((ref) => settlement(ref)),
      ),
    ],
    [
      'settle losses',
      settleStatement(
        epoch,
        refs.map((ref) => lost(ref)),
      ),
    ],
    ['adopt', adoptStatement(epoch, refs)],
    [
      'readopt',
      readoptStatement(
        epoch,
        refs.map((ref) => ({ ...ref, replacement: { generation: 2, node: 9 }, ageMs: 1000 })),
      ),
    ],
    ['make rows', makeRowsStatement(epoch, [{ job, from: 100, to: 100 + size }])],
    ['cancel', cancelStatement(epoch, job, 100, size)],
    ['make a copy', makeCopyStatement(epoch, { job, index: 5, generation: 1, node: 1, to: 2 })],
    ['settle a copy', settleCopyStatement(epoch, settlement({ job, index: 5, generation: 1, node: 1 }))],
  ];
}

async function hasGenericPlans(store: PostgresStore): Promise<boolean> {
  const { rows } = await sql<{ can: boolean }>`
    select current_setting('server_version_num')::integer >= 160000 as can`.execute(store.database.kysely);
  return rows[0]?.can ?? false;
}

type Check = (condition: boolean, message: string) => void;

async function checkPlans(store: PostgresStore, epoch: number, job: number, state: string, check: Check) {
  const checkHot = (name: string, plan: PlanNode[]): void => {
    const nodes = plan.filter((node) => node['Node Type'] !== 'ModifyTable');
    const touching = nodes.filter((node) => node['Relation Name'] === 'task');
    // Fresh tasks, and those of ranges, are only written; everything else reads what it moves.
    check(touching.length > 0 || /^(?:assign ranges|make rows)/.test(name), `${state}: ${name} touches task`);
    for (const node of touching) {
      const condition = node['Index Cond'] ?? '';
      const byKey =
        node['Node Type'] === 'Index Scan' &&
        node['Index Name'] === 'task_pkey' &&
        /\bjob = /.test(condition) &&
        /\bindex (=|>=) /.test(condition);
      check(
        byKey,
        `${state}: ${name} reaches task by its key: ${node['Node Type']} ${node['Index Name']} ${condition}`,
      );
    }
    const joins = nodes.filter((node) => /Hash Join|Merge Join/.test(node['Node Type']));
    check(joins.length === 0, `${state}: ${name} joins by nested loops`);
    const scans = nodes.filter((node) => node['Node Type'] === 'Seq Scan' && node['Relation Name'] !== 'leader');
    check(scans.length === 0, `${state}: ${name} scans no table`);
    const chunks = nodes.filter((node) => node['Relation Name'] === 'job_input');
    check(
      chunks.every((node) => node['Index Name'] === 'job_input_pkey' && /job_id = /.test(node['Index Cond'] ?? '')),
      `${state}: ${name} reaches inputs by their key`,
    );
    check(chunks.length > 0 || !/^(?:assign ranges|make rows)/.test(name), `${state}: ${name} looks for inputs`);
  };
  for (const size of [1, 1000])
    for (const [name, statement] of hotStatements(epoch, job, size))
      checkHot(`${name} of ${size}`, await planOf(store, statement));
  if (await hasGenericPlans(store))
    for (const [name, statement] of hotStatements(epoch, job, 1))
      checkHot(`${name}, planned once,`, await keptPlanOf(store, statement));
  const reading = (table: string, plan: PlanNode[]): string[] =>
    plan.filter((node) => node['Relation Name'] === table).map((node) => `${node['Node Type']} ${node['Index Name']}`);
  const sample = reading('task', await planOf(store, runTimesStatement(job, 2000)));
  check(sample.join() === 'Index Scan task_pkey', `${state}: running times are read along the key: ${sample.join()}`);
  const few = Array.from({ length: 500 }, (_, other) => job + other);
  const returning: [string, RawBuilder<unknown>, number][] = [
    ['due', dueStatement([job], 5000), 1],
    ['due of many jobs', dueStatement(few, 10), 1],
    ['returned', returnedStatement(0, 500), 2],
    ['next due', nextDueStatement(few), 1],
  ];
  for (const [name, statement, times] of returning) {
    const plans = [await planOf(store, statement)];
    if (await hasGenericPlans(store)) plans.push(await keptPlanOf(store, statement));
    for (const plan of plans) {
      const touching = plan.filter((node) => node['Relation Name'] === 'task');
      const ways = touching.map((node) => `${node['Node Type']} ${node['Index Name']}`);
      const good = touching.length === times && touching.every((node) => ACCESS.has(node['Node Type']));
      check(
        good && touching.every((node) => node['Index Name'] === 'task_returned' && node['Index Cond'] !== undefined),
        `${state}: ${name} reads the index of what is due: ${ways.join()}`,
      );
      const limited = plan.filter((node) => node['Node Type'] === 'Limit').flatMap((node) => node.Plans ?? []);
      const sorted = limited.filter((node) => /Sort/.test(node['Node Type']));
      check(limited.length > 0 && sorted.length === 0, `${state}: ${name} sorts nothing that it then cuts off`);
    }
  }
  for (const status of [undefined, 'FAILED'] as const) {
    const query = { job, fromIndex: 5000, limit: 50, ...(status ? { status, among: 'failed' as const } : {}) };
    const page = reading('task', await planOf(store, listStatement(query)));
    check(
      page.join() === 'Index Scan task_pkey',
      `${state}: a page of ${status ?? 'all'} tasks goes by key: ${page.join()}`,
    );
  }
}

const states: [string, (store: PostgresStore, fill: (rows: number) => Promise<void>) => Promise<void>][] = [
  ['empty', async () => undefined],
  ['fresh, never analyzed', (_store, fill) => fill(SMALL)],
  [
    'analyzed when empty, then filled',
    async (store, fill) => {
      await sql`analyze`.execute(store.database.kysely);
      await fill(SMALL);
    },
  ],
  [
    'large and analyzed',
    async (store, fill) => {
      await fill(LARGE);
      await sql`analyze`.execute(store.database.kysely);
    },
  ],
  [
    'analyzed when large, then emptied and begun again',
    async (store, fill) => {
      await fill(SMALL);
      await sql`analyze`.execute(store.database.kysely);
      await sql`delete from task where index > 10`.execute(store.database.kysely);
      await sql`vacuum task`.execute(store.database.kysely);
    },
  ],
];

for (const [state, prepare] of states) {
  test(`plans with the table ${state}`, async (t) => {
    const store = await withStore(t);
    const epoch = await lead(store);
    const { job } = await store.jobs.create(newJob(LARGE), pages());
    await prepare(
      store,
      async (to) => void (await store.tasks.assign(epoch, [{ job: job.seq, node: 1, from: 0, to }])),
    );
    await checkPlans(store, epoch, job.seq, state, (condition, message) => t.ok(condition, message));
  });
}
