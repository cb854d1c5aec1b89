import { register } from 'tsx/esm/api';

register();
const { runTests } = await import('./testing/run.ts');
process.exitCode = await runTests(process.argv.slice(2), process.cwd());
