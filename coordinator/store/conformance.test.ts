import { storeConforms } from '../../test/conformance/store.js';
import { originals, withStore } from '../../test/support/postgres.js';
import type { PostgresStore } from './index.js';

storeConforms({ withStore: (t) => withStore(t), originals: (store) => originals(store as PostgresStore) });
