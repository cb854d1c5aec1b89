import type { Clock } from '../../common/clock.js';
import type { Logger } from '../../common/log.js';
import type { LiveAttempt } from '../core/ledger.js';
import { spoiledByNode, updateReliability } from '../core/node.js';
import type { AttemptOutcome } from '../core/task.js';
import { speaksFor } from '../core/trust.js';
import type { Fleet, LiveNode } from './fleet.js';
import type { Jobs } from './jobs.js';

/** What the ends of attempts say about the nodes they ran on; the rules are in core/trust.ts. */
export class NodeJudge {
  /** Successes of the whole mesh: without any, nobody is worse than the others. */
  #succeeded = 0;

  constructor(private readonly options: { fleet: Fleet; jobs: Jobs; clock: Clock; log: Logger }) {}

  /** Only failures the node caused count for its reliability. Losses are judged when the node is lost. */
  settled(ends: readonly { attempt: LiveAttempt; report: { outcome: AttemptOutcome } }[]): void {
    const verdicts = new Map<number, { good: number; bad: number }>();
    for (const {
      attempt,
      report: { outcome },
    } of ends) {
      const spoiled = spoiledByNode(outcome);
      if (spoiled === undefined || outcome === 'node-lost') continue;
      let verdict = verdicts.get(attempt.node);
      if (!verdict) verdicts.set(attempt.node, (verdict = { good: 0, bad: 0 }));
      if (spoiled) verdict.bad++;
      else verdict.good++;
      this.#weigh(attempt, outcome);
    }
    for (const [seq, { good, bad }] of verdicts) {
      const node = this.options.fleet.get(seq);
      if (!node) continue;
      node.reliability = updateReliability(node.reliability, false, good);
      node.reliability = updateReliability(node.reliability, true, bad);
      node.finished += good + bad;
    }
  }

  /** So many attempts of the job, all of them well, and no more to be said of them. */
  succeeded(seq: number, job: number, count: number): void {
    const { fleet, jobs, clock } = this.options;
    const node = fleet.get(seq);
    if (!node) return;
    node.reliability = updateReliability(node.reliability, false, count);
    node.finished += count;
    this.#succeeded += count;
    jobs.get(job)?.trust.succeeded(seq, count);
    if (node.trust.succeeded(clock.monotonicMs())) this.#redeemed(node);
  }

  /** A lost node is one event, however many attempts it held and however many batches they are settled in. */
  lost(nodes: ReadonlySet<number>): void {
    for (const seq of nodes) {
      const node = this.options.fleet.get(seq);
      if (!node) continue;
      node.reliability = updateReliability(node.reliability, true);
      if (node.trust.trialFailed(this.options.clock.monotonicMs())) this.#suspended(node);
    }
  }

  #weigh(attempt: LiveAttempt, outcome: AttemptOutcome): void {
    const { fleet, jobs, clock, log } = this.options;
    const isGood = speaksFor(outcome);
    const node = fleet.get(attempt.node);
    if (isGood === undefined || !node) return;
    // A job that has just ended can block nothing any more; what it says of the node counts all the same.
    const job = jobs.get(attempt.job);
    const nowMs = clock.monotonicMs();
    if (isGood) {
      this.#succeeded++;
      job?.trust.succeeded(attempt.node);
      if (node.trust.succeeded(nowMs)) this.#redeemed(node);
      return;
    }
    if (job?.trust.failed(attempt.node, attempt.index, outcome) && !job.blockedNodes.has(attempt.node)) {
      job.blockedNodes.add(attempt.node);
      log.warn({ event: 'node.blocked-for-job', node: node.row.name, job: job.row.id, outcome });
      if (node.trust.blocked(nowMs, attempt.job)) return this.#suspended(node);
    }
    if (node.trust.failed(nowMs, attempt.job, this.#succeeded)) this.#suspended(node);
  }

  #suspended(node: LiveNode): void {
    const forMs = node.trust.suspendedForMs(this.options.clock.monotonicMs());
    this.options.log.warn(
      { event: 'node.suspended', node: node.row.name, forMs },
      `${node.row.name} fails what others do not; it gets no work for ${forMs / 1000} s`,
    );
  }

  #redeemed(node: LiveNode): void {
    for (const job of this.options.jobs.all()) {
      job.blockedNodes.delete(node.row.seq);
      job.trust.forget(node.row.seq);
    }
    this.options.log.info({ event: 'node.redeemed', node: node.row.name }, `${node.row.name} is trusted again`);
  }
}
