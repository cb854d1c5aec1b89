import { MeshError } from './errors.js';

/** Parsers of numbers as people type them. @throws MeshError USAGE that says what would be right */
export const asInteger =
  (min: number, max: number) =>
  (text: string): number => {
    const value = Number(text);
    if (!Number.isInteger(value) || text.trim() === '' || value < min || value > max)
      throw new MeshError('USAGE', `"${text}" is not a whole number from ${min} to ${max}`);
    return value;
  };
export const asNumber =
  (min: number, max: number) =>
  (text: string): number => {
    const value = Number(text);
    if (!Number.isFinite(value) || text.trim() === '' || value < min || value > max)
      throw new MeshError('USAGE', `"${text}" is not a number from ${min} to ${max}`);
    return value;
  };
