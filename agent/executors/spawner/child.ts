import { NodeFault } from '../../core/types.js';
import { constants } from 'node:os';
import type { Child, Ended, GroupSignal, OutputIndex } from '../child.js';
import { ASK, asideSuffix, CLOSE, commandFrame, PAUSE, type Report, RESUME, SIGNAL, systemError } from './frames.js';

/** The stream a launcher reports on. */
const REPORT = 2;

const CODES = new Map(
  Object.entries(constants.errno)
    .reverse()
    .map(([code, number]) => [number, code]),
);
const SIGNALS = new Map(
  Object.entries(constants.signals)
    .reverse()
    .map(([name, number]) => [number, name]),
);

export type ExitReport = Extract<Report, { kind: 'exit' }>;

/** Who hears of a process of the spawner's. */
export interface Hearer {
  /** True when there is nothing more to come. */
  take(report: Report): boolean;
  /** Whoever started it is gone, and the process with it, and output that was still to come. */
  lost(error: NodeFault): void;
}

/** A process of the spawner's. */
export class SpawnedChild implements Child, Hearer {
  readonly complaint = undefined;
  readonly exited: Promise<Ended>;
  readonly closed: Promise<void>;
  #pid: number | undefined;
  #over = false;
  #settle!: (report: ExitReport) => void;
  #fail!: (error: Error) => void;
  #close!: () => void;
  #failClose!: (error: Error) => void;
  #known: ((pid: number) => void)[] = [];
  #output: ((stream: OutputIndex, data: Buffer) => void) | undefined;
  #report: ((text: string) => void) | undefined;
  readonly #paused = [false, false];
  readonly #id: number;
  readonly #send: (frame: Buffer) => void;

  constructor(id: number, send: (frame: Buffer) => void) {
    this.#id = id;
    this.#send = send;
    this.closed = new Promise((resolve, reject) => {
      this.#close = resolve;
      this.#failClose = reject;
    });
    this.exited = new Promise((resolve, reject) => {
      this.#settle = (report) => (report.step ? reject(refusal(report)) : resolve(ended(report)));
      this.#fail = reject;
    });
    for (const end of [this.exited, this.closed]) end.catch(() => undefined);
  }

  get pid(): number | undefined {
    return this.#pid;
  }

  whenKnown(use: (pid: number) => void): void {
    if (this.#pid !== undefined) return use(this.#pid);
    if (this.#over) return;
    this.#known.push(use);
  }

  /** It would be told by and by; somebody needs to know now. */
  ask(): void {
    if (this.#pid === undefined && !this.#over) this.#send(commandFrame(ASK, this.#id));
  }

  onReport(use: (text: string) => void): void {
    this.#report = use;
  }

  onOutput(use: (stream: OutputIndex, data: Buffer) => void): void {
    this.#output = use;
  }

  pause(stream: OutputIndex): void {
    this.#paused[stream] = true;
    this.#send(commandFrame(PAUSE, this.#id, stream));
  }

  resume(stream: OutputIndex): void {
    this.#paused[stream] = false;
    this.#send(commandFrame(RESUME, this.#id, stream));
  }

  get paused(): boolean {
    return this.#paused.includes(true);
  }

  abandon(): void {
    this.#send(commandFrame(CLOSE, this.#id));
  }

  /** The spawner does it: it alone knows whether the number is still that of this group. In the end it has killed it. */
  signalGroup(signal: GroupSignal): void {
    if (!this.#over) this.#send(commandFrame(SIGNAL, this.#id, constants.signals[signal]));
  }

  take(report: Report): boolean {
    switch (report.kind) {
      case 'pid':
        this.#learn(report.pid);
        return false;
      case 'data':
        if (report.stream === REPORT) this.#report?.(report.data.toString('utf8'));
        else this.#output?.(report.stream as OutputIndex, report.data);
        return false;
      case 'exit':
        this.#over = true;
        // Whoever waited for it wanted to do something to what runs.
        this.#known = [];
        if (report.pid > 0) this.#pid = report.pid;
        this.#settle(report);
        if (report.closed) this.#close();
        return report.closed;
      case 'closed':
        this.#close();
        return true;
      case 'dropped':
        this.lost(new NodeFault('it was not started'));
        return true;
    }
  }

  #learn(pid: number): void {
    this.#pid = pid;
    for (const use of this.#known.splice(0)) use(pid);
  }

  lost(error: NodeFault): void {
    this.#over = true;
    this.#known = [];
    this.#fail(error);
    this.#failClose(error);
  }
}

/** As the system reports it: see wait(2). */
export function ended({ id, status, runUs, directoryPristine, directoryAside }: ExitReport): Ended {
  const signal = status & 0x7f;
  return {
    exitCode: signal === 0 ? (status >> 8) & 0xff : undefined,
    signal: signal === 0 ? undefined : (SIGNALS.get(signal) ?? `signal ${signal}`),
    runMs: runUs / 1000,
    directoryPristine,
    directoryAside: directoryAside ? asideSuffix(id) : undefined,
  };
}

export function refusal({ step, errno }: ExitReport): Error {
  const code = CODES.get(errno) ?? `error ${errno}`;
  if (step === 'directory') return new NodeFault(`no working directory could be made: ${code}`);
  return systemError(code, `${step} could not be started: ${code}`);
}
