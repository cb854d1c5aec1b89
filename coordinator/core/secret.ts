/**
 * Whose secrets there are, what they may be called and what a job may ask for. A secret belongs to one person, by role and
 * name (an operator and a submitter of the same name are two people), or to everyone who may submit.
 */
import { MeshError } from '../../common/errors.js';
import type { SecretUse } from '../../proto/gen/mesh/v1/common.js';

export const EVERYONE = 'everyone';
/** Of one value. */
export const SECRET_BYTES_MAX = 64 * 1024;
/** Of all values of one job: they travel in one message, and what a task prints is searched for all of them. */
export const JOB_SECRETS_BYTES_MAX = 256 * 1024;
const USES_MAX = 32;
const NAME = /^[A-Za-z_][A-Za-z0-9_]{0,62}$/;
const OWNER = /^(?:everyone|(?:operator|submitter)\/[a-z0-9-]{1,63})$/;

const isOperator = (person: string): boolean => person.startsWith('operator/');

/** Whose secrets this person may use. @param person `role/name` */
export const mayUse = (person: string, owner: string): boolean =>
  isOperator(person) || owner === person || owner === EVERYONE;

/** Those whose secrets this person sees; undefined for all. */
export const seenBy = (person: string): string[] | undefined => (isOperator(person) ? undefined : [person, EVERYONE]);

/** @throws MeshError BAD_NAME */
export function checkSecretName(name: string): void {
  if (!NAME.test(name))
    throw new MeshError('BAD_NAME', `"${printable(name)}" cannot be the name of a secret`, {
      hint: 'use 1 to 63 letters, digits and _, no digit first: it can be a variable too',
    });
}

/**
 * Whose secret is to be changed. Only operators name others.
 * @throws MeshError DENIED, USAGE
 */
export function chosenOwner(person: string, owner: string): string {
  if (owner === '' || owner === person) return person;
  if (!isOperator(person))
    throw new MeshError('DENIED', 'only operators change secrets that are not their own', {
      hint: 'set one of your own with the same name: it comes first',
    });
  if (!OWNER.test(owner))
    throw new MeshError('USAGE', `"${printable(owner)}" owns no secrets`, {
      hint: 'write everyone, submitter/NAME or operator/NAME',
    });
  return owner;
}

/**
 * What a job may ask for.
 * @param environment the variables the job sets itself
 * @throws MeshError BAD_SPEC
 */
export function checkUses(uses: readonly SecretUse[], environment: Readonly<Record<string, string>>): void {
  if (uses.length > USES_MAX)
    refuse(`the job asks for ${uses.length} secrets, more than ${USES_MAX}`, 'put several values into one file');
  const taken = new Set(Object.keys(environment));
  for (const { name, variable, owner } of uses) {
    if (!NAME.test(name)) refuse(`"${printable(name)}" cannot be the name of a secret`, 'see: mesh secret list');
    if (!NAME.test(variable))
      refuse(`"${printable(variable)}" is no name of an environment variable`, 'write it like --secret NAME=VARIABLE');
    if (variable.startsWith('MESH_'))
      refuse(`the environment variable ${variable} is reserved`, 'names that begin with MESH_ are set by the mesh');
    if (taken.has(variable))
      refuse(`two values are given for the variable ${variable}`, 'choose another with --secret NAME=VARIABLE');
    if (owner !== '' && !OWNER.test(owner)) refuse(`"${printable(owner)}" owns no secrets`, 'leave the owner out');
    taken.add(variable);
  }
}

const refuse = (message: string, hint: string): never => {
  throw new MeshError('BAD_SPEC', message, { hint });
};

const printable = (text: string): string => text.replace(/\p{C}/gu, '?').slice(0, 80);
