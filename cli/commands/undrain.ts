import type { Command } from 'commander';
import { drainCommand } from '../drain-command.js';

export const build = (): Command => drainCommand('undrain', 'Give a drained node work again.');
