/** A seeded stream of jobs, through the command that people type: short and long, keep and stop, failing, cancelled. */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { systemClock } from '../../common/clock.js';
import type { JobShape } from '../../sdk/shapes.js';
import type { SeededRandom } from '../support/random.js';
import { recorded, uptimeMs } from '../support/trail.js';
import type { World } from './world.js';

/** As the coordinator bounds them; see coordinator/services/jobs.ts. */
const LOSSES_MAX = 20;
const RETRIES = 6;
/** Live jobs beyond which no more come. */
const LIVE_MAX = 12;

/** A module whose function leaves the same lines as a recorded script. */
const squareModule = (trail: string): string => `
import { appendFileSync, readFileSync } from 'node:fs';
const say = ({ jobId, index, generation, node }, what) => {
  const [up] = readFileSync('/proc/uptime', 'utf8').split(' ');
  appendFileSync(${JSON.stringify(trail)}, [up, jobId, index, generation, node, process.pid, what].join(' ') + '\\n');
};
export default (value, context) => {
  say(context, 'began');
  say(context, 'ended');
  return { squared: value * value };
};
`;

interface Plan {
  args: string[];
  command: string[];
  /** For standard input. */
  input: string;
  tasks: number;
  onDisconnect: 'keep' | 'stop';
  cancel: boolean;
  kind: string;
}

export interface Submitted {
  id: string;
  tasks: number;
  kind: string;
}

export class Load {
  readonly submitted: Submitted[] = [];
  /** Submissions that nobody acknowledged, by the reason; whatever became of them, nothing was promised. */
  readonly refused = new Map<string, number>();
  cancelled = 0;
  readonly #module: string;
  readonly #under = new Set<Promise<void>>();
  #stopped = false;

  constructor(
    private readonly world: World,
    private readonly random: SeededRandom,
  ) {
    this.#module = join(world.mesh.root, 'square.mjs');
    writeFileSync(this.#module, squareModule(world.trail));
  }

  /** Submits until told to stop, a job or two a second. */
  async run(): Promise<void> {
    while (!this.#stopped) {
      await elapsed(this.random.integer(200, 900));
      if (this.#under.size >= 3 || (await this.#live()) >= LIVE_MAX) continue;
      const work: Promise<void> = this.#one(this.#plan()).finally(() => this.#under.delete(work));
      this.#under.add(work);
    }
    await Promise.all(this.#under);
  }

  stop(): void {
    this.#stopped = true;
  }

  /** By the database; while it is away nothing is known, and nothing more is submitted. */
  async #live(): Promise<number> {
    try {
      const [row] = await this.world.sql`select count(*)::int as live from job where completed_at is null`;
      return Number(row?.live);
    } catch {
      return LIVE_MAX;
    }
  }

  #plan(): Plan {
    const { random } = this;
    const tasks = random.integer(1, 20);
    const onDisconnect = random.chance(0.35) ? 'stop' : 'keep';
    const cancel = random.chance(0.12);
    const args = ['--retries', String(RETRIES), '--backoff', '200ms', '--on-disconnect', onDisconnect];
    const kind = random.pick(['short', 'short', 'medium', 'long', 'failing', 'function', 'numbers']);
    const base = { tasks, onDisconnect, cancel, kind } as const;
    if (kind === 'function') {
      const input = Array.from({ length: tasks }, (_, value) => `${value}\n`).join('');
      return { ...base, args: [...args, '--fn', this.#module, '--each', '-'], command: [], input };
    }
    if (kind === 'numbers') {
      // Without items, and enough of them that they are assigned in ranges and complete in blocks.
      const many = random.integer(100, 600);
      const array = ['--array', `0-${many - 1}`];
      return {
        ...base,
        tasks: many,
        kind: 'function',
        args: [...args, '--fn', this.#module, ...array],
        command: [],
        input: '',
      };
    }
    args.push('--array', `0-${tasks - 1}`);
    const beats = kind === 'short' ? 0 : kind === 'long' ? random.integer(30, 80) : random.integer(2, 15);
    const failing = 'test "$MESH_ATTEMPT" -gt $((MESH_INDEX % 3)) || exit 3';
    const body = [
      kind === 'failing' ? failing : ':',
      `i=0; while [ $i -lt ${beats} ]; do beat 0.1; i=$((i + 1)); done`,
    ].join('\n');
    return { ...base, args, command: ['--', 'sh', '-c', recorded(this.world.trail, body)], input: '' };
  }

  async #one(plan: Plan): Promise<void> {
    const { mesh } = this.world;
    const cancelAfterMs = this.random.integer(0, 3000);
    const result = await mesh
      .cliWith({ input: plan.input }, 'submit', '--json', ...plan.args, ...plan.command)
      .catch((error: Error) => error);
    if (result instanceof Error || result.code !== 0 || result.stdout === '') {
      const reason = result instanceof Error ? result.message : result.stderr.trim();
      this.refused.set(reason, (this.refused.get(reason) ?? 0) + 1);
      return;
    }
    const { id } = result.json<JobShape>();
    const { tasks, kind, onDisconnect } = plan;
    this.submitted.push({ id, tasks, kind });
    this.world.note({
      ...{ kind: 'job-acknowledged', atMs: uptimeMs(), job: id, tasks, onDisconnect },
      ...{ failuresMax: RETRIES + 1, lossesMax: LOSSES_MAX },
    });
    if (!plan.cancel) return;
    await elapsed(cancelAfterMs);
    const cancelled = await mesh.cli('cancel', id).catch(() => undefined);
    if (cancelled?.code === 0) this.cancelled++;
  }
}

/** The schedule is made of time: that is what it waits for. */
export const elapsed = (ms: number): Promise<void> => new Promise((resolve) => systemClock.after(ms, resolve));
