/** What the ledger answers, and what is to be done about it. */
import type { TaskRefs } from '../../proto/gen/mesh/v1/agent.js';
import type { Attempt } from './attempt.js';

export interface AssignResult {
  added: number;
  /** Held already in the same or a higher generation. */
  repeated: number;
  /** Superseded by a higher generation while they ran: kill them; their end is not reported. */
  kill: Attempt[];
  /** Can never run on this node; they are ENDED, and the caller reports a node fault with this reason. */
  impossible: { attempt: Attempt; reason: string }[];
  /** Jobs that were named without a body; nothing of them was taken. */
  unknownJobs: number[];
}

export interface CancelResult {
  /** Had not started; they are ENDED, and the caller reports them cancelled. */
  ended: Attempt[];
  /** Run: kill them, their end comes from the executor. */
  kill: Attempt[];
  /** Not held here. What has ended and is not acknowledged is not among them: its result is on its way. */
  unknown: TaskRefs;
}

export interface LedgerReport {
  prefilled: TaskRefs;
  running: TaskRefs;
  unacknowledged: TaskRefs;
}
