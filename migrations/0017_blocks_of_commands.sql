-- Of commands: what each task of the block ended with. Blocks of functions have none.
alter table task_block add column exit_code integer;
