/**
 * The account of every attempt on this node: what was assigned, what runs, what ended and is not acknowledged.
 *
 * Attempts wait in lanes, one per distinct demand, and start in order of arrival across lanes. When the oldest does not
 * fit, younger ones of other lanes pass it, but only `passesMax` times; then everything waits until it fits, so a large
 * task is not starved by small ones. Attempts of one job may start as one launch that holds a single slot and runs them
 * one after the other: that is how thousands of tiny functions a second stay within the slots.
 *
 * Pure: no clock, no I/O. A repeated or late command changes nothing. Every operation is O(1) amortised per attempt.
 */
import type { AssignGroup, JobBody, TaskRefs } from '../../proto/gen/mesh/v1/agent.js';
import { OnDisconnect } from '../../proto/gen/mesh/v1/common.js';
import { Attempt, type AttemptState, Launch } from './attempt.js';
import { Lane } from './lanes.js';
import type { AssignResult, CancelResult, LedgerReport } from './ledger-results.js';
import { addRef, emptyRefs } from './refs.js';
import type { AttemptRef } from './types.js';
import { type Demand, demandOf, Room, type RoomTotal } from './room.js';
import { JobSecrets } from './secrets.js';

interface JobEntry {
  body: JobBody;
  demand: Demand;
  lane: Lane;
  /** Why no task of it can ever run here. */
  impossible: string | undefined;
  attempts: Map<number, Attempt>;
  /** With the attempts and no longer. */
  secrets: JobSecrets | undefined;
  /** Forgotten and not dead yet, by index: a task never runs twice at a time on one node. */
  dying: Map<number, Attempt>;
}

/** What may start: everything; all but what is to stop without a coordinator; nothing. */
export type FenceLevel = 'open' | 'stop' | 'all';

/** Whether nothing of it may run while the coordinator is lost. */
export const stopsAlone = (body: JobBody): boolean => body.onDisconnect === OnDisconnect.STOP;

export interface LedgerOptions {
  /** How often younger attempts may pass the oldest one that does not fit. Default: as many as there are slots. */
  passesMax?: number;
  /** Hears of every change of state. */
  onMove?: (attempt: Attempt, from: AttemptState, to: AttemptState) => void;
}

export class Ledger {
  readonly #room: Room;
  readonly #passesMax: number;
  readonly #onMove: LedgerOptions['onMove'];
  readonly #jobs = new Map<number, JobEntry>();
  readonly #lanes = new Map<string, Lane>();
  #fence: FenceLevel = 'open';
  #order = 0;
  #prefilled = 0;
  #launched = 0;
  #ended = 0;

  constructor(total: RoomTotal, options: LedgerOptions = {}) {
    this.#room = new Room(total);
    this.#passesMax = options.passesMax ?? total.slots;
    this.#onMove = options.onMove;
  }

  /** Launches that hold a slot. */
  get slotsHeld(): number {
    return this.#room.slotsHeld;
  }

  /** Attempts here that wait for a slot, those behind another one in a launch included. */
  get queued(): number {
    return this.#prefilled + Math.max(0, this.#launched - this.#room.slotsHeld);
  }

  get unacknowledged(): number {
    return this.#ended;
  }

  /** Nothing waits and nothing runs. */
  get idle(): boolean {
    return this.#prefilled === 0 && this.#room.slotsHeld === 0;
  }

