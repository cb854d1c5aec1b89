import { MeshError } from '../../common/errors.js';
import type { TaskInput } from '../../proto/gen/mesh/v1/common.js';
import { flagOf, type Limits, shownLimit } from './limits.js';

/** The different files of one job while it comes in: how many, and how large together. */
export class StagedFiles {
  readonly #seen = new Set<string>();
  #bytes = 0;

  constructor(private readonly limits: Limits) {}

  get bytes(): number {
    return this.#bytes;
  }

  /**
   * @param index of the task, for the message
   * @throws MeshError BAD_SPEC at the file that is one too many
   */
  add(index: number, files: TaskInput['files']): void {
    for (const { digest, sizeBytes } of files) {
      if (this.#seen.has(digest)) continue;
      this.#seen.add(digest);
      this.#bytes += sizeBytes;
    }
    this.#check('maxJobFiles', index, this.#seen.size, 'different files are');
    this.#check('maxJobBytes', index, this.#bytes, 'bytes are');
  }

  #check(limit: 'maxJobFiles' | 'maxJobBytes', index: number, count: number, what: string): void {
    if (count <= this.limits[limit]) return;
    const counted = `${count.toLocaleString('en')} ${what} staged for the job`;
    throw new MeshError('BAD_SPEC', `at task ${index} ${counted}, more than ${shownLimit(this.limits, limit)}`, {
      hint: `split the job; the limit is ${flagOf(limit)} of the coordinator`,
    });
  }
}
