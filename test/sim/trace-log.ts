import { createLogger, type Logger } from '../../common/log.js';
import type { World } from './world.js';

/** What the product logs, among the lines of the trace. */
export const traceLogger = (world: World, component: string): Logger =>
  createLogger({
    level: 'debug',
    component,
    destination: {
      write: (line: string) => {
        const { time: _time, component: who, level, ...rest } = JSON.parse(line) as Record<string, unknown>;
        world.remark(`${String(who)} ${String(level)} ${JSON.stringify(rest)}`);
      },
    },
  });
