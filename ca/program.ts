/** The commands of `mesh-ca`. With `--dir` they work on a CA directory, without through the coordinator. */
import { resolve } from 'node:path';
import { type Command, Option } from 'commander';
import { systemClock } from '../common/clock.js';
import { MeshError } from '../common/errors.js';
import { fieldsOf } from '../common/identity/check.js';
import { NAME_TAGS } from '../common/identity/fields.js';
import { isRole, type Role, ROLES } from '../common/identity/identity.js';
import { PROFILES } from '../common/identity/profile.js';
import { readRoots } from '../common/identity/roots.js';
import { parseSpiffeId, type SpiffeId } from '../common/identity/spiffe.js';
import { isName } from '../common/ids.js';
import { writeFileAtomic } from '../common/files.js';
import { makeProgram, withExamples } from '../common/program.js';
import { parsed } from '../common/options.js';
import { newPassphrase } from '../common/passphrase.js';
import { asInteger } from '../common/settings.js';
import { type Desk, openDesk, openFilingDesk, type Remote } from './desk.js';
import { initDirectory } from './directory.js';
import { chainProblem, inspectCertificate, inspectionText, readChainFile } from './inspect.js';
import { issueInto, pkcs12Password } from './issue.js';
import { addKeyCommands } from './key-commands.js';
import { assertKeyOf, readPrivateKeyFile } from './keys.js';
import { readRootsPem } from './next-root.js';
import { hostsFrom, hostsOfThisMachine } from './names.js';
import {
  addDirectoryOptions,
  addOwnPassphraseOptions,
  type DirectoryOptions,
  dirOption,
  jsonOption,
  ownPassphrase,
} from './options.js';
import { listText, outcomeText, present, shownCertificate } from './render.js';
import { addRotate } from './rotate.js';
import { toPem } from './x509/certificate.js';

const DAYS_MAX = 3650;

type LoadRemote = () => Promise<Remote>;

interface Common {
  json?: boolean;
  dir?: string;
  profile?: string;
  coordinator?: string;
  passphraseFile?: string;
  passphraseFd?: number;
}

interface IssueOptions extends Common {
  role: string;
  out: string;
  days?: number;
  host?: string[];
  p12?: boolean;
  p12PasswordFile?: string;
  force?: boolean;
}

interface RenewOptions extends Common {
  role?: string;
  out: string;
  days?: number;
  cert?: string;
  key?: string;
  force?: boolean;
}

function asRole(text: string): Role {
  if (isRole(text)) return text;
  throw new MeshError('USAGE', `--role: there is no role ${JSON.stringify(text)}`, {
    hint: `roles are ${ROLES.join(', ')}`,
  });
}

function asCertificateName(text: string): string {
  if (!isName(text)) throw new MeshError('BAD_NAME', `the name ${JSON.stringify(text)} is not allowed`);
  return text;
}

const daysOption = () =>
  new Option('--days <n>', "days until it expires; the role's usual time when absent").argParser(
    parsed('--days', asInteger(1, DAYS_MAX)),
  );
const forceOption = () => new Option('--force', 'replace files that exist');

function addDeskOptions(command: Command): Command {
  return command
    .addOption(dirOption())
    .option('--profile <dir>', 'without --dir: the profile to reach the coordinator with [MESH_PROFILE]')
    .addOption(
      new Option('--coordinator <host[:port]>', 'without --dir: where the coordinator is').env('MESH_COORDINATOR'),
    )
    .addOption(jsonOption());
}

const addIssuingOptions = (command: Command): Command => addOwnPassphraseOptions(addDeskOptions(command));

/** @param open how a directory is opened */
async function withDesk<T>(
  options: Common,
  remote: LoadRemote,
  open: (directory: string) => Desk | Promise<Desk>,
  work: (desk: Desk) => Promise<T>,
): Promise<T> {
  const desk =
    options.dir === undefined ? await (await remote()).openRemoteDesk(options) : await open(resolve(options.dir));
  try {
    return await work(desk);
  } finally {
    await desk.close();
  }
}

interface InitOptions extends DirectoryOptions {
  meshId?: string;
  passphrase?: boolean;
}

