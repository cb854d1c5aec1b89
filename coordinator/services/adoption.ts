/**
 * Attempts that come back with their agent after they were given away.
 *
 * - Nobody else has the task yet: it is adopted in the generation it had, and nothing re-runs.
 * - A replacement has it, and what returns has ended, or has run for longer than the replacement: it is *readopted* under
 *   a fresh generation, and the replacement is cancelled. One statement decides, so that whichever result is committed
 *   first is the only one (I2). A running attempt of a fenced job never is: its agent should have killed it, and both
 *   must not run (I8). Neither is one whose agent could not be told its new generation.
 *
 * When the answer of such a statement is lost, nobody knows whom the task belongs to: it is asked again, before the agent
 * is let in again, and every half second, until the answer is heard. Both statements may be repeated.
 */
import type { Clock } from '../../common/clock.js';
import { toMeshError } from '../../common/errors.js';
import { groupBy } from '../../common/group-by.js';
import type { Logger } from '../../common/log.js';
import type { AgentHello } from '../../proto/gen/mesh/v1/agent.js';
import type { Ledger } from '../core/ledger.js';
import { isFenced } from '../core/spec.js';
import { attemptKey, type TaskRef } from '../core/task.js';
import type { LiveTask, ReadoptedTask, ReadoptItem, Store } from '../ports.js';
import type { Fleet } from './fleet.js';
import type { Jobs } from './jobs.js';
import { FENCING_PROTOCOL, fromRefs, toRefs } from './session.js';

/** References in one statement. */
const BATCH_MAX = 2000;
const RETRY_MS = 500;

export interface AdoptionOptions {
  store: Store;
  jobs: Jobs;
  fleet: Fleet;
  ledger: Ledger;
  clock: Clock;
  log: Logger;
  epoch: () => number;
}

/** What an agent holds and the ledger does not. */
interface Returning extends TaskRef {
  node: number;
  /** Milliseconds since it started; Infinity when it has ended: nothing is further ahead. Undefined when nobody said. */
  ageMs: number | undefined;
}

/** Attempts of the hello that go on under a later generation. */
export type Renumberings = readonly { former: TaskRef; generation: number }[];

type Ask = { adopt: Returning[] } | { readopt: ReadoptItem[] };

export class Adoption {
  readonly #options: AdoptionOptions;
  /** Statements whose answer was lost, per node. */
  readonly #unsure = new Map<number, Ask[]>();

  constructor(options: AdoptionOptions) {
    this.#options = options;
  }

  /** @throws MeshError of the store; what it did then is found out before the next call for this node returns */
  async take(
    node: number,
    protocol: number,
    hello: AgentHello,
  ): Promise<{ adopted: number; renumbered: Renumberings }> {
    await this.#findOut(node);
    const returning = this.#returning(node, hello);
    let adopted = 0;
    for (const batch of batches(returning)) adopted += (await this.#ask(node, { adopt: batch })).length;
    if (protocol < FENCING_PROTOCOL) return { adopted, renumbered: [] };
    for (const batch of batches(this.#ahead(returning))) await this.#ask(node, { readopt: batch });
    return { adopted, renumbered: this.#renumber(returning, hello) };
  }

  /**
   * What the node has the task of, under a later generation than it knows: readopted now, or before a welcome that was
   * lost on the way; or assigned to it anew, while it still had the former attempt and had not heard of the later one.
   */
  #renumber(returning: readonly Returning[], hello: AgentHello): Renumberings {
    const { ledger, jobs, clock } = this.#options;
    const listed = new Set([...fromRefs(hello.running), ...fromRefs(hello.unacknowledged)].map(attemptKey));
    for (const ref of fromRefs(hello.prefilled)) listed.add(attemptKey(ref));
    const renumbered: { former: TaskRef; generation: number }[] = [];
    for (const { node, ageMs, ...former } of returning) {
      const present = ledger.current(former.job, former.index);
      if (
        !present ||
        present.node !== node ||
        present.generation <= former.generation ||
        listed.has(attemptKey(present))
      )
        continue;
      const job = jobs.get(former.job);
      if (!job || job.row.cancelling || ageMs === undefined) continue;
      if (isFenced(job.row.spec)) continue;
      if (ageMs !== Number.POSITIVE_INFINITY) ledger.markRunning(present, node, clock.monotonicMs() - ageMs);
      listed.add(attemptKey(present));
      renumbered.push({ former, generation: present.generation });
    }
    return renumbered;
  }

  #returning(node: number, hello: AgentHello): Returning[] {
    const { ledger } = this.#options;
    const running = fromRefs(hello.running).map((ref, i) => ({ ...ref, node, ageMs: hello.runningAgeMs[i] }));
    const ended = fromRefs(hello.unacknowledged).map((ref) => ({ ...ref, node, ageMs: Number.POSITIVE_INFINITY }));
    return [...running, ...ended].filter((ref) => !ledger.get(ref, node));
  }

  /** Those of them that are further ahead than what replaced them. */
  #ahead(returning: readonly Returning[]): ReadoptItem[] {
    const { ledger, jobs, clock } = this.#options;
    const nowMs = clock.monotonicMs();
    return returning.flatMap(({ ageMs, ...ref }) => {
      const job = jobs.get(ref.job);
      const present = ledger.ofTask(ref.job, ref.index);
      const [replacement] = present;
      // With two attempts under way already the task has what it needs.
      if (!job || job.row.cancelling || !replacement || present.length > 1 || ageMs === undefined) return [];
      if (replacement.node === ref.node || replacement.generation <= ref.generation) return [];
      const hasEnded = ageMs === Number.POSITIVE_INFINITY;
      // One that has ended may have been ended by the fence: it must not cost the replacement its life.
      if (isFenced(job.row.spec)) return [];
      const ranMs = replacement.holding ? nowMs - (replacement.startedAtMs ?? replacement.assignedAtMs) : 0;
      if (ageMs <= ranMs) return [];
      const { generation, node } = replacement;
      return [{ ...ref, replacement: { generation, node }, ageMs: hasEnded ? undefined : ageMs }];
    });
  }

  async #ask(node: number, ask: Ask): Promise<readonly LiveTask[]> {
    try {
      return await this.#run(ask);
    } catch (error) {
      if (toMeshError(error).code !== 'LEADERSHIP_LOST') this.#remember(node, ask);
      throw error;
    }
  }

