/**
 * What the product asks the operating system in passing, answered the same for everybody: the load of the CPUs and the
 * free memory go into heartbeats, and the real ones would make every run another. Import this before anything else.
 */
import { syncBuiltinESMExports } from 'node:module';
import os from 'node:os';

os.freemem = () => 2 ** 33;
os.cpus = () => [];
syncBuiltinESMExports();
