#!/usr/bin/env node
import { runProgram } from '../common/program.js';
import { makeCaProgram } from './program.js';

await runProgram(makeCaProgram(() => import('./remote.js')));
