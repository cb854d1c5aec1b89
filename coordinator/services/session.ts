import { groupBy } from '../../common/group-by.js';
import { RecentSet, SESSION_BODIES_MAX } from '../../common/recent-set.js';
import type { AssignGroup, JobBody, JobSecrets, SessionResponse, TaskRefs } from '../../proto/gen/mesh/v1/agent.js';
import { TaskInput } from '../../proto/gen/mesh/v1/common.js';
import type { TaskRef } from '../core/task.js';
import type { Assigned, AssignedRange, AssignedTask } from '../ports.js';

/**
 * From this version on an agent kills the attempts of `--on-disconnect stop` by itself when its lease ends, names the
 * ages of what it runs, and takes attempts back under another generation.
 */
export const FENCING_PROTOCOL = 2;
/** Since this version an agent can be told in which tier an attempt runs and what it may use. */
export const SANDBOX_PROTOCOL = 3;

/** From this version on an agent is given secrets, and keeps them as it should. */
export const SECRETS_PROTOCOL = 3;

/** Rows to columns, as they travel. */
export function toRefs(refs: Iterable<TaskRef>): TaskRefs {
  const columns: TaskRefs = { jobs: [], indexes: [], generations: [] };
  for (const ref of refs) {
    columns.jobs.push(ref.job);
    columns.indexes.push(ref.index);
    columns.generations.push(ref.generation);
  }
  return columns;
}

/** Columns to rows. They are of one length (rpc/session-rules.ts). */
export function fromRefs(columns: TaskRefs | undefined): TaskRef[] {
  if (!columns) return [];
  const length = Math.min(columns.jobs.length, columns.indexes.length, columns.generations.length);
  const refs: TaskRef[] = [];
  for (let i = 0; i < length; i++) {
    refs.push({
      job: columns.jobs[i] as number,
      index: columns.indexes[i] as number,
      generation: columns.generations[i] as number,
    });
  }
  return refs;
}

const NO_NEWS: string[] = [];

export type Send = (message: NonNullable<SessionResponse['body']>) => void;

/** One connected agent process: what it is told, in batches. */
export class AgentSession {
  readonly #bodies = new RecentSet<number, true>(SESSION_BODIES_MAX);
  #open = true;
  #told: string[] = NO_NEWS;
  #owedBytes = 0;
  #held: { untilBytes: number; release: () => void } | undefined;

  constructor(
    /** The node's number in the store. */
    readonly node: number,
    readonly bootId: string,
    /** The session protocol's version both agreed on. */
    readonly protocol: number,
    private readonly write: Send,
    private readonly end: () => void,
  ) {}

  get open(): boolean {
    return this.#open;
  }

  send(message: NonNullable<SessionResponse['body']>): void {
    if (this.#open) this.write(message);
  }

  /** What it reported and waits to hear of, in bytes of memory. */
  get owedBytes(): number {
    return this.#owedBytes;
  }

  owe(bytes: number): void {
    this.#owedBytes += bytes;
  }

  repay(bytes: number): void {
    this.#owedBytes -= bytes;
    if (!this.#held || this.#owedBytes > this.#held.untilBytes) return;
    const { release } = this.#held;
    this.#held = undefined;
    release();
  }

  /** Whether it is not read because of what it owes. */
  get isHeld(): boolean {
    return this.#held !== undefined;
  }

  /** It is not read until it owes no more than that; `release` is called then. */
  hold(untilBytes: number, release: () => void): void {
    this.#held = { untilBytes, release };
  }

  /**
   * Tasks of any jobs; a job's body goes along unless this session still remembers it. What a job's secrets are worth goes
   * along every time, in a message of its own: the agent forgets them with the last attempt, and large ones of several
   * jobs are not to add up to more than a message holds.
   */
  assign(
    epoch: number,
    given: Assigned,
    bodyOf: (job: number) => JobBody | undefined,
    valuesOf: (job: number) => Buffer[],
  ): void {
    const plain: AssignGroup[] = [];
    const secret: AssignGroup[] = [];
    for (const group of [...given.ranges.map(rangeGroup), ...groupsOf(given.tasks)]) {
      const body = bodyOf(group.job);
      if (body) (body.secrets.length > 0 ? secret : plain).push(group);
    }
    this.#assign(epoch, plain, bodyOf);
    for (const [, groups] of groupBy(secret, ({ job }) => job)) this.#assign(epoch, groups, bodyOf, valuesOf);
  }

  #assign(
    epoch: number,
    groups: AssignGroup[],
    bodyOf: (job: number) => JobBody | undefined,
    valuesOf?: (job: number) => Buffer[],
  ): void {
    if (groups.length === 0) return;
    const bodies: JobBody[] = [];
    for (const { job } of groups) {
      if (this.#bodies.touch(job)) continue;
      this.#bodies.put(job, true);
      bodies.push(bodyOf(job) as JobBody);
    }
    const [{ job }] = groups as [AssignGroup];
    const secrets: JobSecrets[] = valuesOf ? [{ job, values: valuesOf(job) }] : [];
    this.send({ $case: 'assign', value: { epoch, bodies, groups, secrets } });
  }

  /** The list when it is another than this session was last told, and nothing otherwise. */
  news(coordinators: string[]): string[] {
    const told = this.#told;
    this.#told = coordinators;
    const isTold =
      told === coordinators || (told.length === coordinators.length && told.join() === coordinators.join());
    return isTold ? NO_NEWS : coordinators;
  }

  /** @param coordinators where to go instead, the leader first */
  close(reason: string, permanent: boolean, coordinators: string[] = []): void {
    if (!this.#open) return;
    this.send({ $case: 'goodbye', value: { reason, permanent, coordinators } });
    this.#open = false;
    this.end();
  }

  /** The stream ended by itself. */
  closed(): void {
    this.#open = false;
  }
}

const rangeGroup = ({ job, from, to, inputs }: AssignedRange): AssignGroup => {
  const indexes = Array.from({ length: to - from }, (_, place) => from + place);
  return { job, indexes, generations: indexes.map(() => 1), attempts: [], inputs: inputs?.map(readInput) ?? [] };
};

const groupsOf = (tasks: readonly AssignedTask[]): AssignGroup[] =>
  [...groupBy(tasks, ({ job }) => job)].map(([job, list]) => {
    const attempts = list.map((task) => task.failures + task.losses + 1);
    return {
      job,
      indexes: list.map((task) => task.index),
      generations: list.map((task) => task.generation),
      attempts: attempts.every((attempt) => attempt === 1) ? [] : attempts,
      inputs: list.some((task) => task.input !== undefined) ? list.map((task) => readInput(task.input)) : [],
    };
  });

const readInput = (text: string | undefined): TaskInput =>
  text === undefined ? TaskInput.create() : TaskInput.fromPartial(JSON.parse(text) as Partial<TaskInput>);
