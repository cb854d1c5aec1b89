/**
 * A node as the planner sees it. One is made of every node in every turn, so it is written down field by field: objects of
 * one shape, without intermediate ones, cost a tenth of what spreading the parts costs.
 */
import type { Ledger } from '../core/ledger.js';
import type { NodeView } from '../core/scheduler/types.js';
import type { LiveNode } from './fleet.js';
import type { Jobs } from './jobs.js';
import type { Secrets } from './secrets.js';
import { FENCING_PROTOCOL, SANDBOX_PROTOCOL, SECRETS_PROTOCOL } from './session.js';

const UNKNOWN_RTT_MS = 5;

export interface ViewOptions {
  ledger: Ledger;
  jobs: Jobs;
  secrets: Pick<Secrets, 'open'>;
}

/** @param nowMs monotonic */
export function nodeView(node: LiveNode, { ledger, jobs, secrets }: ViewOptions, nowMs: number): NodeView {
  const { row, session } = node;
  const protocol = session?.protocol ?? 0;
  const pace = node.pace.factor;
  const room = ledger.room(row.seq, (job) => {
    const ms = jobs.get(job)?.taskTime.ms;
    return ms === undefined ? undefined : ms * pace;
  });
  const noSecrets = whyNoSecrets(secrets.open, protocol);
  const trust = node.trust.state(nowMs);
  const view: NodeView = {
    seq: row.seq,
    name: row.name,
    labels: node.labels,
    executors: node.executors,
    state: session?.open ? node.liveness.state : 'OFFLINE',
    draining: row.draining || node.stopping,
    revoked: row.revoked,
    total: room.total,
    free: room.free,
    queued: room.queued,
    load: node.load,
    rttMs: node.roundTrip?.smoothedMs ?? UNKNOWN_RTT_MS,
    reliability: node.reliability,
    finished: node.finished,
    reserve: room.reserve,
    fences: protocol >= FENCING_PROTOCOL,
    sandboxes: node.sandboxes,
    limits: protocol >= SANDBOX_PROTOCOL,
    noSecrets,
    noSecretFiles:
      noSecrets === undefined && !row.capabilities.secretFiles
        ? 'it has no memory file system for the files of secrets (--secret-file)'
        : undefined,
    barred: trust === 'suspended' ? node.trust.whySuspended(nowMs) : undefined,
    onTrial: false,
    turnoverPerMs: room.turnoverPerMs,
    pace,
  };
  if (trust === 'on-trial') tryOut(view, ledger);
  return view;
}

/** Why tasks there get no secrets. */
function whyNoSecrets(areOpen: boolean, protocol: number): string | undefined {
  if (!areOpen) return 'the coordinator has no key for secrets';
  return protocol < SECRETS_PROTOCOL ? 'its agent is too old to be given secrets: upgrade it' : undefined;
}

function tryOut(view: NodeView, ledger: Ledger): void {
  const { holding, waiting } = ledger.countOn(view.seq);
  if (holding + waiting > 0) {
    view.barred = 'it is on probation: one task at a time, and that one is under way';
    return;
  }
  const { cpuMillis, memoryBytes, gpus, custom, slots } = view.free;
  view.onTrial = true;
  view.free = { cpuMillis, memoryBytes, gpus, custom, slots: Math.min(1, slots) };
}
