/** The commands of `mesh-ca` about the authority's own keys: their passphrase, the root's key, intermediates. */
import { createPublicKey } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { resolve } from 'node:path';
import type { Command } from 'commander';
import { systemClock } from '../common/clock.js';
import { MeshError, systemCode } from '../common/errors.js';
import { writeFileAtomic } from '../common/files.js';
import { fieldsOf } from '../common/identity/check.js';
import { makeCsr } from '../common/identity/csr.js';
import { publicKeyDigest } from '../common/identity/keys.js';
import { addPassphraseOptions } from '../common/options.js';
import { askPassphrase, givenPassphrase, newPassphrase, type Passphrase } from '../common/passphrase.js';
import { withExamples } from '../common/program.js';
import { type CaDirectory, openDirectory } from './directory.js';
import { addDirectoryOptions, type DirectoryOptions, jsonOption, ownPassphrase } from './options.js';
import { present } from './render.js';
import { exportRootKey, importRootKey, isSealedFile, readRootFile, signRequest } from './root-key.js';
import { unlock } from './unlock.js';
import { toPem } from './x509/certificate.js';

interface FilePassphraseOptions {
  filePassphraseFile?: string;
  filePassphraseFd?: number;
}

async function openWithKeys(
  options: DirectoryOptions,
): Promise<{ ca: CaDirectory; passphrase: Passphrase | undefined }> {
  const directory = resolve(options.dir);
  const passphrase = await unlock(directory, ownPassphrase(options));
  return { ca: openDirectory(directory, systemClock, passphrase), passphrase };
}

function addPassphrase(program: Command): void {
  const group = program
    .command('passphrase')
    .description("the passphrase that the CA's keys are encrypted with on disk (scrypt, AES-256)");
  const set = addPassphraseOptions(
    addDirectoryOptions(group.command('set').description("encrypt the CA's keys, or change their passphrase")),
    '--new-passphrase',
    'the passphrase to set',
  ).action(async (options: DirectoryOptions & { newPassphraseFile?: string; newPassphraseFd?: number }) => {
    const { ca } = await openWithKeys(options);
    const source = {
      file: options.newPassphraseFile,
      descriptor: options.newPassphraseFd,
      flag: '--new-passphrase',
    };
    const files = await ca.setPassphrase(
      await newPassphrase(source, `new passphrase of the CA's keys in ${ca.directory}`),
    );
    present(options, { directory: ca.directory, encrypted: true, files }, () =>
      [
        ...files.map((file) => `encrypted ${file}\n`),
        'without the passphrase nothing can be issued: keep it elsewhere too\n',
      ].join(''),
    );
  });
  withExamples(set, [
    'mesh-ca passphrase set --dir /var/lib/mesh/ca                          # asks on the terminal',
    'mesh-ca passphrase set --dir ./ca --new-passphrase-file ./new',
    'mesh-ca passphrase set --dir ./ca --passphrase-file ./old --new-passphrase-file ./new',
  ]);
  const remove = addDirectoryOptions(group.command('remove').description('keep the keys unencrypted again')).action(
    async (options: DirectoryOptions) => {
      const { ca } = await openWithKeys(options);
      const files = await ca.setPassphrase(undefined);
      present(options, { directory: ca.directory, encrypted: false, files }, () =>
        files.map((file) => `decrypted ${file}\n`).join(''),
      );
    },
  );
  withExamples(remove, [
    'mesh-ca passphrase remove --dir ./ca',
    'mesh-ca passphrase remove --dir ./ca --passphrase-file ./old',
  ]);
}

interface ExportOptions extends DirectoryOptions, FilePassphraseOptions {
  out: string;
  keep?: boolean;
  filePassphrase: boolean;
}

/** The exported file's own passphrase, or the directory's, or a new one. */
async function exportPassphrase(options: ExportOptions, own: Passphrase | undefined): Promise<Passphrase | undefined> {
  const source = filePassphrase(options);
  const isNamed = source.file !== undefined || source.descriptor !== undefined;
  if (options.filePassphrase === false) {
    if (!isNamed) return undefined;
    throw new MeshError('USAGE', '--no-file-passphrase contradicts the passphrase that was named');
  }
  return own && !isNamed ? own : newPassphrase(source, `passphrase for ${options.out}`);
}

const filePassphrase = (options: FilePassphraseOptions) => ({
  file: options.filePassphraseFile,
  descriptor: options.filePassphraseFd,
  flag: '--file-passphrase',
});

async function openRootFile(path: string, options: FilePassphraseOptions) {
  const source = filePassphrase(options);
  const passphrase =
    givenPassphrase(source) ?? (isSealedFile(path) ? await askPassphrase(source, `passphrase of ${path}`) : undefined);
  return readRootFile(path, passphrase);
}

