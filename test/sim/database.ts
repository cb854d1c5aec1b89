/**
 * The database as a coordinator reaches it: each statement takes its time there and back, may fail before it is done, and
 * may be done while its answer is lost. What a process has sent is done even if the process dies meanwhile.
 */
import { MeshError } from '../../common/errors.js';
import type { Store } from '../../coordinator/ports.js';
import type { Process } from './machine.js';
import { memoryStore, type Run } from './store/memory-store.js';
import type { Tables } from './store/tables.js';
import type { World } from './world.js';

export interface DatabaseSettings {
  /** One way, on average. */
  delayMs: number;
  /** Share of statements that fail before, and whose answer is lost after, their COMMIT; while faults are on. */
  failRate: number;
  loseRate: number;
}

export const DATABASE_DEFAULTS: DatabaseSettings = { delayMs: 0.4, failRate: 0.01, loseRate: 0.01 };

const down = (why: string): MeshError => new MeshError('DATABASE_DOWN', `the simulated database ${why}`);

export class SimDatabase {
  /** Statements fail by chance only while this is set. */
  flaky = false;
  /** It refuses everything. */
  isDown = false;
  /** How much longer everything takes: a slow disk. */
  slowness = 1;

  constructor(
    private readonly world: World,
    readonly tables: Tables,
    private readonly settings: DatabaseSettings = DATABASE_DEFAULTS,
  ) {}

  /** The store as this process sees it. */
  storeFor(process: Process): Store {
    return memoryStore(this.tables, this.#runFor(process));
  }

  #runFor(process: Process): Run {
    const { world, settings } = this;
    const { random } = world;
    const delay = () => random.exponential(settings.delayMs) * this.slowness;
    return (statement, transaction) =>
      new Promise((resolve, reject) => {
        const answer = (say: () => void, delayMs = delay()) => world.after(delayMs, () => process.enter(say));
        if (!process.alive) return;
        world.after(delay(), () => {
          const say = (outcome: string) => world.trace(`${process.name} ${statement.name}: ${outcome}`);
          if (this.isDown || (this.flaky && random.chance(settings.failRate))) {
            say('refused');
            return answer(() => reject(down('is not there')));
          }
          let result: ReturnType<typeof transaction>;
          try {
            result = transaction();
          } catch (error) {
            say('failed');
            return answer(() => reject(error));
          }
          if (this.flaky && random.chance(settings.loseRate)) {
            say('answer lost');
            // It is found out by a reset at once, or by a timeout.
            return answer(() => reject(down('lost its connection')), random.chance(0.5) ? delay() : 1000);
          }
          say('done');
          answer(() => resolve(result));
        });
      });
  }
}
