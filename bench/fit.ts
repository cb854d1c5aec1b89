/**
 * How a cost grows: the exponents e of  cost ≈ c · x1^e1 · x2^e2 · …  by least squares of log cost on the logs of what it may
 * depend on (the normal equations, solved by elimination). An exponent of 0 says that it does not depend on it, 1 that it
 * grows in proportion; R² is the share of the variance of log cost that the fit explains.
 */
export interface Fit {
  /** By name of what it may depend on. */
  exponents: Record<string, number>;
  /** From 0 to 1. */
  rSquared: number;
}

/** @param points what the cost may depend on, by name, all above 0, and the cost */
export function fitPowers(points: readonly { of: Record<string, number>; cost: number }[]): Fit {
  const names = Object.keys(points[0]?.of ?? {});
  const rows = points.map(({ of }) => [1, ...names.map((name) => Math.log(of[name] as number))]);
  const costs = points.map(({ cost }) => Math.log(cost));
  const size = names.length + 1;
  const dot = (a: (row: number) => number, b: (row: number) => number) =>
    rows.reduce((sum, _, row) => sum + a(row) * b(row), 0);
  const at = (column: number) => (row: number) => rows[row]?.[column] as number;
  const matrix = Array.from({ length: size }, (_, i) => [
    ...Array.from({ length: size }, (__, j) => dot(at(i), at(j))),
    dot(at(i), (row) => costs[row] as number),
  ]);
  const solution = solve(matrix);
  const mean = costs.reduce((a, b) => a + b, 0) / costs.length;
  const guess = (row: number) => solution.reduce((sum, value, column) => sum + value * at(column)(row), 0);
  const squares = (of: (row: number) => number) => costs.reduce((sum, cost, row) => sum + (cost - of(row)) ** 2, 0);
  const rSquared = 1 - squares(guess) / squares(() => mean);
  return { exponents: Object.fromEntries(names.map((name, i) => [name, solution[i + 1] as number])), rSquared };
}

/** Gauss and Jordan, with the largest pivot first. The last column is the right-hand side. */
function solve(matrix: number[][]): number[] {
  const size = matrix.length;
  for (let column = 0; column < size; column++) {
    const order = matrix.slice(column).sort((a, b) => Math.abs(b[column] as number) - Math.abs(a[column] as number));
    matrix.splice(column, size - column, ...order);
    const pivot = matrix[column] as number[];
    for (const row of matrix) {
      if (row === pivot) continue;
      const factor = (row[column] as number) / (pivot[column] as number);
      for (let i = column; i <= size; i++) row[i] = (row[i] as number) - factor * (pivot[i] as number);
    }
  }
  return matrix.map((row, i) => (row[size] as number) / (row[i] as number));
}