function addInit(program: Command): void {
  const command = addDirectoryOptions(
    program
      .command('init')
      .description('make the certificate authority of a new mesh')
      .option('--mesh-id <id>', 'the name of the mesh; one is made up when absent')
      .option('--passphrase', 'ask on the terminal for a passphrase to encrypt the keys with'),
  ).action(async (options: InitOptions) => {
    const directory = resolve(options.dir);
    const { file, descriptor } = ownPassphrase(options);
    const isSealed = options.passphrase === true || file !== undefined || descriptor !== undefined;
    const passphrase = isSealed
      ? await newPassphrase(ownPassphrase(options), "passphrase for the CA's keys")
      : undefined;
    const mesh = options.meshId === undefined ? {} : { meshId: options.meshId };
    const { authority } = await initDirectory(directory, { ...mesh, nowMs: systemClock.wallMs(), passphrase });
    const { meshId, rootFingerprint: fingerprint } = authority;
    const notAfter = new Date(fieldsOf(authority.root).notAfterMs).toISOString();
    present(options, { meshId, directory, fingerprint, notAfter, encrypted: isSealed }, () =>
      [
        `made the mesh ${meshId} in ${directory}\n`,
        `root fingerprint ${fingerprint}, valid until ${notAfter}\n`,
        isSealed
          ? 'the keys are encrypted: without the passphrase nobody can issue, you neither\n'
          : 'keep ca.key safe: whoever has it can be anybody in this mesh\n',
      ].join(''),
    );
  });
  withExamples(command, [
    'mesh-ca init --dir ./ca --mesh-id lab-7',
    'mesh-ca init --dir ./ca --passphrase-file ./words',
  ]);
}

function addIssue(program: Command, remote: LoadRemote): void {
  const command = addIssuingOptions(
    program
      .command('issue')
      .description('make a key and issue a certificate for it: NAME.crt (leaf, then intermediate), NAME.key, ca.crt')
      .argument('<name>', '1 to 63 of a-z, 0-9 and -')
      .requiredOption('--role <role>', ROLES.join(', '), asRole)
      .requiredOption('--out <dir>', 'the folder to write into')
      .addOption(daysOption())
      .option(
        '--host <name-or-address...>',
        "for a coordinator: what browsers call it; this machine's names when absent",
      )
      .option('--p12', 'also write NAME.p12, for browsers and phones')
      .option('--p12-password-file <file>', 'its password is the first line [MESH_P12_PASSWORD]; made up when absent')
      .addOption(forceOption()),
  ).action(async (name: string, options: IssueOptions) => {
    const role = asRole(options.role);
    const target = { directory: resolve(options.out), name: asCertificateName(name), p12: options.p12 === true };
    const hosts = options.host ? hostsFrom(options.host) : PROFILES[role].hosts ? hostsOfThisMachine() : hostsFrom([]);
    if (options.host && options.dir === undefined)
      throw new MeshError('USAGE', '--host needs --dir: a running coordinator decides on host names itself');
    const open = (directory: string) => openDesk(directory, ownPassphrase(options));
    const outcome = await withDesk(options, remote, open, (desk) => {
      const password = options.p12 ? pkcs12Password(options.p12PasswordFile, process.env) : undefined;
      const ask = (csr: Buffer) => desk.issue({ role, name, csr, ...hosts, days: options.days });
      return issueInto({ ...target, force: options.force === true }, password, ask, desk);
    });
    present(options, outcome, () => outcomeText('issued', outcome));
  });
  withExamples(command, [
    'mesh-ca issue render-1 --role agent --out ./render-1 --dir ./ca',
    'mesh-ca issue prometheus --role metrics --out /etc/prometheus/mesh',
    'mesh-ca issue anna --role operator --out ./anna --days 90 --p12',
  ]);
}

