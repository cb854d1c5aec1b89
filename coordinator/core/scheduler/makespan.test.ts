/**
 * A discrete-event simulation of a mesh of unequal machines, to compare strategies on makespan: same machines, same work,
 * same draws. Machines differ in slots, in how busy their owners keep them (which slows tasks down), in distance, and in
 * how often they spoil an attempt. The planner sees only what a coordinator would: load, round trips, learned reliability.
 */
import { test } from 'tap';
import { SeededRandom } from '../../../test/support/random.js';
import { makeKind, makeSettings, makeRoom } from '../../../test/support/snapshot.js';
import { Ledger } from '../ledger.js';
import { spoiledByNode, updateReliability } from '../node.js';
import { TaskTime } from '../work.js';
import { plan } from './plan.js';
import type { NodeView, PlanSettings, ReturnedTask, WorkView } from './types.js';

interface Machine {
  seq: number;
  slots: number;
  /** Share of the machine its owner uses; tasks run slower by as much. */
  ownerLoad: number;
  rttMs: number;
  /** Probability that it spoils an attempt, half-way through. */
  spoils: number;
}

const MACHINES: Machine[] = [
  { seq: 1, slots: 16, ownerLoad: 0, rttMs: 0.5, spoils: 0 },
  { seq: 2, slots: 8, ownerLoad: 0, rttMs: 1, spoils: 0 },
  { seq: 3, slots: 8, ownerLoad: 0.75, rttMs: 1, spoils: 0 },
  { seq: 4, slots: 4, ownerLoad: 0.1, rttMs: 60, spoils: 0 },
  { seq: 5, slots: 8, ownerLoad: 0.05, rttMs: 2, spoils: 0.5 },
  { seq: 6, slots: 4, ownerLoad: 0.85, rttMs: 15, spoils: 0.1 },
];

interface Wave {
  tasks: number;
  taskMs: number;
}

interface Event {
  atMs: number;
  node: number;
  index: number;
  generation: number;
  outcome: 'succeeded' | 'node-fault';
  ranMs: number;
}

const PIPELINE_DELAY_MS = 5;

class Simulation {
  readonly #random: SeededRandom;
  readonly #ledger = new Ledger();
  readonly #vitals = new Map(MACHINES.map(({ seq }) => [seq, { reliability: 1, finished: 0 }]));
  readonly #kind = makeKind(1);
  readonly #settings: PlanSettings;
  #nowMs = 0;
  #generation = 0;

  constructor(strategy: PlanSettings['strategy'], seed: number) {
    this.#random = new SeededRandom(seed);
    this.#settings = makeSettings({ strategy, pipelineDelayMs: PIPELINE_DELAY_MS });
    for (const { seq, slots } of MACHINES) this.#ledger.setNode(seq, makeRoom(slots));
  }

