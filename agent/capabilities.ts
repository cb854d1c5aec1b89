import { availableParallelism, totalmem } from 'node:os';
import type { Capabilities } from '../proto/gen/mesh/v1/common.js';

export async function detectCapabilities(options: {
  slots: number;
  labels: Record<string, string>;
}): Promise<Capabilities> {
  return {
    cpus: availableParallelism(),
    memoryBytes: totalmem(),
    gpus: [],
    os: process.platform,
    arch: process.arch,
    labels: options.labels,
    executors: ['process', 'function'],
    sandbox: 'process',
    slots: options.slots,
    custom: {},
  };
}