/** The identity in a certificate file, whose key may be shown to belong to it. */
function identityIn(certificatePath: string, keyPath: string | undefined): SpiffeId {
  const [leaf] = readChainFile(certificatePath);
  if (!leaf) throw new MeshError('BAD_CERTIFICATE', `${certificatePath} holds no certificate`);
  const uri = fieldsOf(leaf).alternativeNames.find(({ tag }) => tag === NAME_TAGS.uri);
  if (keyPath !== undefined) assertKeyOf(leaf, readPrivateKeyFile(keyPath), keyPath);
  return parseSpiffeId(uri?.bytes ?? Buffer.alloc(0));
}

async function renew(name: string | undefined, options: RenewOptions, remote: LoadRemote) {
  if ((name === undefined) === (options.cert === undefined))
    throw new MeshError('USAGE', 'renew takes a name, or --cert and --key');
  const own = options.cert === undefined ? undefined : identityIn(options.cert, options.key);
  const who = asCertificateName(own?.name ?? name ?? '');
  const role = own?.role ?? (options.role === undefined ? undefined : asRole(options.role));
  const target = { directory: resolve(options.out), name: who, p12: false, force: options.force === true };
  if (options.dir !== undefined) {
    const desk = await openDesk(resolve(options.dir), ownPassphrase(options));
    if (own && own.meshId !== desk.directory.authority.meshId)
      throw new MeshError('BAD_CERTIFICATE', `${options.cert} belongs to the mesh ${own.meshId}`, {
        hint: `the directory is that of ${desk.directory.authority.meshId}; name the right one with --dir`,
      });
    return issueInto(target, undefined, (csr) => desk.renew(who, role, csr, options.days), undefined);
  }
  const { cert: certificate, key } = options;
  if (certificate === undefined || key === undefined)
    throw new MeshError('USAGE', 'without --dir a certificate is renewed by its holder', {
      hint: 'name its files with --cert and --key, or the CA directory with --dir',
    });
  if (options.days !== undefined) throw new MeshError('USAGE', '--days needs --dir when renewing');
  const { renewOwn } = await remote();
  return issueInto(target, undefined, (csr) => renewOwn({ certificate, key }, csr, options), undefined);
}

function addRenew(program: Command, remote: LoadRemote): void {
  const command = addIssuingOptions(
    program
      .command('renew')
      .description('issue a certificate again, for the same name and a new key; the old one stays valid to its end')
      .argument('[name]', 'with --dir: whose certificate')
      .option('--cert <file>', 'the certificate to renew')
      .option('--key <file>', 'its key')
      .option('--role <role>', 'when the name stands for several roles', asRole)
      .requiredOption('--out <dir>', 'the folder to write into')
      .addOption(daysOption())
      .addOption(forceOption()),
  ).action(async (name: string | undefined, options: RenewOptions) => {
    const outcome = await renew(name, options, remote);
    present(options, outcome, () => outcomeText('renewed', outcome));
  });
  withExamples(command, [
    'mesh-ca renew prometheus --out /etc/prometheus/mesh --force --dir ./ca',
    'mesh-ca renew --cert anna/anna.crt --key anna/anna.key --out anna --force',
  ]);
}

function addRevoke(program: Command, remote: LoadRemote): void {
  const command = addDeskOptions(
    program
      .command('revoke')
      .description('revoke every certificate of a name, or the one with a serial')
      .argument('<name|serial>', 'the name, or the serial in hexadecimal'),
  ).action(async (nameOrSerial: string, options: Common) => {
    const revoked = await withDesk(options, remote, openFilingDesk, (desk) => desk.revoke(nameOrSerial));
    present(options, { revoked: revoked.map(shownCertificate) }, () =>
      revoked.length === 0 ? `${nameOrSerial} was revoked before\n` : `revoked:\n${listText(revoked)}`,
    );
  });
  withExamples(command, ['mesh-ca revoke render-1', 'mesh-ca revoke 4d5f0a… --dir ./ca']);
}

function addList(program: Command, remote: LoadRemote): void {
  const command = addDeskOptions(program.command('list').description('list the certificates that were issued')).action(
    async (options: Common) => {
      const items = await withDesk(options, remote, openFilingDesk, (desk) => desk.list());
      present(options, { items: items.map(shownCertificate), next: null }, () =>
        items.length === 0 && options.dir !== undefined
          ? 'nothing was issued with --dir; what a coordinator issued: mesh-ca list --profile DIR\n'
          : listText(items),
      );
    },
  );
  withExamples(command, ['mesh-ca list', 'mesh-ca list --dir ./ca --json']);
}