  /** Runs waves of work one after the other; the sum of their makespans. */
  run(waves: readonly Wave[]): number {
    waves.forEach((wave, at) => this.#wave(at + 1, wave));
    return this.#nowMs;
  }

  #wave(job: number, { tasks, taskMs }: Wave): void {
    const time = new TaskTime();
    let cursor = 0;
    let completed = 0;
    let returned: ReturnedTask[] = [];
    const running = new Set<string>();
    const events: Event[] = [];
    while (completed < tasks) {
      const work = this.#work(job, tasks - cursor, returned, time.ms);
      const snapshot = {
        nodes: this.#nodes(time),
        work: [work],
        heldBySubmitter: new Map(),
        prefilled: this.#ledger.prefilled(),
      };
      const made = plan(snapshot, this.#settings, this.#nowMs, this.#random.next);
      for (const retraction of made.retractions)
        for (const ref of this.#ledger.takeBack(retraction)) {
          this.#ledger.remove(ref);
          returned.push({ index: ref.index, failedNodes: [] });
        }
      for (const { node, fresh, returned: back } of made.assignments) {
        const indexes = [...back, ...Array.from({ length: fresh }, () => cursor++)];
        returned = returned.filter(({ index }) => !back.includes(index));
        for (const index of indexes)
          this.#ledger.add(
            { job, index, node, generation: ++this.#generation, failures: 0, losses: 0 },
            this.#kind,
            'ann',
            0,
          );
      }
      this.#start(taskMs, running, events);
      const next = events.reduce((a, b) => (b.atMs < a.atMs ? b : a));
      events.splice(events.indexOf(next), 1);
      this.#nowMs = next.atMs;
      running.delete(`${next.index}/${next.generation}`);
      this.#ledger.remove({ job, index: next.index, generation: next.generation });
      this.#learn(next, time);
      if (next.outcome === 'succeeded') completed++;
      else returned.push({ index: next.index, failedNodes: [next.node] });
    }
  }

  #work(job: number, fresh: number, returned: readonly ReturnedTask[], taskMs: number | undefined): WorkView {
    const rest = { priority: 0, submitter: 'ann', arrival: job, blockedNodes: new Set<number>() };
    return { job, kind: this.#kind, fresh, returned, taskMs, ...rest };
  }

  #nodes(time: TaskTime): NodeView[] {
    return MACHINES.map(({ seq, slots, ownerLoad, rttMs }) => {
      const room = this.#ledger.room(seq, () => time.ms);
      const load = Math.min(1, ownerLoad + (slots - room.free.slots) / slots);
      const vitals = this.#vitals.get(seq) ?? { reliability: 1, finished: 0 };
      const plain = {
        labels: new Map<string, string>(),
        executors: new Set(['process']),
        draining: false,
        revoked: false,
      };
      return { seq, name: `m${seq}`, state: 'HEALTHY', load, rttMs, ...plain, ...vitals, ...room };
    });
  }

  /** The agents' part: what holds room and does not run yet is started, half a round trip later. */
  #start(taskMs: number, running: Set<string>, events: Event[]): void {
    for (const { seq, ownerLoad, rttMs, spoils } of MACHINES) {
      for (const { index, generation, holding } of this.#ledger.ofNode(seq)) {
        if (!holding || running.has(`${index}/${generation}`)) continue;
        running.add(`${index}/${generation}`);
        const spoiled = this.#random.chance(spoils);
        const full = (taskMs * (0.5 + this.#random.next())) / (1 - ownerLoad);
        const ranMs = spoiled ? full / 2 : full;
        const atMs = this.#nowMs + PIPELINE_DELAY_MS + rttMs + ranMs;
        events.push({ atMs, node: seq, index, generation, outcome: spoiled ? 'node-fault' : 'succeeded', ranMs });
      }
    }
  }

  #learn({ node, outcome, ranMs }: Event, time: TaskTime): void {
    const vitals = this.#vitals.get(node);
    if (!vitals) return;
    vitals.reliability = updateReliability(vitals.reliability, spoiledByNode(outcome) ?? false);
    vitals.finished++;
    if (outcome === 'succeeded') time.observe(ranMs, 1);
  }
}

/** Bursts smaller than the mesh, as people make them, some large jobs between, tasks from short to long. */
function drawWaves(seed: number): Wave[] {
  const random = new SeededRandom(seed);
  return Array.from({ length: 30 }, () => ({
    tasks: random.chance(0.8) ? random.integer(4, 24) : random.integer(60, 150),
    taskMs: random.pick([20, 200, 2000]),
  }));
}

test('on unequal machines, score finishes before round-robin and before random', async (t) => {
  const totals = { score: 0, 'round-robin': 0, random: 0 };
  for (let seed = 1; seed <= 8; seed++) {
    const waves = drawWaves(seed);
    const span = (strategy: PlanSettings['strategy']) => new Simulation(strategy, seed).run(waves);
    const made = { score: span('score'), 'round-robin': span('round-robin'), random: span('random') };
    t.ok(made.score < made['round-robin'], `seed ${seed}: ${Math.round(made.score)} against round-robin`);
    t.ok(made.score < made.random, `seed ${seed}: ${Math.round(made.score)} against random`);
    for (const strategy of ['score', 'round-robin', 'random'] as const) totals[strategy] += made[strategy];
  }
  const ratio = (other: 'round-robin' | 'random') => (totals[other] / totals.score).toFixed(2);
  t.comment(`makespan relative to score: round-robin ${ratio('round-robin')}, random ${ratio('random')}`);
  t.ok(totals.score * 1.2 < totals['round-robin']);
  t.ok(totals.score * 1.2 < totals.random);
});