  /** Some attempts wait that may not start without a coordinator. */
  get holdsStopping(): boolean {
    for (const lane of this.#lanes.values()) if (lane.stops && lane.peek()) return true;
    return false;
  }

  /** From now on only what the level allows is launched. */
  fence(level: FenceLevel): void {
    this.#fence = level;
  }

  /** What the tasks of these jobs share. A known job keeps its lane; its body is replaced. */
  addBodies(bodies: readonly JobBody[]): void {
    for (const body of bodies) {
      const known = this.#jobs.get(body.job);
      if (known) {
        known.body = body;
        continue;
      }
      const demand = demandOf(body.resources);
      const stops = stopsAlone(body);
      const key = stops ? `stop ${demand.key}` : demand.key;
      let lane = this.#lanes.get(key);
      if (!lane) this.#lanes.set(key, (lane = new Lane(key, demand, stops)));
      const impossible = this.#room.impossible(demand);
      const none = { secrets: undefined, attempts: new Map(), dying: new Map() };
      this.#jobs.set(body.job, { body, demand: lane.demand, lane, impossible, ...none });
    }
  }

  /** What the secrets of a known job are worth from now on: attempts that start later get these. */
  holdSecrets(job: number, values: readonly Buffer[]): void {
    const entry = this.#jobs.get(job);
    if (!entry || entry.secrets?.matches(entry.body.secrets, values)) return;
    entry.secrets = new JobSecrets(entry.body.secrets, values);
  }

  /** A new session sends its bodies again: forgets those that nothing here needs. */
  forgetIdleBodies(): void {
    for (const [job, entry] of this.#jobs) {
      if (entry.attempts.size + entry.dying.size === 0) this.#jobs.delete(job);
    }
    const used = new Set([...this.#jobs.values()].map((entry) => entry.lane.key));
    for (const [key, lane] of this.#lanes) {
      if (!used.has(key) && !lane.peek()) this.#lanes.delete(key);
    }
  }

  assign(groups: readonly AssignGroup[]): AssignResult {
    const result: AssignResult = { added: 0, repeated: 0, kill: [], impossible: [], unknownJobs: [] };
    for (const group of groups) {
      const entry = this.#jobs.get(group.job);
      if (!entry) {
        result.unknownJobs.push(group.job);
        continue;
      }
      for (let i = 0; i < group.indexes.length; i++) this.#assignOne(entry, group, i, result);
    }
    return result;
  }

  #assignOne(entry: JobEntry, group: AssignGroup, i: number, result: AssignResult): void {
    const index = group.indexes[i] as number;
    const generation = group.generations[i] ?? 1;
    const known = entry.attempts.get(index);
    if (known) {
      if (known.generation >= generation) {
        result.repeated++;
        return;
      }
      if (this.#forget(known)) result.kill.push(known);
    }
    const attempt = new Attempt(group.job, index, generation, group.attempts[i] ?? 1, entry.body, group.inputs[i]);
    attempt.order = this.#order++;
    entry.attempts.set(index, attempt);
    this.#prefilled++;
    result.added++;
    if (entry.impossible !== undefined) {
      this.#move(attempt, 'ENDED');
      result.impossible.push({ attempt, reason: entry.impossible });
    } else if (!entry.dying.has(index)) {
      entry.lane.push(attempt);
    }
  }

  /**
   * Starts what fits now. Call it after every assignment and every end.
   * @param launchMax how many attempts of this job may share one launch, at least 1, when so many wait for each slot
   */
  launch(launchMax: (body: JobBody, share: number) => number): Launch[] {
    const launches: Launch[] = [];
    for (let lane = this.#next(); lane; lane = this.#next()) {
      const head = lane.peek() as Attempt;
      const attempts = lane.take(Math.max(1, launchMax(head.body, this.#prefilled / this.#room.total.slots)));
      const { secrets } = this.#jobs.get(head.job) ?? {};
      const launch = new Launch(head.body, lane.demand, attempts, this.#room.take(lane.demand), secrets);
      attempts.forEach((attempt, position) => {
        attempt.launch = launch;
        attempt.position = position;
        this.#move(attempt, 'STARTING');
      });
      launches.push(launch);
    }
    return launches;
  }

  /** The lane to serve next: the one with the oldest head that fits, unless an older head was passed often enough. */
  #next(): Lane | undefined {
    if (this.#room.slotsHeld >= this.#room.total.slots || this.#prefilled === 0 || this.#fence === 'all')
      return undefined;
    let oldest: Lane | undefined;
    let oldestOrder = Number.POSITIVE_INFINITY;
    let fitting: Lane | undefined;
    let fittingOrder = Number.POSITIVE_INFINITY;
    for (const lane of this.#lanes.values()) {
      if (lane.stops && this.#fence !== 'open') continue;
      const order = lane.peek()?.order ?? Number.POSITIVE_INFINITY;
      if (order < oldestOrder) [oldest, oldestOrder] = [lane, order];
      if (order < fittingOrder && this.#room.fits(lane.demand)) [fitting, fittingOrder] = [lane, order];
    }
    if (fitting && oldest && fitting !== oldest && ++oldest.passes > this.#passesMax) return undefined;
    return fitting;
  }

  /** An executor saw it begin. */
  started(attempt: Attempt): void {
    if (attempt.state === 'STARTING') this.#move(attempt, 'RUNNING');
  }

  /** Nothing of it runs any more. True when its end is to be reported, false for one that was superseded. */
  ended(attempt: Attempt): boolean {
    const wanted = attempt.state === 'STARTING' || attempt.state === 'RUNNING';
    if (wanted) this.#move(attempt, 'ENDED');
    this.#leave(attempt);
    return wanted;
  }

  /** Did not begin after all: back to the front of its lane. */
  returned(attempts: readonly Attempt[]): void {
    const lanes = new Map<Lane, Attempt[]>();
    for (const attempt of attempts) {
      this.#leave(attempt);
      const lane = this.#jobs.get(attempt.job)?.lane;
      if (attempt.state !== 'STARTING' || !lane) continue;
      this.#move(attempt, 'PREFILLED');
      const list = lanes.get(lane);
      if (list) list.push(attempt);
      else lanes.set(lane, [attempt]);
    }
    for (const [lane, list] of lanes) lane.putBack(list);
  }

  #leave(attempt: Attempt): void {
    const launch = attempt.launch;
    if (!launch) return;
    attempt.launch = undefined;
    if (--launch.live === 0) this.#room.give(launch.demand, launch.gpus);
    const entry = this.#jobs.get(attempt.job);
    if (!entry || entry.dying.size === 0 || entry.dying.get(attempt.index) !== attempt) return;
    entry.dying.delete(attempt.index);
    forgetSecrets(entry);
    const successor = entry.attempts.get(attempt.index);
    if (successor?.state === 'PREFILLED') entry.lane.push(successor);
  }

  /** Its result is committed. Forgets it, and nothing else: a newer generation of the task stays. */
  acknowledge(refs: TaskRefs): Attempt[] {
    return this.#select(refs, (attempt) => {
      if (attempt.state !== 'ENDED') return false;
      this.#forget(attempt);
      return true;
    });
  }

  /** The same of successive tasks in their first generation. */
  acknowledgeRun(job: number, first: number, count: number): void {
    const entry = this.#jobs.get(job);
    for (let index = first; entry && index < first + count; index++) {
      const attempt = entry.attempts.get(index);
      if (attempt?.state === 'ENDED' && attempt.generation === 1) this.#forget(attempt);
    }
  }

  /** Gives back what has not started. What is not held here at all counts as dropped: it will not run. */
  retract(refs: TaskRefs): { dropped: TaskRefs; kept: TaskRefs } {
    const dropped = emptyRefs();
    const kept = emptyRefs();
    this.#each(refs, (ref, attempt) => {
      if (attempt && attempt.state !== 'PREFILLED') return addRef(kept, ref);
      if (attempt) this.#forget(attempt);
      addRef(dropped, ref);
    });
    return { dropped, kept };
  }

  cancel(refs: TaskRefs): CancelResult {
    const result: CancelResult = { ended: [], kill: [], unknown: emptyRefs() };
    this.#each(refs, (ref, attempt) => {
      if (!attempt) return addRef(result.unknown, ref);
      if (attempt.state === 'ENDED') return;
      if (attempt.launch) {
        result.kill.push(attempt);
        return;
      }
      this.#dropFromLane(attempt);
      this.#move(attempt, 'ENDED');
      result.ended.push(attempt);
    });
    return result;
  }

  /** It goes on under another generation. Undefined when it is not held in the old one, or the other is no newer. */
  renumber(ref: AttemptRef, generation: number): Attempt | undefined {
    const attempt = this.get(ref.job, ref.index);
    if (attempt?.generation !== ref.generation || generation <= ref.generation) return undefined;
    attempt.generation = generation;
    return attempt;
  }

  /** The coordinator wants nothing of these any more, results included. Returns what runs and must be killed. */
  discard(refs: TaskRefs): Attempt[] {
    return this.#select(refs, (attempt) => this.#forget(attempt));
  }

  /** Everything that waits, dropped: for an agent that stops. Running attempts are returned, to be killed. */
  drain(): { dropped: TaskRefs; running: Attempt[] } {
    const dropped = emptyRefs();
    const running: Attempt[] = [];
    for (const entry of this.#jobs.values()) {
      for (const attempt of entry.attempts.values()) {
        if (attempt.launch) running.push(attempt);
        else if (attempt.state === 'PREFILLED') {
          addRef(dropped, attempt);
          this.#forget(attempt);
        }
      }
    }
    return { dropped, running };
  }

  /** For the hello. */
  report(): LedgerReport {
    const report: LedgerReport = { prefilled: emptyRefs(), running: emptyRefs(), unacknowledged: emptyRefs() };
    for (const entry of this.#jobs.values()) {
      for (const attempt of entry.attempts.values()) {
        if (attempt.state === 'PREFILLED') addRef(report.prefilled, attempt);
        else addRef(attempt.state === 'ENDED' ? report.unacknowledged : report.running, attempt);
      }
    }
    return report;
  }

  get(job: number, index: number): Attempt | undefined {
    return this.#jobs.get(job)?.attempts.get(index);
  }

  /** Drops it from the account; true when it runs and must be killed. */
  #forget(attempt: Attempt): boolean {
    const entry = this.#jobs.get(attempt.job);
    if (attempt.state === 'PREFILLED') this.#dropFromLane(attempt);
    this.#move(attempt, 'GONE');
    if (entry?.attempts.get(attempt.index) === attempt) entry.attempts.delete(attempt.index);
    if (attempt.launch) entry?.dying.set(attempt.index, attempt);
    if (entry) forgetSecrets(entry);
    return attempt.launch !== undefined;
  }

  /** One whose predecessor is still dying is in no lane yet. */
  #dropFromLane({ job, index }: Attempt): void {
    const entry = this.#jobs.get(job);
    if (!entry?.dying.has(index)) entry?.lane.dropped();
  }

  #select(refs: TaskRefs, take: (attempt: Attempt) => boolean): Attempt[] {
    const taken: Attempt[] = [];
    this.#each(refs, (_, attempt) => {
      if (attempt && take(attempt)) taken.push(attempt);
    });
    return taken;
  }

  /** Calls with the attempt that is held in exactly this generation, or undefined. */
  #each(
    refs: TaskRefs,
    visit: (ref: { job: number; index: number; generation: number }, attempt: Attempt | undefined) => void,
  ): void {
    for (let i = 0; i < refs.jobs.length; i++) {
      const ref = {
        job: refs.jobs[i] as number,
        index: refs.indexes[i] as number,
        generation: refs.generations[i] as number,
      };
      const attempt = this.get(ref.job, ref.index);
      visit(ref, attempt?.generation === ref.generation ? attempt : undefined);
    }
  }

  #move(attempt: Attempt, to: AttemptState): void {
    const from = attempt.state;
    this.#count(from, -1);
    this.#count(to, 1);
    attempt.state = to;
    this.#onMove?.(attempt, from, to);
  }

  #count(state: AttemptState, change: 1 | -1): void {
    if (state === 'PREFILLED') this.#prefilled += change;
    else if (state === 'ENDED') this.#ended += change;
    else if (state !== 'GONE') this.#launched += change;
  }
}

function forgetSecrets(entry: JobEntry): void {
  if (entry.attempts.size + entry.dying.size === 0) entry.secrets = undefined;
}
