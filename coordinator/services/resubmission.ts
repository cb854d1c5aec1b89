import { MeshError } from '../../common/errors.js';
import type { Identity } from '../../common/identity/identity.js';
import { TaskInput } from '../../proto/gen/mesh/v1/common.js';
import { isTerminal, submitterOf } from '../core/job.js';
import type { JobRow, Store } from '../ports.js';
import { actorOf } from './audit.js';
import type { Intake } from './intake.js';

const PAGE = 1000;
/** Retries of one job; whoever wants more retries the last retry. */
const ROUNDS_MAX = 1000;

/** `mesh retry`: a new job of the tasks that did not complete; the old one stays as it is (invariant I1). */
export class Resubmission {
  constructor(
    private readonly store: Store,
    private readonly intake: Intake,
  ) {}

  /**
   * Asked twice, it is the same retry while that runs and when it completed; after one that did not complete it is a new
   * one, of the same tasks.
   * @throws MeshError CONFLICT while the job runs, or when nothing is left to do
   */
  async retry(job: JobRow, caller: Identity, address: string): Promise<JobRow> {
    if (!isTerminal(job.status))
      throw new MeshError('CONFLICT', `job ${job.id} has not ended`, { hint: `see: mesh job ${job.id}` });
    const open = job.counts.total - job.counts.completed;
    if (open === 0)
      throw new MeshError('CONFLICT', `every task of job ${job.id} completed`, { hint: 'submit it anew' });
    const whole = open === job.counts.total && job.spec.array !== undefined;
    const { array, ...rest } = job.spec;
    for (let round = 1; ; round++) {
      const retry = await this.intake.submit({
        actor: actorOf({ identity: caller, address }),
        submitter: submitterOf(caller),
        idempotencyKey: round === 1 ? `retry-${job.id}-${open}` : `retry-${job.id}-${open}-${round}`,
        spec: whole ? job.spec : { ...rest, array: undefined, taskCount: open },
        hasItems: !whole,
        items: whole ? none() : this.#items(job, array),
        retryOf: job.id,
      });
      if (!isTerminal(retry.status) || retry.status === 'COMPLETED' || round === ROUNDS_MAX) return retry;
    }
  }

  /** The inputs of what is left. Tasks get new numbers and keep their MESH_INDEX, so that they write where they would have. */
  async *#items(job: JobRow, array: JobRow['spec']['array']): AsyncGenerator<TaskInput[]> {
    for (let from = 0; ; ) {
      const page = await this.store.tasks.unfinishedInputs(job.seq, from, PAGE);
      if (page.length === 0) return;
      from = (page.at(-1)?.index ?? from) + 1;
      yield page.map(({ index, input }) => {
        const given = input === undefined ? {} : (JSON.parse(input) as Partial<TaskInput>);
        const arrayIndex = array ? array.start + index * array.step : index;
        return TaskInput.fromPartial({ arrayIndex, ...given });
      });
    }
  }
}

async function* none(): AsyncGenerator<never> {}
