/** The limits a coordinator has when nobody sets any, as its parts take them. */
import type { DoorLimits } from '../../coordinator/door/limits.js';
import { doorLimits, type Limits, limitSettings } from '../../coordinator/services/limits.js';
import { Throttle } from '../../coordinator/services/throttle.js';
import { systemClock } from '../../common/clock.js';

export const testLimits = (over: Partial<Limits> = {}): Limits => {
  const defaults = Object.entries(limitSettings).map(([key, { fallback }]) => [key, fallback]);
  return { ...(Object.fromEntries(defaults) as Limits), ...over };
};

export const testDoorLimits = (over: Partial<DoorLimits> = {}): DoorLimits => ({
  ...doorLimits(testLimits()),
  ...over,
});

export const testThrottle = (over: Partial<Limits> = {}, clock = systemClock): Throttle =>
  new Throttle(testLimits(over), clock, () => undefined);
