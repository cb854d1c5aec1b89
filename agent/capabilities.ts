import { execFile } from 'node:child_process';
import { availableParallelism, totalmem } from 'node:os';
import { promisify } from 'node:util';
import type { Capabilities, Gpu } from '../proto/gen/mesh/v1/common.js';

/** A driver that hangs must not keep a machine out of the mesh. */
const GPU_QUERY_MS = 3000;

/** What this machine has and can do, for the hello. */
export async function detectCapabilities(options: {
  slots: number;
  labels: Record<string, string>;
  /** Tiers that tasks run in, the strongest first. */
  sandboxes: readonly string[];
  /** What is enforced in the strongest. */
  limits: readonly string[];
  /** Whether the files of secrets can be kept in memory here. */
  secretFiles: boolean;
}): Promise<Capabilities> {
  return {
    cpus: availableParallelism(),
    memoryBytes: totalmem(),
    gpus: await detectGpus(),
    os: process.platform,
    arch: process.arch,
    labels: options.labels,
    executors: ['process', 'function'],
    sandbox: options.sandboxes[0] ?? '',
    sandboxes: [...options.sandboxes],
    limits: [...options.limits],
    slots: options.slots,
    custom: {},
    secretFiles: options.secretFiles,
  };
}

/** NVIDIA's, as its own tool lists them; none where the tool is missing, fails or does not answer. */
async function detectGpus(): Promise<Gpu[]> {
  try {
    const { stdout } = await promisify(execFile)(
      'nvidia-smi',
      ['--query-gpu=name,memory.total', '--format=csv,noheader,nounits'],
      { timeout: GPU_QUERY_MS },
    );
    return parseGpus(stdout);
  } catch {
    return [];
  }
}

/** Lines like `NVIDIA GeForce RTX 3060, 12288`, the memory in MiB. */
export function parseGpus(text: string): Gpu[] {
  return text
    .split('\n')
    .map((line) => /^(.+),\s*(\d+)\s*$/.exec(line.trim()))
    .filter((match) => match !== null)
    .map(([, model = '', mebibytes]) => ({ model: model.trim(), memoryBytes: Number(mebibytes) * 2 ** 20 }));
}