function addCrl(program: Command, remote: LoadRemote): void {
  const command = addIssuingOptions(
    program
      .command('crl')
      .description(
        'print the revocation list (X.509 CRL version 2) of what the coordinator that answers, or --dir, has issued',
      )
      .option('--out <file>', 'write it there')
      .option('--pem', 'as text; DER when absent'),
  ).action(async (options: Common & { out?: string; pem?: boolean }) => {
    const file = options.out === undefined ? undefined : resolve(options.out);
    if (!options.pem && !options.json && file === undefined && process.stdout.isTTY)
      throw new MeshError('USAGE', 'a list in DER is nothing for a terminal', { hint: 'add --pem, or --out FILE' });
    const open = (directory: string) => openDesk(directory, ownPassphrase(options));
    const der = await withDesk(options, remote, open, (desk) => desk.crl());
    const pem = toPem(der, 'X509 CRL');
    if (file !== undefined) writeFileAtomic(file, options.pem ? pem : der, 0o644);
    if (options.json) present(options, { crl: pem, file: file ?? null }, () => '');
    else if (file === undefined) process.stdout.write(options.pem ? pem : der);
  });
  withExamples(command, ['mesh-ca crl --pem', 'mesh-ca crl --dir ./ca --out /etc/ssl/mesh.crl']);
}

function addInspect(program: Command): void {
  const command = program
    .command('inspect')
    .description('show what is in a certificate file, and whether it fits the profile; exit code 1 when it does not')
    .argument('<file>', 'PEM or DER')
    .option('--ca <file>', 'also check that the chain leads to this root')
    .addOption(jsonOption())
    .action((file: string, options: { ca?: string; json?: boolean }) => {
      const nowMs = systemClock.wallMs();
      const chain = readChainFile(file);
      const items = chain.map((certificate) => inspectCertificate(certificate, nowMs));
      const roots = options.ca === undefined ? undefined : readChainFile(options.ca);
      const problem = roots ? chainProblem(chain, roots, nowMs) : null;
      const trust = roots ? { trusted: problem === null, reason: problem } : null;
      present(options, { certificates: items, chain: trust }, () => {
        const verdict = trust ? `\nchain        ${trust.trusted ? 'leads to the root' : trust.reason}\n` : '';
        return items.map(inspectionText).join('\n') + verdict;
      });
      if (problem !== null || items.some(({ fits }) => !fits)) process.exitCode = 1;
    });
  withExamples(command, ['mesh-ca inspect render-1.crt', 'mesh-ca inspect render-1.crt --ca ca.crt --json']);
}

function addExport(program: Command): void {
  const command = program
    .command('export')
    .description('print the root certificate, for browsers and other programs to trust')
    .addOption(dirOption().makeOptionMandatory())
    .addOption(jsonOption())
    .action((options: { dir: string; json?: boolean }) => {
      const directory = resolve(options.dir);
      const pem = readRootsPem(directory);
      const { meshId, certificates, digests } = readRoots(pem);
      const notAfter = new Date(Math.min(...certificates.map((root) => fieldsOf(root).notAfterMs))).toISOString();
      const document = { meshId, fingerprint: digests[0], notAfter, certificate: pem };
      present(options, document, () => pem);
    });
  withExamples(command, ['mesh-ca export --dir ./ca > mesh-root.crt']);
}

/** @param remote loads what talks to a coordinator, when a command needs it */
export function makeCaProgram(remote: LoadRemote): Command {
  const program = makeProgram('mesh-ca', 'The certificate authority of a mesh', [
    'mesh-ca init --dir ./ca',
    'mesh-ca issue render-1 --role agent --out ./render-1 --dir ./ca',
    'mesh-ca list',
  ]);
  for (const add of [addInit, addIssue, addRenew, addRevoke, addList, addCrl, addInspect, addExport, addRotate])
    add(program, remote);
  addKeyCommands(program);
  return program;
}
