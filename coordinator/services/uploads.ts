/**
 * Files on their way in: how many bytes of each identity, and whether there is room for them. A file counts while it is
 * received; what is complete belongs to retention.
 */
import { MeshError } from '../../common/errors.js';
import { formatSize } from '../../common/units.js';
import { type Limits, shownLimit } from './limits.js';

/** Free space is looked at once in so many bytes: a disk fills up while a large file comes in. */
const LOOK_EVERY_BYTES = 16 * 2 ** 20;

export class Uploads {
  readonly #underWay = new Map<string, number>();

  constructor(
    private readonly limits: Limits,
    private readonly hasRoom: () => Promise<boolean>,
  ) {}

  /** One call that brings files, one after the other. */
  begin(identity: string): UploadMeter {
    return new UploadMeter(this.#underWay, identity, this.limits, this.hasRoom);
  }
}

export class UploadMeter {
  #bytes = 0;
  #unlooked = LOOK_EVERY_BYTES;

  constructor(
    private readonly underWay: Map<string, number>,
    private readonly identity: string,
    private readonly limits: Limits,
    private readonly hasRoom: () => Promise<boolean>,
  ) {}

  /** @throws MeshError OVERLOADED or DISK_FULL */
  async add(bytes: number): Promise<void> {
    const total = (this.underWay.get(this.identity) ?? 0) + bytes;
    if (total > this.limits.maxUploadBytes)
      throw new MeshError(
        'OVERLOADED',
        `${this.identity} has ${formatSize(total)} on the way, more than ${shownLimit(this.limits, 'maxUploadBytes')}`,
        { hint: 'try again when other uploads are done; the limit is --max-upload-bytes of the coordinator' },
      );
    this.underWay.set(this.identity, total);
    this.#bytes += bytes;
    this.#unlooked += bytes;
    if (this.#unlooked < LOOK_EVERY_BYTES) return;
    this.#unlooked = 0;
    if (!(await this.hasRoom()))
      throw new MeshError('DISK_FULL', 'the coordinator is short of disk space and takes no files', {
        hint: 'free some space there; the limit is --min-free-bytes of the coordinator',
      });
  }

  /** The file is complete, or given up. */
  done(): void {
    const left = (this.underWay.get(this.identity) ?? 0) - this.#bytes;
    this.#bytes = 0;
    if (left > 0) this.underWay.set(this.identity, left);
    else this.underWay.delete(this.identity);
  }
}
