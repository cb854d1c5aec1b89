import type { Command } from 'commander';
import { drainCommand } from '../drain-command.js';

export const build = (): Command =>
  drainCommand('drain', 'Give a node no more work. What runs there goes on; what only waits there goes elsewhere.');
