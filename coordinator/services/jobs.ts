/**
 * Live jobs in memory: what the planner and the sessions need of each, never its tasks. Rows in the store are the
 * truth; `apply` follows what statements returned. A terminal job leaves at once.
 */
import { createHash } from 'node:crypto';
import { parseSelector } from '../../common/selector.js';
import type { JobBody } from '../../proto/gen/mesh/v1/agent.js';
import { OnDisconnect } from '../../proto/gen/mesh/v1/common.js';
import { isTerminal } from '../core/job.js';
import type { Kind } from '../core/scheduler/types.js';
import { isFenced, isLimited, sandboxOf, secretsOf } from '../core/spec.js';
import type { RetryPolicy } from '../core/task.js';
import { JobTrust } from '../core/trust.js';
import { type KindRegistry, TaskTime } from '../core/work.js';
import type { JobChange, JobRow } from '../ports.js';
import type { Changes } from './changes.js';

export interface LiveJob {
  row: JobRow;
  kind: Kind;
  policy: RetryPolicy;
  body: JobBody;
  /** Nodes this job must not use, learned from failures. */
  blockedNodes: Set<number>;
  /** What it knows of the nodes. */
  trust: JobTrust;
  taskTime: TaskTime;
  /** Who is planned alike: of one submitter, priority and kind. */
  group: string;
  /** When anything of it was last assigned, monotonic; never is long ago. */
  assignedAtMs: number;
}

/** Infrastructure may take a task away this often before the task is failed (invariant I4). */
const LOSSES_MAX = 20;
const ENDED_MAX = 1000;
/** Kinds of work whose task time is remembered. */
const TIMES_MAX = 1000;
const BACKOFF_CAP_MS = 10 * 60_000;

/** Jobs that the planner need not tell apart, but for their order: see core/scheduler/shortlist.ts. */
export type Waiting = ReadonlyMap<string, ReadonlySet<LiveJob>>;

export class Jobs {
  readonly #live = new Map<number, LiveJob>();
  readonly #byId = new Map<string, LiveJob>();
  /** With tasks that were never assigned, by group. */
  readonly #waiting = new Map<string, Set<LiveJob>>();
  /** By what is run; the oldest are forgotten. */
  readonly #times = new Map<string, TaskTime>();
  /** Of jobs that ended lately: what kind of work they were, for `mesh why`, and whose quotas their last attempts count for. */
  readonly #ended = new Map<number, { kind: Kind; namespace: string }>();

  constructor(
    private readonly kinds: KindRegistry,
    private readonly changes: Changes,
    private readonly logBytesMax: number,
  ) {}

  get size(): number {
    return this.#live.size;
  }

  all(): IterableIterator<LiveJob> {
    return this.#live.values();
  }

  get(seq: number): LiveJob | undefined {
    return this.#live.get(seq);
  }