  async #run(ask: Ask): Promise<readonly LiveTask[]> {
    const { store, jobs, epoch } = this.#options;
    const { changed, jobs: changes } =
      'adopt' in ask ? await store.tasks.adopt(epoch(), ask.adopt) : await store.tasks.readopt(epoch(), ask.readopt);
    jobs.apply(changes);
    if ('readopt' in ask) this.#replace(changed as ReadoptedTask[]);
    this.#enter(changed, ask);
    return changed;
  }

  /**
   * Into the ledger, as old as the agent says, or the row. Its node was OFFLINE perhaps, and its session is not open yet:
   * the hello was a sign of life, and without a lease of its own what was adopted would be given away at the next look.
   */
  #enter(tasks: readonly LiveTask[], ask: Ask): void {
    const { fleet, ledger, jobs, clock } = this.#options;
    const nowMs = clock.monotonicMs();
    const ages = new Map<string, number | undefined>();
    for (const { job, index, ageMs } of 'adopt' in ask ? ask.adopt : ask.readopt)
      if (Number.isFinite(ageMs)) ages.set(`${job}.${index}`, ageMs);
    for (const task of tasks) {
      const job = jobs.get(task.job);
      if (!job) continue;
      const ageMs = ages.get(`${task.job}.${task.index}`) ?? task.ageMs ?? 0;
      ledger.add(task, job.kind, job.row.submitter, nowMs - ageMs);
      ledger.markRunning(task, task.node, nowMs - ageMs);
    }
    for (const seq of new Set(tasks.map(({ node }) => node))) {
      const node = fleet.get(seq);
      if (node) fleet.alive(node);
    }
  }

  /** The replacements lose their tasks, and keep their room until their agents have killed them. */
  #replace(tasks: readonly ReadoptedTask[]): void {
    const { ledger, fleet, log } = this.#options;
    const replaced = tasks.map(({ job, index, replacement }) => ({ job, index, ...replacement }));
    for (const ref of replaced) ledger.condemn(ref, ref.node);
    for (const [node, refs] of groupBy(replaced, (ref) => ref.node)) {
      const live = fleet.get(node);
      log.info({ event: 'task.readopted', from: fleet.nameOf(node), tasks: refs.length }, 'an attempt came back ahead');
      if (live?.session?.open) live.session.send({ $case: 'cancel', value: toRefs(refs) });
    }
  }

  #remember(node: number, ask: Ask): void {
    const asks = this.#unsure.get(node) ?? [];
    this.#unsure.set(node, [...asks, ask]);
    this.#later(node);
  }

  #later(node: number): void {
    const { clock, log } = this.#options;
    const again = () =>
      this.#findOut(node).catch((error: unknown) => {
        if (toMeshError(error).code === 'LEADERSHIP_LOST') return this.#unsure.delete(node);
        log.warn({ event: 'task.adoption-unknown', node: this.#options.fleet.nameOf(node), err: error });
        return this.#later(node);
      });
    clock.after(RETRY_MS, () => void again(), { background: true });
  }

  async #findOut(node: number): Promise<void> {
    for (let ask = this.#unsure.get(node)?.[0]; ask; ask = this.#unsure.get(node)?.[0]) {
      await this.#run(ask);
      const rest = this.#unsure.get(node)?.filter((other) => other !== ask) ?? [];
      if (rest.length > 0) this.#unsure.set(node, rest);
      else this.#unsure.delete(node);
    }
  }
}

function* batches<T>(items: readonly T[]): Generator<T[]> {
  for (let from = 0; from < items.length; from += BATCH_MAX) yield items.slice(from, from + BATCH_MAX);
}
