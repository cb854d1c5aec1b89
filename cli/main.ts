#!/usr/bin/env node
import { runToExit } from '../common/program.js';
import { buildProgram } from './program.js';

await runToExit(await buildProgram(process.argv.slice(2)));
