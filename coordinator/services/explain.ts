import type { ExplainResponse, NodeExplanation } from '../../proto/gen/mesh/v1/mesh.js';
import { isTerminal } from '../core/job.js';
import type { Ledger } from '../core/ledger.js';
import type { JobRow, TaskRow } from '../ports.js';
import type { Dispatch } from './dispatch.js';
import type { Fleet } from './fleet.js';
import type { Jobs } from './jobs.js';
import type { Namespaces } from './namespaces.js';

/** Answers `mesh why` from the reasons the planner recorded, never by planning again. */
export class Explain {
  constructor(
    private readonly jobs: Jobs,
    private readonly fleet: Fleet,
    private readonly dispatch: Dispatch,
    private readonly ledger: Ledger,
    private readonly namespaces: Namespaces,
  ) {}

  answer(job: JobRow, task: TaskRow | undefined): ExplainResponse {
    return {
      job: job.id,
      index: task?.index,
      status: task?.status ?? job.status,
      chosen: task?.node ?? '',
      summary: this.#summary(job, task),
      nodes: this.#nodes(job),
    };
  }

  #nodes(job: JobRow): NodeExplanation[] {
    const kind = this.jobs.kindOf(job.seq);
    if (!kind) return [];
    const blocked = this.jobs.get(job.seq)?.blockedNodes;
    return this.dispatch.reasons(kind.id, job.seq).map(({ node, feasible, reason, score, terms }) => ({
      name: this.fleet.nameOf(node),
      feasible,
      reason: feasible && blocked?.has(node) ? `${reason}; blocked for this job, but no other node can run it` : reason,
      score,
      terms: { ...terms },
    }));
  }

  /** Two attempts of one task run: the row is the copy's. */
  #beside(job: JobRow, task: TaskRow): string {
    const [copy, original] = this.ledger.ofTask(job.seq, task.index);
    if (!copy || !original) return '';
    return `, as a copy of the attempt on ${this.fleet.nameOf(original.node)} that takes long; the first result counts`;
  }

  #summary(job: JobRow, task: TaskRow | undefined): string {
    if (task?.status === 'RETRYING') return `waits after: ${task.lastError ?? 'an unknown failure'}`;
    if (task && task.status !== 'QUEUED')
      return `${task.status.toLowerCase()} on ${task.node ?? 'no node'}${this.#beside(job, task)}`;
    if (isTerminal(job.status)) return `the job has ended: ${job.status}`;
    if (job.cancelling) return 'the job is being cancelled';
    const nodes = [...this.fleet.all()];
    if (nodes.length === 0) return 'no node has joined yet; make a token with: mesh token create';
    const healthy = nodes.filter((node) => node.liveness.state === 'HEALTHY' && node.session?.open);
    if (healthy.length === 0) return `none of ${nodes.length} nodes is connected; see: mesh nodes`;
    const live = this.jobs.get(job.seq);
    const heldBack = live && this.namespaces.whyHeldBack(live);
    if (heldBack) return `held back: ${heldBack}`;
    const waits = job.counts.total - job.counts.completed - job.counts.failed - job.counts.cancelled;
    const ahead = [...this.jobs.all()].filter(({ row }) => row.seq !== job.seq && row.priority > job.priority).length;
    const tail =
      ahead > 0
        ? `, ${ahead === 1 ? '1 job of higher priority is' : `${ahead} jobs of higher priority are`} ahead`
        : '';
    const undone = waits === 1 ? '1 task is' : `${waits} tasks are`;
    return `${undone} not done; ${healthy.length} of ${nodes.length} nodes take work${tail}`;
  }
}
