import type { HistoryEvent } from '../history/events.js';
import type { TaskRefs } from '../../proto/gen/mesh/v1/agent.js';
import type { World } from './world.js';

interface Ref {
  job: number;
  index: number;
  generation: number;
}

/** Writes the history of a run, in the order in which things happen. */
export class Recorder {
  readonly history: HistoryEvent[] = [];

  constructor(private readonly world: World) {}

  add(event: HistoryEvent): void {
    this.history.push(event);
    this.world.trace(JSON.stringify(event));
  }

  kept({ job, index, generation }: Ref, node: string): void {
    this.add({ kind: 'result-kept', atMs: this.atMs, job: String(job), index, generation, node });
  }

  hello(node: string, unacknowledged: TaskRefs): void {
    this.add({ kind: 'agent-hello', atMs: this.atMs, node, unacknowledged: toRefs(unacknowledged) });
  }

  released(node: string, attempts: TaskRefs): void {
    this.add({ kind: 'agent-released', atMs: this.atMs, node, attempts: toRefs(attempts) });
  }

  /** A message that was sent. */
  wire(what: string, message: object): void {
    this.world.trace(what);
    if (this.world.isTraced) this.world.remark(JSON.stringify(message));
  }

  get atMs(): number {
    return this.world.nowMs;
  }

  began({ job, index, generation }: Ref, node: string): void {
    this.add({ kind: 'attempt-began', atMs: this.atMs, job: String(job), index, generation, node });
  }

  ended({ job, index, generation }: Ref, node: string): void {
    this.add({ kind: 'attempt-ended', atMs: this.atMs, job: String(job), index, generation, node });
  }
}

const toRefs = ({ jobs, indexes, generations }: TaskRefs) =>
  jobs.map((job, i) => ({
    job: String(job),
    index: indexes[i] as number,
    generation: generations[i] as number,
  }));