function addRoot(program: Command): void {
  const group = program.command('root').description("the root's key: take it off the machine, and bring it back");
  const out = addPassphraseOptions(
    addDirectoryOptions(group.command('export').description("move the root's key out of the directory, into one file"))
      .requiredOption('--out <file>', 'the new file, on another disk')
      .option('--keep', 'leave the key in the directory too'),
    '--file-passphrase',
    'what to encrypt the file with; as the directory when absent',
  )
    .option('--no-file-passphrase', 'write the key unencrypted')
    .action(async (options: ExportOptions) => {
      const { ca, passphrase } = await openWithKeys(options);
      const file = resolve(options.out);
      const seal = await exportPassphrase(options, passphrase);
      await exportRootKey(ca, file, seal, { keep: options.keep === true });
      const document = { directory: ca.directory, file, encrypted: seal !== undefined, kept: options.keep === true };
      const next = options.keep
        ? 'the key is still in the directory too\n'
        : `removed ca.key: bring it back with mesh-ca root import before ${new Date(ca.issuerRenewalAtMs).toISOString()}, when the intermediate is due\n`;
      present(options, document, () => `wrote the root's key to ${file} and read it back\n${next}`);
    });
  withExamples(out, [
    'mesh-ca root export --dir /var/lib/mesh/ca --out /media/stick/root.pem',
    'mesh-ca root export --dir ./ca --out ./root.pem --file-passphrase-file ./words --keep',
  ]);
  const back = addPassphraseOptions(
    addDirectoryOptions(
      group
        .command('import')
        .description("put the root's key back, and renew the intermediate when that is due")
        .argument('<file>', 'what mesh-ca root export wrote'),
    ),
    '--file-passphrase',
    'what the file is encrypted with',
  ).action(async (path: string, options: DirectoryOptions & FilePassphraseOptions) => {
    const { ca } = await openWithKeys(options);
    await importRootKey(ca, await openRootFile(resolve(path), options));
    const renewed = await ca.renewIssuerIfDue(systemClock.wallMs());
    present(
      options,
      { directory: ca.directory, renewed },
      () => `put the root's key back into ${ca.directory}\n${renewed ? 'renewed the intermediate\n' : ''}`,
    );
  });
  withExamples(back, ['mesh-ca root import /media/stick/root.pem --dir /var/lib/mesh/ca']);
}

function addIssuer(program: Command): void {
  const group = program
    .command('issuer')
    .description("the intermediate of a coordinator, renewed where the root's key is: request, sign, install");
  const request = addDirectoryOptions(
    group
      .command('request')
      .description('make a new issuing key, and a request for its certificate; on the coordinator')
      .requiredOption('--out <file>', 'the file to write'),
  ).action(async (options: DirectoryOptions & { out: string }) => {
    const { ca } = await openWithKeys(options);
    const key = ca.keyForNextIssuer();
    const digest = publicKeyDigest(createPublicKey(key).export({ type: 'spki', format: 'der' }));
    writeFileAtomic(resolve(options.out), toPem(makeCsr(key, 'issuer'), 'CERTIFICATE REQUEST'));
    present(
      options,
      { file: resolve(options.out), publicKeyDigest: digest },
      () => `wrote ${options.out}\npublic key ${digest}\n`,
    );
  });
  withExamples(request, ['mesh-ca issuer request --dir /var/lib/mesh/ca --out issuer.csr']);
  const sign = addPassphraseOptions(
    group
      .command('sign')
      .description("sign a request with the root's key; anywhere, best on a machine without a network")
      .argument('<request>', 'what mesh-ca issuer request wrote')
      .requiredOption('--root <file>', 'what mesh-ca root export wrote')
      .requiredOption('--out <file>', 'the certificate to write')
      .addOption(jsonOption()),
    '--file-passphrase',
    'what the root file is encrypted with',
  ).action(async (path: string, options: FilePassphraseOptions & { root: string; out: string; json?: boolean }) => {
    const root = await openRootFile(resolve(options.root), options);
    const { certificate, publicKeyDer } = signRequest(root, readText(path), systemClock.wallMs());
    const digest = publicKeyDigest(publicKeyDer);
    const notAfter = new Date(fieldsOf(certificate).notAfterMs).toISOString();
    writeFileAtomic(resolve(options.out), toPem(certificate.raw));
    present(
      options,
      { file: resolve(options.out), publicKeyDigest: digest, notAfter },
      () =>
        `wrote ${options.out}, valid until ${notAfter}\npublic key ${digest}: compare it with what the coordinator printed\n`,
    );
  });
  withExamples(sign, ['mesh-ca issuer sign issuer.csr --root /media/stick/root.pem --out issuer.crt']);
  const install = addDirectoryOptions(
    group
      .command('install')
      .description(
        'put the signed certificate and its key in place; a running coordinator finds it within an hour of being due',
      )
      .argument('<certificate>', 'what mesh-ca issuer sign wrote'),
  ).action(async (path: string, options: DirectoryOptions) => {
    const { ca } = await openWithKeys(options);
    await ca.adoptIssuer(readText(path));
    const notAfter = new Date(fieldsOf(ca.authority.issuer).notAfterMs).toISOString();
    present(options, { directory: ca.directory, notAfter }, () => `the new intermediate is valid until ${notAfter}\n`);
  });
  withExamples(install, ['mesh-ca issuer install issuer.crt --dir /var/lib/mesh/ca']);
}

function readText(path: string): string {
  try {
    return readFileSync(path, 'utf8');
  } catch (error) {
    throw new MeshError('USAGE', `cannot read ${path} (${systemCode(error)})`, { cause: error });
  }
}

export function addKeyCommands(program: Command): void {
  for (const add of [addPassphrase, addRoot, addIssuer]) add(program);
}
