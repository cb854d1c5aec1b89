-- Returned work is looked for job by job: what no node can take must not hide what other jobs wait for. Exceptions set the
-- one column and nothing changes the other, so the updates of the common path stay heap-only.
create index task_returned on task (job, due_at) where due_at is not null;
drop index task_due;
