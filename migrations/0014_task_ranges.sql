-- Fresh tasks that are given to one node together: until a task of such a range has a row it is ASSIGNED there, in its first
-- generation. Most get their row only by their completion, so it is written once.
create table task_range (
  job bigint not null,
  first integer not null,
  after integer not null,
  node integer not null,
  assigned_at timestamptz not null default now(),
  primary key (job, first),
  constraint task_range_bounds check (first >= 0 and after > first)
);
