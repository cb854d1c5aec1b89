import type { JobBody } from '../../proto/gen/mesh/v1/agent.js';
import type { TaskInput } from '../../proto/gen/mesh/v1/common.js';
import type { AttemptSpec, LaunchSpec } from './types.js';
import type { Demand } from './room.js';
import type { JobSecrets } from './secrets.js';

/**
 * PREFILLED  assigned here, holds nothing. Left by: launch, retraction, cancel, a higher generation.
 * STARTING   part of a launch, not seen running. Left by: start, end, return to PREFILLED.
 * RUNNING    seen running. Left by: end.
 * ENDED      its result is not acknowledged. Left by: acknowledgement.
 * GONE       forgotten: acknowledged, retracted or superseded.
 */
export type AttemptState = 'PREFILLED' | 'STARTING' | 'RUNNING' | 'ENDED' | 'GONE';

/** One attempt on this node. Thousands wait at a time, so it is one flat object; only the ledger changes it. */
export class Attempt implements AttemptSpec {
  state: AttemptState = 'PREFILLED';
  /** The launch it is part of, and where in it. */
  launch: Launch | undefined = undefined;
  position = 0;
  /** Order of arrival on this node. */
  order = 0;

  constructor(
    readonly job: number,
    readonly index: number,
    /** Changes when the coordinator takes the attempt back under another one. */
    public generation: number,
    readonly attempt: number,
    readonly body: JobBody,
    readonly input: TaskInput | undefined,
  ) {}
}

/** Attempts that hold one slot together; what it holds is free again when the last of them has left it. */
export class Launch implements LaunchSpec {
  /** Attempts that have neither ended nor been returned. */
  live: number;

  constructor(
    readonly body: JobBody,
    readonly demand: Demand,
    readonly attempts: readonly Attempt[],
    readonly gpus: readonly number[],
    readonly secrets: JobSecrets | undefined,
  ) {
    this.live = attempts.length;
  }
}
