import type { Test } from 'tap';
import type { Store } from '../../coordinator/ports.js';

/** One implementation of the Store port. */
export interface Subject {
  /** An empty store, gone when the test ends. */
  withStore: (test: Test) => Promise<Store>;
  /** How many originals of copied tasks it keeps, valid or not: what has ended should leave none. */
  originals: (store: Store) => Promise<number>;
}
