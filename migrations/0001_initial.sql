-- The state of a mesh (docs/architecture.md, "State"). Constraints repeat the invariants of coordinator/core, so that a
-- defect shows as an error and never as a wrong row.

create table setting (
  key text primary key,
  value text not null
);

-- One row. The epoch fences every write that moves a task; renewals is what standbys watch.
create table leader (
  id smallint primary key default 1,
  epoch bigint not null,
  holder text not null,
  renewals bigint not null default 0,
  constraint leader_single check (id = 1),
  constraint leader_ranges check (epoch >= 1 and renewals >= 0)
) with (fillfactor = 50);

create table node (
  seq integer generated always as identity primary key,
  id text not null,
  name text not null,
  capabilities jsonb not null,
  version text not null,
  boot_id text not null,
  reliability double precision not null default 1,
  finished bigint not null default 0,
  draining boolean not null default false,
  revoked boolean not null default false,
  certificate_serial text not null,
  certificate_fingerprint text not null,
  certificate_expires_at timestamptz not null,
  last_heartbeat_at timestamptz,
  created_at timestamptz not null default now(),
  constraint node_id_key unique (id),
  constraint node_name_key unique (name),
  constraint node_ranges check (reliability between 0 and 1 and finished >= 0)
) with (fillfactor = 70);

create table certificate (
  serial text primary key,
  role text not null,
  name text not null,
  fingerprint text not null,
  public_key_digest text not null,
  not_before timestamptz not null,
  not_after timestamptz not null,
  revoked_at timestamptz,
  token_id text,
  pem text not null,
  created_at timestamptz not null default now(),
  constraint certificate_role check (role in ('agent', 'coordinator', 'operator', 'submitter', 'viewer', 'metrics')),
  constraint certificate_validity check (not_after > not_before)
);
create index certificate_holder on certificate (role, name, not_after);
create index certificate_name on certificate (name);
create index certificate_token on certificate (token_id, public_key_digest) where token_id is not null;
create index certificate_revoked on certificate (not_after) where revoked_at is not null;

-- Only a hash of the secret is here.
create table join_token (
  id text primary key,
  secret_digest text not null,
  role text not null,
  name text,
  replace boolean not null,
  uses_left integer not null,
  expires_at timestamptz not null,
  created_by text not null,
  created_at timestamptz not null default now(),
  constraint join_token_role check (role in ('agent', 'coordinator', 'operator', 'submitter', 'viewer', 'metrics')),
  constraint join_token_uses check (uses_left >= 0)
);

create table blob (
  digest text primary key,
  size_bytes bigint not null,
  created_at timestamptz not null default now(),
  last_used_at timestamptz not null default now(),
  constraint blob_digest check (digest ~ '^[0-9a-f]{64}$'),
  constraint blob_size check (size_bytes >= 0)
);
create index blob_last_used on blob (last_used_at);

create table audit (
  seq bigint generated always as identity primary key,
  at timestamptz not null default now(),
  actor text not null,
  action text not null,
  target text not null,
  detail jsonb not null
);
create index audit_at on audit (at);

-- Counters follow the task rows in the same statement. `materialised` counts the tasks the counters know, of which
-- `skipped` never got a row, because the job was cancelled before they were made.
create table job (
  seq bigint generated always as identity primary key,
  id text not null,
  submitter text not null,
  idempotency_key text not null,
  spec_digest text not null,
  name text not null,
  type text not null,
  priority integer not null,
  on_failure text not null,
  spec jsonb not null,
  retry_of text,
  has_inputs boolean not null,
  status text not null default 'QUEUED',
  cancelling boolean not null default false,
  error text,
  total integer not null,
  materialised integer not null default 0,
  skipped integer not null default 0,
  cursor integer not null default 0,
  queued integer not null default 0,
  assigned integer not null default 0,
  running integer not null default 0,
  retrying integer not null default 0,
  completed integer not null default 0,
  failed integer not null default 0,
  cancelled integer not null default 0,
  created_at timestamptz not null default now(),
  started_at timestamptz,
  completed_at timestamptz,
  constraint job_id_key unique (id),
  constraint job_submission unique (submitter, idempotency_key),
  constraint job_type check (type in ('process', 'function')),
  constraint job_on_failure check (on_failure in ('finish', 'fail-fast', 'partial')),
  constraint job_status check (
    status in ('QUEUED', 'RUNNING', 'COMPLETED', 'FAILED', 'PARTIALLY_COMPLETED', 'CANCELLED')
  ),
  constraint job_counters check (
    materialised = queued + assigned + running + retrying + completed + failed + cancelled
  ),
  constraint job_ranges check (
    total >= 1 and materialised between 0 and total and skipped between 0 and cancelled
    and cursor between 0 and materialised and queued >= 0 and assigned >= 0 and running >= 0 and retrying >= 0
    and completed >= 0 and failed >= 0 and cancelled >= 0
  ),
  constraint job_ended check ((completed_at is not null) = (status not in ('QUEUED', 'RUNNING'))),
  constraint job_ended_complete check (completed_at is null or completed + failed + cancelled = total),
  constraint job_started check (status <> 'QUEUED' or started_at is null),
  constraint job_completed check (status <> 'COMPLETED' or completed = total),
  constraint job_partial check (
    status <> 'PARTIALLY_COMPLETED' or (on_failure = 'partial' and completed > 0 and failed > 0)
  ),
  constraint job_cancelled check (status <> 'CANCELLED' or cancelling)
) with (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_cost_delay = 0);
create index job_live on job (seq) where completed_at is null;
create index job_of_submitter on job (submitter, seq);
create index job_of_status on job (status, seq);
create index job_completed_at on job (completed_at) where completed_at is not null;

