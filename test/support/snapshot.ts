/** Snapshots for tests of the planner: nodes and work with sensible values wherever a test does not care. */
import { PLAN_DEFAULTS } from '../../coordinator/core/scheduler/plan.js';
import type {
  Assignment,
  Kind,
  NodeView,
  Plan,
  PlanSettings,
  Room,
  Snapshot,
  WorkView,
} from '../../coordinator/core/scheduler/types.js';

export const GIB = 2 ** 30;

export function makeKind(id = 1, ask: Partial<Kind['resources']> = {}, more: Partial<Kind> = {}): Kind {
  const resources = { cpuMillis: 0, memoryBytes: 0, gpus: 0, custom: {}, ...ask };
  return { id, executor: 'process', resources, selector: [], ...more };
}

export function makeRoom(slots: number, more: Partial<Room> = {}): Room {
  return { slots, cpuMillis: slots * 1000, memoryBytes: slots * 2 * GIB, gpus: 0, custom: new Map(), ...more };
}

/** A healthy, idle, well-known node; `busy` slots of it are taken by tasks of one CPU. */
export function makeNode(seq: number, slots = 4, more: Partial<NodeView> & { busy?: number } = {}): NodeView {
  const { busy = 0, ...rest } = more;
  const total = rest.total ?? makeRoom(slots);
  return {
    seq,
    name: `node-${seq}`,
    labels: new Map([['name', `node-${seq}`]]),
    executors: new Set(['process', 'function']),
    state: 'HEALTHY',
    draining: false,
    revoked: false,
    total,
    free: { ...total, slots: total.slots - busy, cpuMillis: total.cpuMillis - busy * 1000 },
    queued: 0,
    load: 0,
    rttMs: 1,
    reliability: 1,
    finished: 1000,
    ...rest,
  };
}

export function makeWork(job: number, fresh: number, more: Partial<WorkView> = {}): WorkView {
  return {
    job,
    kind: makeKind(),
    priority: 0,
    submitter: 'ann',
    arrival: job,
    fresh,
    returned: [],
    blockedNodes: new Set(),
    taskMs: 600_000_000,
    ...more,
  };
}

export function makeSnapshot(nodes: NodeView[], work: WorkView[], more: Partial<Snapshot> = {}): Snapshot {
  return { nodes, work, heldBySubmitter: new Map(), prefilled: [], ...more };
}

export const makeSettings = (more: Partial<PlanSettings> = {}): PlanSettings => ({ ...PLAN_DEFAULTS, ...more });

const sizeOf = ({ fresh, returned }: Assignment): number => fresh + returned.length;

/** Tasks assigned, of one job, to one node, or in all. */
export function assigned({ assignments }: Plan, { job, node }: { job?: number; node?: number } = {}): number {
  return assignments
    .filter((one) => (job === undefined || one.job === job) && (node === undefined || one.node === node))
    .reduce((sum, one) => sum + sizeOf(one), 0);
}
