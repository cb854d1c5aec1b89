/**
 * Which prefilled tasks are asked back. A prefilled task was placed on a guess about the future; these are the cases in
 * which the guess is known to be wrong:
 *
 * - its node is draining;
 * - work of a higher priority waits, or is queued behind it, on a node that could run that work;
 * - nothing of its job waits any more and another node has room for it.
 *
 * Asking back costs a round trip and two commits, so the last two only apply when the queue is longer than what the node
 * works off in PATIENCE pipeline delays. Retracting is a question: what has started meanwhile stays.
 */
import { groupOf, type NodeState, roomFor } from './candidates.js';
import { Space } from '../room.js';
import type { Placing } from './plan.js';
import type { Plan, Snapshot, WorkView } from './types.js';

const PATIENCE = 2;
/** Works of higher priority that one plan makes way for. */
const URGENT_MAX = 64;

interface Row {
  node: NodeState;
  job: number;
  /** Still there to ask back. */
  count: number;
  asked: number;
  position: number;
  work: WorkView;
}

export function retractions(snapshot: Snapshot, placing: Placing): Plan['retractions'] {
  if (snapshot.prefilled.length === 0) return [];
  const rows = rowsOf(snapshot, placing);
  for (const row of rows) if (row.node.view.draining) ask(row, row.count);
  makeWay(rows, placing);
  useIdleNodes(rows, placing);
  return rows
    .filter((row) => row.asked > 0)
    .map((row) => ({ node: row.node.view.seq, job: row.job, count: row.asked }));
}

/** Rows on nodes that can answer, of jobs the snapshot describes. */
function rowsOf(snapshot: Snapshot, placing: Placing): Row[] {
  const nodes = new Map(placing.context.nodes.map((node) => [node.view.seq, node]));
  const positions = new Map(snapshot.work.map((work, position) => [work.job, position]));
  const rows: Row[] = [];
  for (const { node: seq, job, count } of snapshot.prefilled) {
    const node = nodes.get(seq);
    const position = positions.get(job);
    const work = position === undefined ? undefined : snapshot.work[position];
    if (node?.view.state === 'HEALTHY' && position !== undefined && work && count > 0)
      rows.push({ node, job, count, asked: 0, position, work });
  }
  return rows;
}

function ask(row: Row, count: number): void {
  row.asked += count;
  row.count -= count;
}

/** Tasks the node works off while a retraction travels; 0 while nothing is known about its speed. */
const workedOff = (node: NodeState, placing: Placing): number =>
  (node.view.turnoverPerMs ?? 0) * (placing.context.settings.pipelineDelayMs + node.view.rttMs);

const isLong = (node: NodeState, placing: Placing): boolean => node.view.queued > PATIENCE * workedOff(node, placing);

function makeWay(rows: Row[], placing: Placing): void {
  const lowest = rows.reduce((least, row) => Math.min(least, row.work.priority), Infinity);
  const byNode = new Map<NodeState, Row[]>();
  for (const row of rows) {
    const list = byNode.get(row.node);
    if (list) list.push(row);
    else byNode.set(row.node, [row]);
  }
  for (const [node, there] of byNode) {
    const priority = placing.queuedPriority.get(node.index);
    if (priority === undefined || !isLong(node, placing)) continue;
    for (const row of there) if (row.work.priority < priority) ask(row, row.count);
  }
  const urgent = placing.snapshot.work
    .map((work, position) => ({ work, position, waiting: waitingOf(work) - (placing.placed[position] as number) }))
    .filter(({ work, waiting }) => waiting > 0 && work.priority > lowest)
    .sort((a, b) => b.work.priority - a.work.priority || a.work.arrival - b.work.arrival)
    .slice(0, URGENT_MAX);
  for (const { work, position, waiting } of urgent) {
    let wanted = waiting;
    for (const [node, there] of byNode) {
      if (wanted <= 0) break;
      const lower = there.filter((row) => row.count > 0 && row.work.priority < work.priority);
      if (lower.length === 0 || !isLong(node, placing)) continue;
      if (!placing.candidatesOf(position).isFeasible(node.view.seq)) continue;
      for (const row of lower) ask(row, row.count);
      wanted -= node.view.total.slots;
    }
  }
}

function useIdleNodes(rows: Row[], placing: Placing): void {
  const { nodes } = placing.context;
  const open = nodes.filter((node) => node.view.state === 'HEALTHY' && node.free.slots > 0);
  if (open.length === 0) return;
  /** What stays free when everything that is asked back arrives. */
  const free = new Map(open.map((node) => [node, new Space(node.free)]));
  /** Per group, how far its search for room has come; nodes before that have none. */
  const reached = new Map<string, number>();
  for (const row of [...rows].sort((a, b) => b.node.view.queued - a.node.view.queued)) {
    if (row.count === 0 || waitingOf(row.work) > (placing.placed[row.position] as number)) continue;
    const { key, cost } = groupOf(row.work);
    if (!isLong(row.node, placing) || roomFor(row.node.free, row.node.reserve, cost) > 0) continue;
    const candidates = placing.candidatesOf(row.position);
    let wanted = Math.min(row.count, row.node.view.queued - Math.ceil(workedOff(row.node, placing)));
    let at = reached.get(key) ?? 0;
    while (wanted > 0 && at < open.length) {
      placing.context.meter.operations++;
      const node = open[at] as NodeState;
      const space = free.get(node) as Space;
      const room = candidates.isFeasible(node.view.seq) ? roomFor(space, node.reserve, cost) : 0;
      const count = Math.min(room, wanted);
      if (count <= 0) {
        at++;
        continue;
      }
      space.take(cost, count);
      ask(row, count);
      wanted -= count;
    }
    reached.set(key, at);
  }
}

const waitingOf = (work: WorkView): number => work.fresh + work.returned.length;
