import type { Store } from '../../../coordinator/ports.js';
import { storeConforms } from '../../conformance/store.js';
import { memoryStore } from './memory-store.js';
import { Tables } from './tables.js';

const opened = new WeakMap<Store, Tables>();

storeConforms({
  withStore: async () => {
    // No two statements happen at the same time.
    let nowMs = Date.now();
    const tables = new Tables({ now: () => ++nowMs });
    const store = memoryStore(tables);
    opened.set(store, tables);
    return store;
  },
  originals: async (store) => opened.get(store)?.originals.size ?? -1,
});
