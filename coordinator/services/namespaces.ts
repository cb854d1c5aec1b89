/**
 * Namespaces: groups of submitters with quotas (core/quotas.ts says what each quota means). The leader holds them in
 * memory and is the only one to change them, so that a submission and a plan ask nothing of the database, except for
 * the bytes stored, where there is a quota on them.
 *
 * What a job takes is read off the live jobs and the ledger when somebody asks; nothing is counted twice. A submission
 * counts from the moment it is admitted, so that many at a time cannot pass one quota together.
 */
import { MeshError } from '../../common/errors.js';
import { isName } from '../../common/ids.js';
import type { Service } from '../../common/lifecycle.js';
import type { Ledger } from '../core/ledger.js';
import {
  type Allowance,
  allowanceOf,
  type Asked,
  holdsBack,
  NO_QUOTAS,
  type Quotas,
  requireQuota,
  type Usage,
  whyHeldBack,
} from '../core/quotas.js';
import { costOf } from '../core/room.js';
import { DEFAULT_NAMESPACE, type NamespaceRow, type NamespaceStore } from '../ports.js';
import type { Actor, Audit } from './audit.js';
import type { Jobs, LiveJob } from './jobs.js';

export interface NamespacesOptions {
  store: NamespaceStore;
  jobs: Jobs;
  ledger: Ledger;
  audit: Pick<Audit, 'record'>;
  /** A quota may have risen: there may be work to place. */
  onChanged: () => void;
}

/** A change: what is undefined stays as it is, a quota of null goes. */
export interface NamespaceChange {
  name: string;
  quotas: { [Name in keyof Quotas]: number | null | undefined };
  members: readonly string[];
  without: readonly string[];
}

const NAMESPACES_MAX = 1000;

export class Namespaces implements Service {
  readonly name = 'namespaces';
  readonly #options: NamespacesOptions;
  readonly #rows = new Map<string, NamespaceRow>();
  readonly #ofSubmitter = new Map<string, string>();
  /** One change after the other: what is not named in one stays as the one before left it. */
  #changing: Promise<void> = Promise.resolve();
  /** Admitted and not yet among the live jobs. */
  readonly #admitted = new Map<string, { queued: number; bytes: number }>();

  constructor(options: NamespacesOptions) {
    this.#options = options;
  }

  start(): Promise<void> {
    return this.#load();
  }

  async stop(): Promise<void> {}

  nameOf(submitter: string): string {
    return this.#ofSubmitter.get(submitter) ?? DEFAULT_NAMESPACE;
  }

