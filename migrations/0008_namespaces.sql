-- Groups of submitters with quotas; null means none. A submitter that is no member of another one is in `default`.
create table namespace (
  name text primary key,
  running_max integer,
  queued_max bigint,
  cpu_millis_max bigint,
  bytes_max bigint,
  created_at timestamptz not null default now(),
  constraint namespace_name check (name ~ '^[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?$'),
  constraint namespace_ranges check (running_max >= 1 and queued_max >= 0 and cpu_millis_max >= 1 and bytes_max >= 0)
);
insert into namespace (name) values ('default');

create table namespace_member (
  submitter text primary key,
  namespace text not null references namespace (name) on delete cascade
);
create index namespace_members on namespace_member (namespace);

-- Fixed when the job is submitted. staged_bytes: of the files its tasks are given, each different one counted once.
alter table job add column namespace text not null default 'default';
alter table job add column staged_bytes bigint not null default 0;
alter table job add constraint job_staged_bytes check (staged_bytes >= 0);
-- What a namespace has stored is summed up at a submission; jobs without files need no entry.
create index job_staged on job (namespace) include (staged_bytes) where staged_bytes > 0;