-- Per-task inputs as they were submitted; a chunk is deleted once all of it is in task rows. Named by the job's id,
-- because chunks are written before the job is.
create table job_input (
  job_id text not null,
  from_index integer not null,
  to_index integer not null,
  inputs text[] not null,
  created_at timestamptz not null default now(),
  primary key (job_id, from_index),
  constraint job_input_range check (from_index >= 0 and to_index = from_index + cardinality(inputs))
);
create index job_input_created on job_input (created_at);

-- No foreign keys: their triggers cost per row. The primary key is the only way in for every hot statement; the other
-- index holds exceptions only, so that the updates of an ordinary task stay heap-only (HOT).
-- running_at is set only when RUNNING was written; it tells a later statement which state the task came from.
create table task (
  job bigint not null,
  index integer not null,
  generation integer not null default 0,
  queued_at timestamptz not null default now(),
  failures smallint not null default 0,
  losses smallint not null default 0,
  status text not null default 'QUEUED',
  node integer,
  exit_code integer,
  due_at timestamptz,
  assigned_at timestamptz,
  running_at timestamptz,
  started_at timestamptz,
  finished_at timestamptz,
  run_us bigint,
  peak_memory_bytes bigint,
  failed_nodes integer[],
  input text,
  last_error text,
  result_json text,
  output bytea,
  primary key (job, index),
  constraint task_ranges check (index >= 0 and generation >= 0 and failures >= 0 and losses >= 0),
  constraint task_state check (
    case status
      when 'QUEUED' then finished_at is null and (due_at is not null or generation = 0)
      when 'ASSIGNED' then
        finished_at is null and due_at is null and running_at is null and assigned_at is not null and node is not null
      when 'RUNNING' then
        finished_at is null and due_at is null and running_at is not null and started_at is not null
        and node is not null
      when 'RETRYING' then finished_at is null and due_at is not null and node is not null
      when 'COMPLETED' then finished_at is not null and due_at is null and node is not null
      when 'FAILED' then finished_at is not null and due_at is null and failures + losses > 0
      when 'CANCELLED' then finished_at is not null and due_at is null
      else false
    end
  )
) with (
  fillfactor = 70,
  autovacuum_vacuum_scale_factor = 0.1,
  autovacuum_vacuum_insert_scale_factor = 0.2,
  autovacuum_analyze_scale_factor = 0.1,
  autovacuum_vacuum_cost_delay = 0
);
create index task_due on task (due_at) where due_at is not null;

-- Every attempt that ended in anything but success.
create table task_attempt (
  job bigint not null,
  index integer not null,
  generation integer not null,
  attempt integer not null,
  node integer not null,
  outcome text not null,
  error text,
  exit_code integer,
  signal text,
  started_at timestamptz,
  finished_at timestamptz not null,
  output bytea,
  primary key (job, index, generation, attempt),
  constraint task_attempt_ranges check (index >= 0 and generation >= 1 and attempt >= 1),
  constraint task_attempt_outcome check (
    outcome in ('failed', 'timed-out', 'cancelled', 'shutdown', 'node-fault', 'node-lost', 'retracted')
  )
);

-- What a job's status is, given its counters. A job ends when nothing of it is live or still to be made; `error` is set
-- only by fail-fast, which cancels the rest but ends as FAILED.
create function job_outcome(
  started boolean, live integer, missing integer, cancelling boolean, error text, on_failure text,
  completed integer, failed integer
) returns text language sql immutable parallel safe as $$
  select case
    when live > 0 or missing > 0 then case when started then 'RUNNING' else 'QUEUED' end
    when cancelling then case when error is null then 'CANCELLED' else 'FAILED' end
    when failed = 0 then 'COMPLETED'
    when on_failure = 'partial' and completed > 0 then 'PARTIALLY_COMPLETED'
    else 'FAILED'
  end
$$;

-- Records a certificate, unless an unrevoked, unexpired one of the same role and name belongs to another key. In
-- PL/pgSQL because the check must see what was committed while it waited for the lock: each statement of a volatile
-- function takes a fresh snapshot, a single SQL statement does not.
create function record_certificate(given certificate, same_holder boolean, at timestamptz)
returns boolean language plpgsql volatile as $$
begin
  perform pg_advisory_xact_lock(hashtextextended('certificate/' || given.role || '/' || given.name, 0));
  if given.revoked_at is null and not same_holder and exists (
    select from certificate c
    where c.role = given.role and c.name = given.name and c.not_after > at and c.revoked_at is null
      and c.public_key_digest <> given.public_key_digest
  ) then
    return false;
  end if;
  insert into certificate
    (serial, role, name, fingerprint, public_key_digest, not_before, not_after, revoked_at, token_id, pem)
  values
    (given.serial, given.role, given.name, given.fingerprint, given.public_key_digest, given.not_before,
     given.not_after, given.revoked_at, given.token_id, given.pem)
  on conflict (serial) do nothing;
  return true;
end
$$;