  /** All, by name, with what each takes now. */
  async list(): Promise<{ row: NamespaceRow; usage: Usage }[]> {
    const rows = [...this.#rows.values()].sort((a, b) => (a.name < b.name ? -1 : 1));
    const used = this.#running();
    return Promise.all(rows.map(async (row) => ({ row, usage: await this.#usage(row.name, used) })));
  }

  /**
   * Makes a namespace or changes one.
   * @throws MeshError BAD_NAME, USAGE when the change contradicts itself, CONFLICT when there are too many
   */
  set(change: NamespaceChange, actor: Actor): Promise<void> {
    const done = this.#changing.then(() => this.#set(change, actor));
    this.#changing = done.catch(() => undefined);
    return done;
  }

  async #set(change: NamespaceChange, actor: Actor): Promise<void> {
    for (const name of [change.name, ...change.members, ...change.without])
      if (!isName(name)) throw new MeshError('BAD_NAME', `"${name.slice(0, 80)}" is not a name`);
    const both = change.members.find((member) => change.without.includes(member));
    if (both !== undefined) throw new MeshError('USAGE', `${both} cannot join and leave at once`);
    const known = this.#rows.get(change.name);
    if (!known && this.#rows.size >= NAMESPACES_MAX)
      throw new MeshError('CONFLICT', `there are ${NAMESPACES_MAX} namespaces, the most a mesh has`, {
        hint: 'remove one first: mesh namespace remove NAME',
      });
    const quotas = { ...(known?.quotas ?? NO_QUOTAS) };
    for (const name of Object.keys(NO_QUOTAS) as (keyof Quotas)[]) {
      const given = change.quotas[name];
      if (given !== undefined) quotas[name] = given ?? undefined;
    }
    checkRanges(quotas);
    const { name, members, without } = change;
    await this.#options.store.set({ name, quotas, members, without });
    await this.#load();
    await this.#options.audit.record(actor, 'namespace.changed', name, { ...quotas, members, without });
    this.#options.onChanged();
  }

  /** @throws MeshError NOT_FOUND, CONFLICT for the default one and while it has work */
  async remove(name: string, actor: Actor): Promise<void> {
    if (name === DEFAULT_NAMESPACE)
      throw new MeshError('CONFLICT', 'the default namespace stays: everybody is in it who is in no other', {
        hint: 'take its quotas away instead: mesh namespace set default --running none',
      });
    const live = this.#jobsOf(name).length;
    if (live > 0)
      throw new MeshError(
        'CONFLICT',
        `${live} ${live === 1 ? 'job' : 'jobs'} of the namespace ${name} did not end yet`,
        {
          hint: 'wait for them, or cancel them',
        },
      );
    if (!(await this.#options.store.remove(name)))
      throw new MeshError('NOT_FOUND', `there is no namespace "${name.slice(0, 80)}"`, {
        hint: 'see: mesh namespace list',
      });
    await this.#load();
    await this.#options.audit.record(actor, 'namespace.removed', name);
  }

  /**
   * Lets a submission in; `release` is to be called once the job is among the live ones, or was not kept.
   * @throws MeshError QUOTA
   */
  async admit(namespace: string, asked: Asked): Promise<{ release: () => void }> {
    const quotas = this.#quotas(namespace);
    // Taken before anything is awaited: whoever comes meanwhile sees it.
    const mine = { queued: asked.tasks, bytes: asked.bytes };
    const taken = this.#admitted.get(namespace) ?? { queued: 0, bytes: 0 };
    const before = { ...taken };
    this.#admitted.set(namespace, { queued: taken.queued + mine.queued, bytes: taken.bytes + mine.bytes });
    const release = () => this.#release(namespace, mine);
    try {
      const bytes =
        quotas.bytes === undefined || asked.bytes === 0 ? 0 : await this.#options.store.storedBytes(namespace);
      const queued = quotas.queued === undefined ? 0 : this.#queued(namespace);
      const usage = { running: 0, cpuMillis: 0, queued: queued + before.queued, bytes: bytes + before.bytes };
      requireQuota(namespace, quotas, usage, asked);
    } catch (error) {
      release();
      throw error;
    }
    return { release };
  }

  /** For the planner: what namespaces with quotas on running work may still be assigned; undefined when none has any. */
  allowances(): Map<string, Allowance> | undefined {
    const limited = [...this.#rows.values()].filter(({ quotas }) => holdsBack(quotas));
    if (limited.length === 0) return undefined;
    const used = this.#running();
    return new Map(limited.map(({ name, quotas }) => [name, allowanceOf(quotas, used.get(name) ?? NOTHING)]));
  }

  /** Which quota keeps one more task of the job from running now; undefined when none does. */
  whyHeldBack({ row, kind }: LiveJob): string | undefined {
    const quotas = this.#quotas(row.namespace);
    if (!holdsBack(quotas)) return undefined;
    const used = this.#running().get(row.namespace) ?? NOTHING;
    return whyHeldBack(row.namespace, quotas, used, costOf(kind.resources).cpuMillis);
  }

  async #load(): Promise<void> {
    const rows = await this.#options.store.list();
    this.#rows.clear();
    this.#ofSubmitter.clear();
    for (const row of rows) {
      this.#rows.set(row.name, row);
      for (const member of row.members) this.#ofSubmitter.set(member, row.name);
    }
  }

  #quotas(namespace: string): Quotas {
    return this.#rows.get(namespace)?.quotas ?? NO_QUOTAS;
  }

  #release(namespace: string, { queued, bytes }: { queued: number; bytes: number }): void {
    const taken = this.#admitted.get(namespace);
    if (!taken) return;
    taken.queued -= queued;
    taken.bytes -= bytes;
    if (taken.queued === 0 && taken.bytes === 0) this.#admitted.delete(namespace);
  }

  async #usage(name: string, used: Map<string, { running: number; cpuMillis: number }>): Promise<Usage> {
    const bytes = await this.#options.store.storedBytes(name);
    return { ...(used.get(name) ?? NOTHING), queued: this.#queued(name), bytes };
  }

  #jobsOf(name: string): LiveJob[] {
    return [...this.#options.jobs.all()].filter(({ row }) => row.namespace === name);
  }

  /** Tasks that are neither assigned nor at their end, those without a row yet included. Nothing is copied: submissions ask. */
  #queued(name: string): number {
    let queued = 0;
    for (const { row } of this.#options.jobs.all()) {
      if (row.namespace !== name) continue;
      const { total, assigned, running, completed, failed, cancelled } = row.counts;
      queued += total - assigned - running - completed - failed - cancelled;
    }
    return queued;
  }

  /** What all namespaces have assigned. What is being killed of a job that was cancelled counts until it is dead. */
  #running(): Map<string, { running: number; cpuMillis: number }> {
    const { jobs, ledger } = this.#options;
    const used = new Map<string, { running: number; cpuMillis: number }>();
    for (const { job, kind } of ledger.occupants()) {
      const namespace = jobs.namespaceOf(job);
      if (namespace === undefined) continue;
      const running = ledger.occupiedByJob(job);
      const sum = used.get(namespace) ?? { ...NOTHING };
      sum.running += running;
      sum.cpuMillis += running * costOf(kind.resources).cpuMillis;
      used.set(namespace, sum);
    }
    return used;
  }
}

const NOTHING = { running: 0, cpuMillis: 0 };

/** The store's own bounds, as a sentence. */
function checkRanges({ running, queued, cpuMillis, bytes }: Quotas): void {
  const bad = (quota: string, value: number | undefined, min: number, max: number) => {
    if (value !== undefined && !(Number.isSafeInteger(value) && value >= min && value <= max))
      throw new MeshError('USAGE', `a quota of ${value} ${quota} is out of range`, {
        hint: `use a whole number from ${min} to ${max}, or none`,
      });
  };
  bad('running tasks', running, 1, 2 ** 31 - 1);
  bad('queued tasks', queued, 0, Number.MAX_SAFE_INTEGER);
  bad('thousandths of a CPU', cpuMillis, 1, Number.MAX_SAFE_INTEGER);
  bad('bytes', bytes, 0, Number.MAX_SAFE_INTEGER);
}
