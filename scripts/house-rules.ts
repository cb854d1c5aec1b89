import { packageRoot } from '../common/package.js';
import { checkHouse } from './house/house.js';
import { formatViolation } from './house/violation.js';

const violations = checkHouse(packageRoot);
for (const violation of violations) process.stdout.write(`${formatViolation(violation)}\n`);
if (violations.length > 0) {
  process.stderr.write(`house rules: ${violations.length} broken; what they are for: CONTRIBUTING.md\n`);
  process.exitCode = 1;
}
