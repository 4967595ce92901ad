-- What people did by hand, for whoever asks later. Rows are added and never changed.
CREATE TABLE poller.operator_action (
    id      bigserial PRIMARY KEY,
    at      timestamptz NOT NULL DEFAULT clock_timestamp(),
    who     text NOT NULL,
    action  text NOT NULL,
    task_pk bigint,
    detail  text NOT NULL DEFAULT ''
);
CREATE INDEX operator_action_task ON poller.operator_action (task_pk) WHERE task_pk IS NOT NULL;
