import type { Logger } from '../../common/log.js';
import type { LiveAttempt } from '../core/ledger.js';
import { spoiledByNode, updateReliability } from '../core/node.js';
import type { AttemptOutcome } from '../core/task.js';
import type { Fleet } from './fleet.js';
import type { Jobs } from './jobs.js';

/** A node that could not run this many attempts of one job gets no more of it. */
const JOB_FAULTS_MAX = 3;

/** What the ends of attempts say about the nodes they ran on. */
export class NodeJudge {
  constructor(private readonly options: { fleet: Fleet; jobs: Jobs; log: Logger }) {}

  /** Only failures the node caused count. Losses are judged when the node is lost. */
  settled(ends: readonly { attempt: LiveAttempt; outcome: AttemptOutcome }[]): void {
    const verdicts = new Map<number, { good: number; bad: number }>();
    for (const { attempt, outcome } of ends) {
      const spoiled = spoiledByNode(outcome);
      if (spoiled === undefined || outcome === 'node-lost') continue;
      let verdict = verdicts.get(attempt.node);
      if (!verdict) verdicts.set(attempt.node, (verdict = { good: 0, bad: 0 }));
      if (spoiled) verdict.bad++;
      else verdict.good++;
    }
    for (const [seq, { good, bad }] of verdicts) {
      const node = this.options.fleet.get(seq);
      if (!node) continue;
      node.reliability = updateReliability(node.reliability, false, good);
      node.reliability = updateReliability(node.reliability, true, bad);
      node.finished += good + bad;
    }
  }

  /** A lost node is one event, however many attempts it held and however many batches they are settled in. */
  lost(nodes: ReadonlySet<number>): void {
    for (const seq of nodes) {
      const node = this.options.fleet.get(seq);
      if (node) node.reliability = updateReliability(node.reliability, true);
    }
  }

  /** The node could not run a task of this job; after a few of those it gets no more of them. */
  cannotRun(attempt: LiveAttempt): void {
    const { fleet, jobs, log } = this.options;
    const job = jobs.get(attempt.job);
    const node = fleet.get(attempt.node);
    if (!job || !node) return;
    const faults = (job.faults.get(attempt.node) ?? 0) + 1;
    job.faults.set(attempt.node, faults);
    if (faults < JOB_FAULTS_MAX || job.blockedNodes.has(attempt.node)) return;
    job.blockedNodes.add(attempt.node);
    log.warn({ event: 'node.blocked-for-job', node: node.row.name, job: job.row.id, faults });
  }
}