  /** Whether it has ended, as far as is known here; undefined where only the store can tell. */
  hasEnded(seq: number): boolean | undefined {
    if (this.#live.has(seq)) return false;
    return this.#ended.has(seq) ? true : undefined;
  }

  /** Also of a job that ended lately. */
  kindOf(seq: number): Kind | undefined {
    return this.#live.get(seq)?.kind ?? this.#ended.get(seq)?.kind;
  }

  /** Also of a job that ended lately. */
  namespaceOf(seq: number): string | undefined {
    return this.#live.get(seq)?.row.namespace ?? this.#ended.get(seq)?.namespace;
  }

  byId(id: string): LiveJob | undefined {
    return this.#byId.get(id);
  }

  add(row: JobRow): LiveJob {
    const known = this.#live.get(row.seq);
    if (known) return known;
    const { spec } = row;
    const live: LiveJob = {
      row,
      kind: this.intern(row),
      policy: {
        failuresMax: spec.retries + 1,
        lossesMax: LOSSES_MAX,
        backoffMs: spec.backoffMs,
        backoffCapMs: BACKOFF_CAP_MS,
      },
      body: makeBody(row, this.logBytesMax),
      blockedNodes: new Set(),
      trust: new JobTrust(),
      taskTime: new TaskTime(this.timeOf(row)),
      group: '',
      assignedAtMs: Number.NEGATIVE_INFINITY,
    };
    live.group = `${row.priority}/${live.kind.id}/${row.namespace}/${row.submitter}`;
    this.#live.set(row.seq, live);
    this.#byId.set(row.id, live);
    this.#sort(live);
    return live;
  }

  /** Tasks that were never assigned. */
  fresh({ row }: LiveJob): number {
    return row.counts.total - row.cursor;
  }

  /** Jobs with tasks that were never assigned, by group. */
  waiting(): Waiting {
    return this.#waiting;
  }

  /** Another job that the planner would place wherever it places this one, and before it, waits. */
  hasLike(job: LiveJob): boolean {
    for (const other of this.#waiting.get(job.group) ?? [])
      if (other !== job && other.blockedNodes.size === 0) return true;
    return false;
  }

  #sort(job: LiveJob): void {
    const group = this.#waiting.get(job.group);
    if (this.fresh(job) > 0 && !job.row.cancelling) {
      if (group) group.add(job);
      else this.#waiting.set(job.group, new Set([job]));
    } else if (group?.delete(job) && group.size === 0) this.#waiting.delete(job.group);
  }

  release(kind: Kind): void {
    this.kinds.release(kind);
  }

  /** Each call is paired with a `release`. */
  intern({ type, spec }: Pick<JobRow, 'type' | 'spec'>): Kind {
    return this.kinds.intern(type, resourcesOf(spec), parseSelector(spec.where), {
      fenced: isFenced(spec),
      sandbox: sandboxOf(spec),
      limited: isLimited(spec),
      secrets: secretsOf(spec),
    });
  }

  /** What other jobs that run the same have taught. */
  timeOf({ submitter, spec: { work } }: Pick<JobRow, 'submitter' | 'spec'>): TaskTime {
    const key = createHash('sha256')
      .update(JSON.stringify([submitter, work]))
      .digest('base64');
    const time = this.#times.get(key) ?? new TaskTime();
    this.#times.delete(key);
    this.#times.set(key, time);
    if (this.#times.size > TIMES_MAX) this.#times.delete(this.#times.keys().next().value as string);
    return time;
  }

  /** Follows the store; retires jobs that ended. Returns the jobs that this change ended. */
  apply(changes: readonly JobChange[]): JobRow[] {
    const ended: JobRow[] = [];
    for (const change of changes) {
      const live = this.#live.get(change.seq);
      if (live) {
        // Answers of two statements may arrive in the other order; a cursor never goes back.
        Object.assign(live.row, change, { cursor: Math.max(live.row.cursor, change.cursor) });
        if (isTerminal(change.status)) {
          this.#retire(live);
          ended.push(live.row);
        } else this.#sort(live);
      }
      this.changes.jobs.emit(change.seq, undefined);
    }
    return ended;
  }

  /** Follows a row that was read, where the answer of a statement was lost. Returns the job if that ended it. */
  follow(row: JobRow): JobRow[] {
    const { seq, status, counts, cursor, startedAtMs, completedAtMs } = row;
    return this.apply([{ seq, status, counts, cursor, startedAtMs, completedAtMs }]);
  }

  #retire(live: LiveJob): void {
    this.#live.delete(live.row.seq);
    this.#byId.delete(live.row.id);
    const group = this.#waiting.get(live.group);
    if (group?.delete(live) && group.size === 0) this.#waiting.delete(live.group);
    this.kinds.release(live.kind);
    this.#ended.set(live.row.seq, { kind: live.kind, namespace: live.row.namespace });
    if (this.#ended.size > ENDED_MAX) this.#ended.delete(this.#ended.keys().next().value as number);
  }
}

const resourcesOf = ({ resources }: JobRow['spec']): Kind['resources'] =>
  resources ?? { cpuMillis: 0, memoryBytes: 0, gpus: 0, custom: {} };

function makeBody(row: JobRow, logBytesMax: number): JobBody {
  return {
    job: row.seq,
    jobId: row.id,
    work: row.spec.work,
    resources: resourcesOf(row.spec),
    timeoutMs: row.spec.timeoutMs,
    taskCount: row.counts.total,
    array: row.spec.array,
    logBytesMax,
    onDisconnect: row.spec.onDisconnect || OnDisconnect.KEEP,
    sandbox: row.spec.sandbox,
    net: row.spec.net,
    limits: row.spec.limits,
    // Whose they are is none of the agents' business.
    secrets: row.spec.secrets.map((use) => ({ ...use, owner: '' })),
  };
}
