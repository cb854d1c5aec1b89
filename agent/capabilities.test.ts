import { test } from 'tap';
import { detectCapabilities, parseGpus } from './capabilities.js';

test('what a node says about itself', async (t) => {
  const found = await detectCapabilities({
    ...{ slots: 3, labels: { zone: 'attic' } },
    ...{ sandboxes: ['bubblewrap', 'process'], limits: ['memory:sampled'] },
    secretFiles: true,
  });
  t.ok(found.cpus >= 1 && found.memoryBytes > 0);
  t.match(found, {
    slots: 3,
    labels: { zone: 'attic' },
    os: process.platform,
    arch: process.arch,
    sandbox: 'bubblewrap',
  });
  t.same(found.executors, ['process', 'function']);
});

test('GPUs as their tool lists them', async (t) => {
  t.same(parseGpus('NVIDIA GeForce RTX 3060, 12288\nTesla, Model T, 16\n\n'), [
    { model: 'NVIDIA GeForce RTX 3060', memoryBytes: 12288 * 2 ** 20 },
    { model: 'Tesla, Model T', memoryBytes: 16 * 2 ** 20 },
  ]);
  t.same(parseGpus('NVIDIA-SMI has failed because it could not communicate with the driver.'), []);
});
