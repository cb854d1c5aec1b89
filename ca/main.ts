#!/usr/bin/env node
import { runToExit } from '../common/program.js';
import { makeCaProgram } from './program.js';

await runToExit(makeCaProgram(() => import('./remote.js')));
