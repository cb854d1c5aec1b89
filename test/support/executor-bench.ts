/** What the executors' tests share. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { systemClock } from '../../common/clock.js';
import { silentLogger } from '../../common/log.js';
import type { JobBody } from '../../proto/gen/mesh/v1/agent.js';
import type { OutputChunk } from '../../proto/gen/mesh/v1/common.js';
import {
  type AttemptEnd,
  type AttemptSpec,
  type Executor,
  type LaunchObserver,
  type RunningLaunch,
  successOf,
} from '../../agent/core/types.js';
import type { JobSecrets } from '../../agent/core/secrets.js';
import { OutputSpool } from '../../agent/output/spool.js';
import { Janitor } from '../../agent/executors/janitor.js';
import { StrayWatch } from '../../agent/executors/strays.js';
import { type TaskUser, taskUser } from '../../agent/executors/user.js';
import { dataDirMarker, prepareWorkRoot, type WorkRoot } from '../../agent/executors/workroot.js';

interface TestContext {
  teardown(fn: () => unknown): unknown;
}

export interface Bench {
  dataDir: string;
  marker: string;
  user: TaskUser | undefined;
  workRoot: WorkRoot;
  strays: StrayWatch;
  janitor: Janitor;
}

/** A data directory (private, with a space in its name), a work root and what an executor needs beside them. */
export async function makeBench(t: TestContext): Promise<Bench> {
  const dataDir = mkdtempSync(join(tmpdir(), 'agent data-'));
  const marker = dataDirMarker(dataDir);
  const user = taskUser();
  const workRoot = await prepareWorkRoot(dataDir, user);
  const strays = new StrayWatch({ marker, boot: 'test', clock: systemClock, log: silentLogger });
  const janitor = new Janitor(user, silentLogger);
  t.teardown(async () => {
    await strays.stop();
    await janitor.idle();
    await workRoot.remove();
    rmSync(dataDir, { recursive: true, force: true });
  });
  return { dataDir, marker, user, workRoot, strays, janitor };
}

let jobs = 0;

export function makeBody(work: JobBody['work'], more: Partial<JobBody> = {}): JobBody {
  jobs++;
  return {
    job: jobs,
    jobId: `job${jobs}`,
    work,
    resources: undefined,
    timeoutMs: 0,
    taskCount: 1,
    array: undefined,
    logBytesMax: 0,
    onDisconnect: 1,
    sandbox: 0,
    net: false,
    limits: undefined,
    secrets: [],
    ...more,
  };
}

export const makeAttempt = (body: JobBody, index = 0, more: Partial<AttemptSpec> = {}): AttemptSpec => ({
  job: body.job,
  index,
  generation: 1,
  attempt: 1,
  body,
  input: undefined,
  ...more,
});

export interface Observed {
  running: RunningLaunch;
  ends: Map<number, AttemptEnd>;
  started: Map<number, number>;
  /** Positions of those that were told of as one. */
  together: (readonly number[])[];
  returned: number[];
  /** Resolves when this position was reported started. */
  whenStarted(position: number): Promise<void>;
  /** Resolves when the output of this position contains the text. */
  whenPrinted(position: number, text: string): Promise<void>;
  chunks(position: number): OutputChunk[];
  text(position: number): string;
  end(position?: number): Promise<AttemptEnd>;
}

/** Runs attempts and keeps what the executor says about them. */
export function observe(
  executor: Executor,
  attempts: AttemptSpec[],
  options: { gpus?: number[]; path?: string; secrets?: JobSecrets } = {},
): Observed {
  const ends = new Map<number, AttemptEnd>();
  const started = new Map<number, number>();
  const together: (readonly number[])[] = [];
  const returned: number[] = [];
  const spools = new Map<number, OutputSpool>();
  const waiting: { ready: () => boolean; resolve: () => void }[] = [];
  const check = () => {
    for (const wait of waiting) if (wait.ready()) wait.resolve();
  };
  const until = (ready: () => boolean) =>
    new Promise<void>((resolve) => {
      waiting.push({ ready, resolve });
      check();
    });
  const chunks = (position: number) => spools.get(position)?.tail()?.chunks ?? [];
  const text = (position: number) => Buffer.concat(chunks(position).map((chunk) => chunk.data)).toString();
  const ended = (position: number, end: AttemptEnd) => {
    if (ends.has(position)) throw new Error(`position ${position} ended twice`);
    ends.set(position, end);
  };
  const observer: LaunchObserver = {
    started: (position, ageMs) => {
      started.set(position, ageMs);
      check();
    },
    output: (position) => {
      const path = options.path ?? '/nonexistent/spool';
      const spool = new OutputSpool({ path, clock: systemClock });
      spool.onData(check);
      spools.set(position, spool);
      return spool;
    },
    ended,
    succeeded: (positions, resultsJson, runUs, exitCode) => {
      together.push(positions);
      positions.forEach((position, i) =>
        ended(position, successOf(resultsJson[i] as string, runUs[i] as number, exitCode)),
      );
    },
    returned: (positions) => {
      returned.push(...positions);
    },
  };
  const body = attempts[0]?.body as JobBody;
  const running = executor.start({ body, attempts, gpus: options.gpus ?? [], secrets: options.secrets }, observer);
  return {
    running,
    ends,
    started,
    returned,
    together,
    chunks,
    text,
    whenStarted: (position) => until(() => started.has(position)),
    whenPrinted: (position, part) => until(() => text(position).includes(part)),
    end: async (position = 0) => {
      await running.done;
      return ends.get(position) as AttemptEnd;
    },
  };
}
