/**
 * Loaded into a process that is measured (`node --require`): at SIGUSR2 it collects its garbage, twice, and writes what
 * is left of its memory to the file that MESH_BENCH_SETTLED names. Nothing of the program knows of it.
 */
const { renameSync, writeFileSync } = require('node:fs');
const { setFlagsFromString } = require('node:v8');
const { runInNewContext } = require('node:vm');

const file = process.env.MESH_BENCH_SETTLED;
if (file) {
  setFlagsFromString('--expose-gc');
  const collect = runInNewContext('gc');
  process.on('SIGUSR2', () => {
    collect();
    setImmediate(() => {
      collect();
      writeFileSync(`${file}.new`, JSON.stringify(process.memoryUsage()));
      renameSync(`${file}.new`, file);
    });
  });
}
