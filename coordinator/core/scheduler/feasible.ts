/**
 * May this node run this kind of work at all? Independent of what runs there now: that is for the planner. The checks go
 * from what concerns the whole node to what concerns one job, and the first that fails is the reason people read.
 */
import { unmetRequirement } from '../../../common/selector.js';
import { formatSize } from '../../../common/units.js';
import type { Cost, Kind, NodeView, Room } from './types.js';

/** Why the node can't take the kind, as a person reads it; undefined when it can. */
export function ruledOut(kind: Kind, cost: Cost, node: NodeView): string | undefined {
  if (node.revoked) return 'its certificate is revoked';
  if (node.state === 'OFFLINE') return 'it is offline';
  if (node.state === 'SUSPECT') return 'it is suspect: heartbeats are missing, so it gets nothing new';
  if (node.draining) return 'it is draining';
  if (node.barred) return node.barred;
  if (!node.executors.has(kind.executor)) return `it does not run ${kind.executor} tasks`;
  if (kind.fenced && !node.fences)
    return 'its agent is too old to stop attempts by itself when it is cut off (--on-disconnect stop): upgrade it';
  const unsafe = sandboxProblem(kind, node);
  if (unsafe) return unsafe;
  const withheld = kind.secrets && (node.noSecrets ?? (kind.secrets === 'files' ? node.noSecretFiles : undefined));
  if (withheld) return withheld;
  const lacking = exceeds(cost, node.total);
  if (lacking) return lacking;
  const unmet = unmetRequirement(kind.selector, node.labels);
  if (unmet) return unmet;
  return undefined;
}

/** What the job asks of the sandbox and the node, or its agent, does not have. */
function sandboxProblem({ sandbox, limited }: Kind, { sandboxes = [], limits }: NodeView): string | undefined {
  if (limited && !limits) return 'its agent is too old to bound what a task uses: upgrade it';
  if (sandbox === undefined || sandboxes.includes(sandbox)) return undefined;
  return sandbox === 'bubblewrap'
    ? 'it has no bubblewrap sandbox (--sandbox bubblewrap): its agent says why at start'
    : 'it runs nothing without a sandbox (--sandbox process): its agent would have to be started with --sandbox optional';
}

/** Said of a node that the job has blocked, while others could run it. */
export const BLOCKED = 'it is blocked for this job: it failed what others did not';

/** What the task asks beyond what the whole node has: "asks 64 GiB of memory; the node has 16 GiB". */
function exceeds(cost: Cost, total: Room): string | undefined {
  if (total.slots < 1) return 'it has no slots';
  if (cost.cpuMillis > total.cpuMillis) return `asks ${cpus(cost.cpuMillis)}; the node has ${total.cpuMillis / 1000}`;
  if (cost.memoryBytes > total.memoryBytes)
    return `asks ${size(cost.memoryBytes)} of memory; the node has ${size(total.memoryBytes)}`;
  if (cost.gpus > total.gpus)
    return `asks ${cost.gpus} ${plural('GPU', cost.gpus)}; the node has ${total.gpus || 'none'}`;
  for (const [name, amount] of cost.custom) {
    const has = total.custom.get(name) ?? 0;
    if (amount > has) return `asks ${amount} of ${name}; the node has ${has || 'none'}`;
  }
  return undefined;
}

/** What keeps one more task of this cost from starting now: "8 of 8 slots busy". Undefined when it fits. */
export function fullness(cost: Cost, free: Room, total: Room): string | undefined {
  if (free.slots < 1) return `${total.slots - Math.max(0, free.slots)} of ${total.slots} slots busy`;
  if (free.cpuMillis < cost.cpuMillis)
    return `asks ${cpus(cost.cpuMillis)}; ${Math.max(0, free.cpuMillis) / 1000} of ${total.cpuMillis / 1000} free`;
  if (free.memoryBytes < cost.memoryBytes)
    return `asks ${size(cost.memoryBytes)} of memory; ${size(Math.max(0, free.memoryBytes))} free`;
  if (free.gpus < cost.gpus)
    return `asks ${cost.gpus} ${plural('GPU', cost.gpus)}; ${Math.max(0, free.gpus)} of ${total.gpus} free`;
  for (const [name, amount] of cost.custom) {
    const has = Math.max(0, free.custom.get(name) ?? 0);
    if (amount > has) return `asks ${amount} of ${name}; ${has} of ${total.custom.get(name) ?? 0} free`;
  }
  return undefined;
}

const cpus = (millis: number): string => `${millis / 1000} ${plural('CPU', millis / 1000)}`;
const plural = (word: string, count: number): string => (count === 1 ? word : `${word}s`);
/** "16 GiB", not "16.0 GiB". */
const size = (bytes: number): string => formatSize(bytes).replace('.0 ', ' ');
