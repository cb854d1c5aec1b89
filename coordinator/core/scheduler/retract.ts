/**
 * Which prefilled tasks are asked back. A prefilled task was placed on a guess about the future; these are the cases in
 * which the guess is known to be wrong:
 *
 * - its node is draining;
 * - work of a higher priority waits, or is queued behind it, on a node that could run that work;
 * - nothing of its job waits any more and another node has room for it.
 *
 * Nothing is asked back for a place that the next plan would not give it: it would come back to where it was, be asked back
 * again, and so on for as long as nothing else happens.
 *
 * Asking back costs a round trip and two commits, so the last two only apply when the queue is longer than what the node
 * works off in a few pipeline delays (board.ts, shortQueue), and the third only where the task would end sooner on the
 * other node, which may be a slow one. Retracting is a question: what has started meanwhile stays.
 *
 * A mesh at work costs nothing here: nobody drains, all priorities are the same, and no node has room.
 */
import { Space } from '../room.js';
import { NOWHERE } from '../task.js';
import { groupOf, type NodeState, roomFor, shortQueue, waitingOf, workedOff } from './board.js';
import type { Candidates } from './candidates.js';
import type { Placing } from './plan.js';
import type { NodeView, Plan, Snapshot, WorkView } from './types.js';

const MUCH_FASTER = 1.25;
/** Works of higher priority that one plan makes way for. */
const URGENT_MAX = 64;

interface Row {
  node: NodeState;
  job: number;
  /** Of one by itself. */
  index: number | undefined;
  failedNodes: readonly number[];
  /** Still there to ask back. */
  count: number;
  asked: number;
  position: number;
  work: WorkView;
}

export function retractions(snapshot: Snapshot, placing: Placing): Plan['retractions'] {
  if (snapshot.prefilled.length === 0) return [];
  const drains = snapshot.nodes.some(({ draining }) => draining);
  const urgent = snapshot.work.some(({ priority }) => priority !== snapshot.work[0]?.priority);
  const idle = idleNodes(placing);
  if (!drains && !urgent && idle.length === 0) return [];
  const rows = rowsOf(snapshot, placing);
  if (drains) for (const row of rows) if (row.node.view.draining) ask(row, row.count);
  if (urgent) makeWay(rows, placing);
  useIdleNodes(rows, idle, placing);
  return rows
    .filter((row) => row.asked > 0)
    .map(({ node, job, asked: count, index }) => ({
      node: node.view.seq,
      job,
      count,
      ...(index !== undefined && { index }),
    }));
}

/** Those with room when the plan is done, the fastest first. */
function idleNodes({ board }: Placing): NodeState[] {
  const idle: NodeState[] = [];
  for (let index = 0; index < board.views.length; index++)
    if ((board.views[index] as NodeView).state === 'HEALTHY' && board.standing(index).free.slots > 0)
      idle.push(board.state(index));
  return idle.sort((a, b) => a.pace - b.pace || a.index - b.index);
}

/** Rows on nodes that can answer, of jobs the snapshot describes. */
function rowsOf(snapshot: Snapshot, { board }: Placing): Row[] {
  const nodes = new Map(snapshot.nodes.map((view, index) => [view.seq, index]));
  const positions = new Map(snapshot.work.map((work, position) => [work.job, position]));
  const rows: Row[] = [];
  for (const { node: seq, job, count, index: task, failedNodes = NOWHERE } of snapshot.prefilled) {
    const index = nodes.get(seq);
    const position = positions.get(job);
    const work = position === undefined ? undefined : snapshot.work[position];
    if (index === undefined || position === undefined || !work || count <= 0) continue;
    if (snapshot.nodes[index]?.state !== 'HEALTHY') continue;
    rows.push({ node: board.state(index), job, index: task, failedNodes, count, asked: 0, position, work });
  }
  return rows;
}

function ask(row: Row, count: number): void {
  row.asked += count;
  row.count -= count;
}

