#!/usr/bin/env node
import { runProgram } from '../common/program.js';
import { buildProgram } from './program.js';

await runProgram(buildProgram());
