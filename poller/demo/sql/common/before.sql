-- before: what the money check compares with, taken before the daemon starts.
CREATE SCHEMA demo;
CREATE TABLE demo.tasks0 AS SELECT * FROM tasks;
CREATE TABLE demo.users0 AS SELECT * FROM users;
CREATE TABLE demo.channels0 AS SELECT * FROM channels;
CREATE TABLE demo.tokens0 AS SELECT * FROM tokens;
ALTER TABLE demo.tasks0 ADD PRIMARY KEY (id);
CREATE TABLE demo.truth (
    task_pk    bigint PRIMARY KEY,
    outcome    text NOT NULL,
    prompt     bigint NOT NULL,
    completion bigint NOT NULL
);
