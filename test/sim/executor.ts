/**
 * Tasks that only pretend to work: seeded durations and outcomes, begun and ended in true time and written into the
 * history. They are processes of the machine, not of the agent: they go on while the agent is stopped, stand still with
 * the machine, and survive the agent's death unless the sandbox takes them along.
 */
import type {
  AttemptEnd,
  AttemptRef,
  AttemptSpec,
  Executor,
  LaunchObserver,
  LaunchSpec,
  RunningLaunch,
  StopReason,
} from '../../agent/core/types.js';
import type { Timer } from '../../common/clock.js';
import type { Machine, Process } from './machine.js';
import type { Recorder } from './recorder.js';

/** What one attempt will do, drawn when it starts. */
export interface Plan {
  durationMs: number;
  outcome: 'succeeded' | 'failed' | 'node-fault';
}

export type Planner = (attempt: AttemptSpec) => Plan;

export interface HostSettings {
  /** Relative to a machine of ordinary speed. */
  speed: number;
  /** Tasks die with their agent, as in the strictest sandbox. */
  dieTogether: boolean;
  killMsMax: number;
  /** From the end of one task, or a launch, to the beginning of the next: at most so many milliseconds. */
  startMsMax?: number;
}

const START_MS_MAX = 8;

/** The tasks of one machine, across the lives of its agent. */
export class TaskHost {
  readonly #running = new Set<SimTask>();

  constructor(
    readonly machine: Machine,
    readonly recorder: Recorder,
    readonly plan: Planner,
    readonly settings: HostSettings,
  ) {}

  get running(): number {
    return this.#running.size;
  }

  add(task: SimTask): void {
    this.#running.add(task);
  }

  remove(task: SimTask): void {
    this.#running.delete(task);
  }

  /** The agent was killed. */
  agentDied(): void {
    if (this.settings.dieTogether) this.sweep();
  }

  /** Ends what an earlier life left, as an agent does before it starts work. */
  sweep(): void {
    for (const task of [...this.#running]) task.end();
  }

  /** The executor of one life of the agent. */
  executor(name: Executor['name'], process: Process): Executor {
    return {
      name,
      launchMax: () => (name === 'function' ? 3 : 1),
      start: (launch, observer) => new SimLaunch(this, process, launch, observer, name),
    };
  }
}

class SimTask {
  readonly beganMs: number;
  readonly #ref: AttemptRef;
  readonly #timer: Timer;
  #over = false;

  constructor(
    private readonly host: TaskHost,
    { job, index, generation }: AttemptSpec,
    durationMs: number,
    private readonly onEnd: () => void,
  ) {
    // The agent may go on with it under another generation; to whoever watches the process it stays what it was.
    this.#ref = { job, index, generation };
    this.beganMs = host.machine.monotonicMs();
    host.add(this);
    host.recorder.began(this.#ref, host.machine.name);
    this.#timer = host.machine.after(durationMs, () => this.end());
  }

  /** Dead after so long of the machine's time. */
  endIn(ms: number): void {
    this.host.machine.after(ms, () => this.end());
  }

  end(): void {
    if (this.#over) return;
    this.#over = true;
    this.#timer.cancel();
    this.host.remove(this);
    this.host.recorder.ended(this.#ref, this.host.machine.name);
    this.onEnd();
  }
}

/** Attempts of one launch, one after the other. */
class SimLaunch implements RunningLaunch {
  readonly done = Promise.resolve();
  readonly #stopped = new Map<number, StopReason>();
  #task: SimTask | undefined;
  #position = 0;

  constructor(
    private readonly host: TaskHost,
    private readonly process: Process,
    private readonly launch: LaunchSpec,
    private readonly observer: LaunchObserver,
    private readonly name: Executor['name'],
  ) {
    this.#soon(() => this.#begin());
  }

  stop(position: number, reason: StopReason): void {
    if (this.#stopped.has(position) || position < this.#position) return;
    this.#stopped.set(position, reason);
    if (position === this.#position)
      this.#task?.endIn(this.host.machine.world.random.next() * this.host.settings.killMsMax);
    else this.#soon(() => position >= this.#position && this.#endOf(position, this.#end(reason, 0)));
  }

  readonly #ended = new Set<number>();
  /** Functions that returned and are told of together with what returns soon. */
  #returned: { position: number; runUs: number }[] = [];

  #soon(run: () => void): void {
    const { machine, settings } = this.host;
    this.process.clock.after(machine.world.random.next() * (settings.startMsMax ?? START_MS_MAX), run);
  }

  /** Tells the agent, unless it is dead. */
  #endOf(position: number, end: AttemptEnd): void {
    if (this.#ended.has(position)) return;
    this.#ended.add(position);
    if (this.name === 'process' || end.outcome !== 'succeeded') return this.observer.ended(position, end);
    this.#returned.push({ position, runUs: end.runUs });
    if (this.#returned.length === 1) this.#soon(() => this.#tellReturned());
  }

  #tellReturned(): void {
    const returned = this.#returned;
    this.#returned = [];
    this.observer.succeeded(
      returned.map(({ position }) => position),
      returned.map(({ position }) => JSON.stringify(position % 2)),
      returned.map(({ runUs }) => runUs),
    );
  }

  #begin(): void {
    while (this.#ended.has(this.#position)) this.#position++;
    const position = this.#position;
    const spec = this.launch.attempts[position];
    if (!spec) return;
    const reason = this.#stopped.get(position);
    if (reason) return this.#finish(position, this.#end(reason, 0));
    const plan = this.host.plan(spec);
    if (plan.outcome === 'node-fault') return this.#finish(position, this.#end('node-fault', 0));
    const { machine, settings } = this.host;
    const task: SimTask = new SimTask(this.host, spec, plan.durationMs / settings.speed, () => {
      const ranMs = machine.monotonicMs() - task.beganMs;
      this.process.enter(() => this.#finish(position, this.#end(this.#stopped.get(position) ?? plan.outcome, ranMs)));
    });
    this.#task = task;
    this.observer.started(position, 0);
  }

  #finish(position: number, end: AttemptEnd): void {
    this.#task = undefined;
    this.#position = position + 1;
    this.#endOf(position, end);
    if (this.#position < this.launch.attempts.length) this.#soon(() => this.#begin());
  }

  #end(outcome: AttemptEnd['outcome'], ranMs: number): AttemptEnd {
    const exitCode = outcome === 'succeeded' ? 0 : outcome === 'failed' ? 1 : undefined;
    const error = outcome === 'succeeded' ? undefined : `simulated: ${outcome}`;
    return {
      outcome,
      exitCode,
      signal: undefined,
      error,
      runUs: ranMs * 1000,
      peakMemoryBytes: undefined,
      resultJson: undefined,
    };
  }
}
