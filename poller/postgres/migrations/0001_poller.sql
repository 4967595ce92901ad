-- The daemon's own tables, in a schema of their own. Nothing of the gateway is touched here.

CREATE SCHEMA IF NOT EXISTS poller;

CREATE TABLE IF NOT EXISTS poller.migration (
    version    integer PRIMARY KEY,
    name       text NOT NULL,
    sha256     text NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT now()
);

-- What concerns all lanes; one row.
CREATE TABLE poller.control (
    id           boolean PRIMARY KEY DEFAULT true CHECK (id),
    is_paused    boolean NOT NULL DEFAULT false,
    triggered_at timestamptz
);
INSERT INTO poller.control DEFAULT VALUES;

CREATE TABLE poller.replica (
    id         text PRIMARY KEY,
    version    text NOT NULL DEFAULT '',
    started_at timestamptz NOT NULL DEFAULT now(),
    seen_until timestamptz NOT NULL
);

-- One row a channel that has or had active tasks. Leases are for efficiency only: correctness is the ledger's.
-- No index beside the key and room in the page, so that the frequent updates stay HOT.
CREATE TABLE poller.lane (
    channel_id      bigint PRIMARY KEY,
    has_work        boolean NOT NULL DEFAULT true,
    holder          text,
    lease_until     timestamptz,
    is_paused       boolean NOT NULL DEFAULT false,
    pause_reason    text NOT NULL DEFAULT '',
    triggered_at    timestamptz,
    breaker         text NOT NULL DEFAULT 'closed' CHECK (breaker IN ('closed', 'open', 'half_open')),
    breaker_until   timestamptz,
    breaker_failures integer NOT NULL DEFAULT 0,
    concurrency     integer NOT NULL DEFAULT 0,
    pass_started_at timestamptz,
    pass_ended_at   timestamptz,
    pass_counts     jsonb NOT NULL DEFAULT '{}'
) WITH (fillfactor = 50);

-- One row a settled task, written in the transaction that settles it. The key is what makes a settlement happen once.
CREATE TABLE poller.ledger (
    task_pk           bigint PRIMARY KEY,
    task_id           text NOT NULL,
    user_id           bigint NOT NULL,
    channel_id        bigint NOT NULL,
    token_id          bigint,
    subscription_id   bigint,
    purse             text NOT NULL DEFAULT 'wallet' CHECK (purse IN ('wallet', 'subscription')),
    model             text NOT NULL DEFAULT '',
    outcome           text NOT NULL CHECK (outcome IN ('SUCCESS', 'FAILURE')),
    rule              text NOT NULL,
    reserved          bigint NOT NULL CHECK (reserved >= 0),
    charged           bigint NOT NULL CHECK (charged >= 0),
    refunded          bigint NOT NULL,
    price_source      text NOT NULL DEFAULT '',
    prompt_tokens     bigint NOT NULL DEFAULT 0,
    completion_tokens bigint NOT NULL DEFAULT 0,
    fail_reason       text NOT NULL DEFAULT '',
    evidence          text NOT NULL DEFAULT '',
    attempt           uuid NOT NULL,
    replica           text NOT NULL DEFAULT '',
    settled_at        timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT nothing_invented CHECK (refunded = reserved - charged),
    CONSTRAINT failure_is_free CHECK (outcome = 'SUCCESS' OR charged = 0)
);
CREATE INDEX ledger_settled_at ON poller.ledger (settled_at);

-- Only tasks with something to remember.
CREATE TABLE poller.watch (
    task_pk        bigint PRIMARY KEY,
    channel_id     bigint NOT NULL,
    sightings      integer NOT NULL DEFAULT 0,
    sighted_at     timestamptz,
    key_digest     text NOT NULL DEFAULT '',
    quarantined_at timestamptz,
    reason         text NOT NULL DEFAULT '',
    detail         text NOT NULL DEFAULT ''
);
CREATE INDEX watch_quarantined ON poller.watch (quarantined_at) WHERE quarantined_at IS NOT NULL;

-- What must reach another system after the commit that wrote it.
CREATE TABLE poller.outbox (
    id           bigserial PRIMARY KEY,
    kind         text NOT NULL CHECK (kind IN ('log', 'user_cache', 'token_cache')),
    task_pk      bigint NOT NULL,
    payload      jsonb NOT NULL,
    created_at   timestamptz NOT NULL DEFAULT now(),
    due_at       timestamptz NOT NULL DEFAULT now(),
    tries        integer NOT NULL DEFAULT 0,
    last_error   text NOT NULL DEFAULT ''
);

-- Status words that no list knows, per channel, for the person who writes the lists.
CREATE TABLE poller.unknown_status (
    channel_id    bigint NOT NULL,
    word          text NOT NULL,
    seen_count    bigint NOT NULL DEFAULT 0,
    first_seen_at timestamptz NOT NULL DEFAULT now(),
    last_seen_at  timestamptz NOT NULL DEFAULT now(),
    example_task  text NOT NULL DEFAULT '',
    PRIMARY KEY (channel_id, word)
);
