import { BufferCollection } from '../../common/buffer-collection.js';

/** Of all output in this process, which has one heap: who makes buffers for it says so here. */
export const outputBuffers = new BufferCollection();