const isLong = (node: NodeState, { board }: Placing): boolean => node.view.queued > shortQueue(node, board.settings);

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
  for (const { work, position, waiting } of urgentWorks(lowest, placing)) {
    let wanted = waiting;
    const isHeldBack = placing.allowedOf(work) <= 0;
    /** A quota holds it back: only what counts for the same one would make way. */
    const frees = (lower: WorkView): boolean => !isHeldBack || lower.namespace === work.namespace;
    for (const [node, there] of byNode) {
      if (wanted <= 0) break;
      const lower = there.filter((row) => row.count > 0 && row.work.priority < work.priority && frees(row.work));
      if (lower.length === 0 || !isLong(node, placing)) continue;
      if (!placing.candidatesOf(position).isFeasible(node)) continue;
      for (const row of lower) ask(row, row.count);
      wanted -= node.view.total.slots;
    }
  }
}

/** The first of those that wait and are of a higher priority. */
function urgentWorks(lowest: number, { snapshot, placed }: Placing) {
  const urgent: { work: WorkView; position: number; waiting: number }[] = [];
  snapshot.work.forEach((work, position) => {
    const waiting = waitingOf(work) - (placed[position] as number);
    if (waiting > 0 && work.priority > lowest) urgent.push({ work, position, waiting });
  });
  return urgent
    .sort((a, b) => b.work.priority - a.work.priority || a.work.arrival - b.work.arrival)
    .slice(0, URGENT_MAX);
}

/** When the last that is queued there would end, in milliseconds from now; Infinity while nothing is known. */
function endsAfterMs({ node, work }: Row): number {
  const { turnoverPerMs, queued } = node.view;
  if (turnoverPerMs === undefined || work.taskMs === undefined) return Infinity;
  return queued / turnoverPerMs + work.taskMs * node.pace;
}

function useIdleNodes(rows: Row[], idle: readonly NodeState[], placing: Placing): void {
  if (idle.length === 0) return;
  /** What stays free when everything that is asked back arrives. */
  const free = new Map(idle.map((node) => [node, new Space(node.free)]));
  /** Per group, how far its search for room has come; nodes before that have none. */
  const reached = new Map<Candidates, number>();
  const movable = rows
    .filter((row) => row.count > 0 && waitingOf(row.work) <= (placing.placed[row.position] as number))
    .map((row) => ({ row, endsMs: endsAfterMs(row) }))
    .sort(
      (a, b) =>
        b.endsMs - a.endsMs || b.row.node.view.queued - a.row.node.view.queued || a.row.node.index - b.row.node.index,
    );
  for (const { row, endsMs } of movable) {
    const { cost } = groupOf(row.work);
    if (!isLong(row.node, placing) || roomFor(row.node.free, row.node.reserve, cost) > 0) continue;
    const candidates = placing.candidatesOf(row.position);
    const isFaster = (idle[0] as NodeState).pace * MUCH_FASTER < row.node.pace;
    // What is about to start there is as good as started, unless that means to wait for a slow machine.
    const stays = workedOff(row.node, placing.board.settings);
    let wanted = Math.min(row.count, row.node.view.queued - (isFaster ? Math.floor(stays) : Math.ceil(stays)));
    const avoid = candidates.avoidable(row.failedNodes);
    let at = reached.get(candidates) ?? 0;
    for (; wanted > 0 && at < idle.length; at++) {
      const node = idle[at] as NodeState;
      placing.board.meter.operations++;
      // Where it would end no sooner, or not be given a place: nor would it on those that follow, which are slower.
      if ((row.work.taskMs ?? 0) * node.pace >= endsMs || candidates.waits(node, true, row.work, avoid)) break;
      if (avoid.includes(node.view.seq)) continue;
      const space = free.get(node) as Space;
      const count = candidates.isFeasible(node) ? Math.min(wanted, roomFor(space, node.reserve, cost)) : 0;
      space.take(cost, count);
      ask(row, count);
      wanted -= count;
      if (wanted === 0) break;
    }
    if (avoid.length === 0) reached.set(candidates, at);
  }
}
