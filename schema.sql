-- Tracker's database, whole. This file is the truth: `tracker db init` applies it, applying it again changes nothing.
-- PostgreSQL 15 to 18, no extension. Every unique key contains its routing key (the column named first in each "routed by"
-- below), so that the tables can be distributed by Citus without change.
--
-- Words: README, "Words". Ids of programs, partners, links and coupons are random 30-bit numbers, never reused: they travel
-- inside click ids and tell nobody how many there are. Money is numeric, never float. Times are timestamptz.

SET client_min_messages = warning;

CREATE TABLE IF NOT EXISTS schema_version (
    version     integer PRIMARY KEY,                       -- the newest row is what this database is
    applied_at  timestamptz NOT NULL DEFAULT now()
);
INSERT INTO schema_version (version) VALUES (1) ON CONFLICT DO NOTHING;


-- ── Catalog: what the doors must know (reference tables, small, all of it in every edge's memory) ──────────────────────

CREATE TABLE IF NOT EXISTS programs (                      -- an advertiser's scheme (others: campaign, offer)
    program_id       integer PRIMARY KEY CHECK (program_id BETWEEN 1 AND 1073741823),
    slug             text NOT NULL UNIQUE CHECK (slug ~ '^[A-Za-z0-9_-]{1,64}$'),   -- what people and macros call it
    name             text NOT NULL,
    currency         text NOT NULL CHECK (currency ~ '^[A-Z]{3}$'),                 -- of amounts that name none
    auth_mode        text NOT NULL DEFAULT 'token' CHECK (auth_mode IN ('token', 'hmac', 'ip', 'open')),
    ip_allow         cidr[] NOT NULL DEFAULT '{}',         -- mode ip: who may send; empty: nobody
    several_per_key  boolean NOT NULL DEFAULT false,       -- true: one txid may hold several conversions (event ids tell them apart)
    pending_cap      integer NOT NULL DEFAULT 1000,        -- mode open: at most this many pending conversions a day
    created_at       timestamptz NOT NULL DEFAULT now(),
    xid              xid8 NOT NULL DEFAULT pg_current_xact_id()   -- last writer, for the catalog's resync
);

CREATE TABLE IF NOT EXISTS program_terms (                 -- what a program grants, by date; the newest at a click's time applies
    program_id      integer NOT NULL REFERENCES programs,
    valid_from      timestamptz NOT NULL,
    window_days     integer NOT NULL DEFAULT 30 CHECK (window_days BETWEEN 1 AND 400),   -- attribution window
    default_status  text NOT NULL DEFAULT 'approved' CHECK (default_status IN ('pending', 'approved')),  -- when no message names one
    PRIMARY KEY (program_id, valid_from)
);

CREATE TABLE IF NOT EXISTS partners (                      -- who sends visitors (others: affiliate, publisher)
    partner_id  integer PRIMARY KEY CHECK (partner_id BETWEEN 1 AND 1073741823),
    slug        text NOT NULL UNIQUE CHECK (slug ~ '^[A-Za-z0-9_-]{1,64}$'),
    name        text NOT NULL,
    created_at  timestamptz NOT NULL DEFAULT now(),
    xid         xid8 NOT NULL DEFAULT pg_current_xact_id()
);

CREATE TABLE IF NOT EXISTS partner_statuses (              -- dated: a blocked partner earns nothing from then on, keeps what was earned
    partner_id  integer NOT NULL REFERENCES partners,
    valid_from  timestamptz NOT NULL,
    status      text NOT NULL CHECK (status IN ('active', 'blocked')),
    PRIMARY KEY (partner_id, valid_from)
);

CREATE TABLE IF NOT EXISTS enrolments (                    -- a partner in a program, dated; the newest at a click's time applies
    program_id  integer NOT NULL REFERENCES programs,
    partner_id  integer NOT NULL REFERENCES partners,
    valid_from  timestamptz NOT NULL,
    status      text NOT NULL CHECK (status IN ('active', 'ended')),
    PRIMARY KEY (program_id, partner_id, valid_from)
);

CREATE TABLE IF NOT EXISTS commission_terms (              -- what a conversion pays, dated; looked up most special first:
    program_id  integer NOT NULL REFERENCES programs,      -- (partner, event), (partner, any), (all, event), (all, any)
    partner_id  integer NOT NULL DEFAULT 0,                -- 0: every partner of the program
    event       text NOT NULL DEFAULT '',                  -- '': every event
    valid_from  timestamptz NOT NULL,
    kind        text NOT NULL CHECK (kind IN ('percent', 'fixed', 'none')),    -- none: these terms ended
    rate        numeric(9, 6) CHECK (rate BETWEEN 0 AND 100),                  -- percent of the amount
    amount      numeric(18, 6) CHECK (amount >= 0),                            -- fixed: this much a conversion
    currency    text CHECK (currency ~ '^[A-Z]{3}$'),                          -- of the fixed amount
    PRIMARY KEY (program_id, partner_id, event, valid_from),
    CHECK ((kind = 'percent') = (rate IS NOT NULL)),
    CHECK ((kind = 'fixed') = (amount IS NOT NULL AND currency IS NOT NULL))
);

CREATE TABLE IF NOT EXISTS links (                         -- slug + destination, of one program and one partner, for ever
    link_id          integer PRIMARY KEY CHECK (link_id BETWEEN 1 AND 1073741823),
    slug             text NOT NULL UNIQUE CHECK (slug ~ '^[A-Za-z0-9_-]{1,64}$'),
    program_id       integer NOT NULL REFERENCES programs,
    partner_id       integer NOT NULL REFERENCES partners,
    version          integer NOT NULL DEFAULT 1,           -- raised by every change, kept with each click
    destination      text NOT NULL,                        -- template, see tracker/domain/link.py
    fallback         text,                                 -- where a paused or expired link sends visitors; null: 410
    channel          text,                                 -- where it is shared (facebook, newsletter); null: told by the visit
    pass_query       boolean NOT NULL DEFAULT false,       -- hand the visitor's query on to the destination
    referrer_policy  text NOT NULL DEFAULT 'origin' CHECK (referrer_policy IN ('none', 'origin', 'full')),
    allow_test       boolean NOT NULL DEFAULT false,       -- ?test=1 makes a test click
    status           text NOT NULL DEFAULT 'active' CHECK (status IN ('active', 'paused', 'archived')),
    expires_at       timestamptz,
    created_at       timestamptz NOT NULL DEFAULT now(),
    xid              xid8 NOT NULL DEFAULT pg_current_xact_id()
);

CREATE TABLE IF NOT EXISTS link_versions (                 -- what a link was, by version: explains old clicks; append-only
    link_id          integer NOT NULL REFERENCES links,
    version          integer NOT NULL,
    valid_from       timestamptz NOT NULL DEFAULT now(),
    destination      text NOT NULL,
    fallback         text,
    channel          text,
    pass_query       boolean NOT NULL,
    referrer_policy  text NOT NULL,
    allow_test       boolean NOT NULL,
    status           text NOT NULL,
    expires_at       timestamptz,
    PRIMARY KEY (link_id, version)
);

CREATE TABLE IF NOT EXISTS coupons (                       -- credits a partner without a click
    coupon_id   integer PRIMARY KEY CHECK (coupon_id BETWEEN 1 AND 1073741823),
    program_id  integer NOT NULL REFERENCES programs,
    partner_id  integer NOT NULL REFERENCES partners,
    code        text NOT NULL CHECK (code = btrim(code) AND length(code) BETWEEN 1 AND 64),
    valid_from  timestamptz NOT NULL DEFAULT now(),
    valid_to    timestamptz,                               -- null: until ended
    created_at  timestamptz NOT NULL DEFAULT now(),
    xid         xid8 NOT NULL DEFAULT pg_current_xact_id()
);
CREATE UNIQUE INDEX IF NOT EXISTS coupons_code ON coupons (program_id, lower(code));   -- vanity codes: case does not tell apart

CREATE TABLE IF NOT EXISTS credentials (                   -- what authenticates postbacks; two or more may be valid at once
    credential_id  integer PRIMARY KEY CHECK (credential_id BETWEEN 1 AND 1073741823),
    kind           text NOT NULL CHECK (kind IN ('token', 'hmac')),
    label          text NOT NULL DEFAULT '',
    token_hash     bytea CHECK (length(token_hash) = 32),  -- token: SHA-256 of it; the token itself is shown once, never kept
    hmac_secret    bytea CHECK (length(hmac_secret) >= 16),-- hmac: needed in clear to check a signature; column grant, 0600 snapshot
    created_at     timestamptz NOT NULL DEFAULT now(),
    revoked_at     timestamptz,
    xid            xid8 NOT NULL DEFAULT pg_current_xact_id(),
    CHECK ((kind = 'token') = (token_hash IS NOT NULL)),
    CHECK ((kind = 'hmac') = (hmac_secret IS NOT NULL))
);

CREATE TABLE IF NOT EXISTS credential_programs (           -- a token covers one or more programs, the click decides which
    credential_id  integer NOT NULL REFERENCES credentials,
    program_id     integer NOT NULL REFERENCES programs,
    PRIMARY KEY (credential_id, program_id)
);

CREATE TABLE IF NOT EXISTS outbox_endpoints (              -- where a partner hears of his conversions; not in edges' memory
    endpoint_id    integer PRIMARY KEY CHECK (endpoint_id BETWEEN 1 AND 1073741823),
    partner_id     integer NOT NULL REFERENCES partners,
    program_id     integer REFERENCES programs,            -- null: conversions of every program
    url            text NOT NULL,                          -- template, see tracker/domain/endpoint.py
    host           text NOT NULL,                          -- of the URL, lower case: hosts take turns
    method         text NOT NULL CHECK (method IN ('GET', 'POST')),
    statuses       text[] NOT NULL CHECK (statuses <@ ARRAY['pending', 'approved', 'rejected', 'reversed']),   -- of which it hears
    events         text[] NOT NULL DEFAULT '{}',           -- of which it hears; empty: of all
    secret         bytea NOT NULL CHECK (length(secret) >= 24),   -- signs; shown once. Column grant: edges never read it
    status         text NOT NULL DEFAULT 'active' CHECK (status IN ('active', 'paused', 'off')),   -- off: failed for too long
    failures       integer NOT NULL DEFAULT 0,             -- in a row
    failing_since  timestamptz,                            -- the first of them; null: the last attempt was answered
    retry_at       timestamptz,                            -- after some failures: not tried before, and then once
    created_at     timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX IF NOT EXISTS outbox_endpoints_partner ON outbox_endpoints (partner_id);

-- Every change stamps its row with the writing transaction and tells the edges: ids for small changes, one "resync" for bulk.
CREATE OR REPLACE FUNCTION catalog_stamp() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.xid := pg_current_xact_id();
    RETURN NEW;
END $$;

CREATE OR REPLACE FUNCTION catalog_notify() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    ids text;
BEGIN
    EXECUTE format('SELECT CASE WHEN count(*) <= 50 THEN string_agg(%I::text, '','') END FROM changed', TG_ARGV[0]) INTO ids;
    PERFORM pg_notify('tracker_catalog', coalesce(TG_TABLE_NAME || ':' || ids, 'resync'));
    RETURN NULL;
END $$;

DO $$
DECLARE
    t record;
BEGIN
    FOR t IN SELECT * FROM (VALUES ('programs', 'program_id'), ('partners', 'partner_id'), ('links', 'link_id'),
                                   ('coupons', 'coupon_id'), ('credentials', 'credential_id')) AS v (tab, key)
    LOOP
        EXECUTE format('CREATE OR REPLACE TRIGGER catalog_stamp BEFORE INSERT OR UPDATE ON %I '
                       'FOR EACH ROW EXECUTE FUNCTION catalog_stamp()', t.tab);
        EXECUTE format('CREATE OR REPLACE TRIGGER catalog_insert AFTER INSERT ON %I REFERENCING NEW TABLE AS changed '
                       'FOR EACH STATEMENT EXECUTE FUNCTION catalog_notify(%L)', t.tab, t.key);
        EXECUTE format('CREATE OR REPLACE TRIGGER catalog_update AFTER UPDATE ON %I REFERENCING NEW TABLE AS changed '
                       'FOR EACH STATEMENT EXECUTE FUNCTION catalog_notify(%L)', t.tab, t.key);
    END LOOP;
END $$;


-- ── Clicks (routed by click_id) ────────────────────────────────────────────────────────────────────────────────────────
-- Column order is the spool's record order (tracker/storage/clicks/rows.py): fixed width first; program to device, side by side, is what the statistics count.
-- The time is inside the id: no time column that could disagree. click_time(click_id) reads it.
-- User agents and referrers are few and long, so a row has the key of each, and the text itself only in the first row of each
-- UTC day and worker: no partition needs another. report_clicks shows how to read them.

CREATE OR REPLACE FUNCTION click_time(id uuid) RETURNS timestamptz LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE AS
$$ SELECT to_timestamp((('x' || left(replace(id::text, '-', ''), 12))::bit(48)::bigint >> 3) / 1000.0) $$;

CREATE OR REPLACE FUNCTION click_id_floor(t timestamptz) RETURNS uuid LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE AS
$$ SELECT (lpad(to_hex((extract(epoch FROM t) * 1000)::bigint << 3), 12, '0') || repeat('0', 20))::uuid $$;   -- the least id of that moment

CREATE OR REPLACE FUNCTION click_id_of_day(id uuid, days integer) RETURNS uuid LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE AS
$$ SELECT click_id_floor((date_trunc('day', click_time(id) AT TIME ZONE 'UTC') + days * interval '1 day') AT TIME ZONE 'UTC') $$;

CREATE TABLE IF NOT EXISTS clicks (
    click_id      uuid NOT NULL PRIMARY KEY,               -- first 128 bits of the click id; begins with the time in ms
    visitor       bigint NOT NULL,                         -- keyed hash of address and user agent; the key changes daily
    link_id       integer NOT NULL,
    link_version  integer NOT NULL,                        -- link_versions says what that was
    program_id    integer NOT NULL,
    partner_id    integer NOT NULL,
    flags         integer NOT NULL,                        -- 1 bot · 2 prefetch · 4 HEAD · 8 test · 16 cleaned or cut · 32 sent to the fallback · 64 beacon (POST) · 128 one of a flood
    channel       text,                                    -- link's, else utm_source, else the referrer's social network
    country       text,                                    -- ISO 3166 alpha-2, when a GeoIP file is given
    device        text,                                    -- desktop, mobile, tablet, bot, other
    ip            inet,                                    -- truncated to /24 or /48 unless TRACKER_IP_MODE says otherwise
    os            text,
    browser       text,
    agent_key     bytea,                                   -- first 6 bytes of BLAKE2b of the user agent; null: none
    user_agent    text,                                    -- null also in rows after the first
    referrer_key  bytea,                                   -- both as of the user agent
    referrer      text,
    sub1 text, sub2 text, sub3 text, sub4 text, sub5 text, -- the partner's labels
    sub6 text, sub7 text, sub8 text, sub9 text, sub10 text,
    ext           text,                                    -- the partner's own click id: stored, never aggregated
    query         jsonb                                    -- every other query parameter; repeated names: a list
) PARTITION BY RANGE (click_id);
CREATE INDEX IF NOT EXISTS clicks_user_agents ON clicks (agent_key) WHERE user_agent IS NOT NULL;   -- small: the rows that say them
CREATE INDEX IF NOT EXISTS clicks_referrers ON clicks (referrer_key) WHERE referrer IS NOT NULL;

CREATE TABLE IF NOT EXISTS clicks_stray (                  -- clicks whose day has no partition: alerted, moved in by the job
    LIKE clicks INCLUDING INDEXES
);

-- One partition a UTC day. There is no DEFAULT partition: a row in it would block creating its day. Made beside the table and
-- attached, which waits for no reader: CREATE … PARTITION OF would, behind a dump of hours, and every click behind it.
CREATE OR REPLACE FUNCTION ensure_click_partitions(first_day date, days integer) RETURNS integer LANGUAGE plpgsql AS $$
DECLARE
    made integer := 0;
    part text;
    lower_bound timestamptz;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtext('ensure_click_partitions'));
    FOR i IN 0 .. days - 1 LOOP
        part := 'clicks_' || to_char(first_day + i, 'YYYYMMDD');
        lower_bound := (first_day + i)::timestamp AT TIME ZONE 'UTC';
        IF to_regclass(part) IS NULL THEN
            EXECUTE format('CREATE TABLE %I (LIKE clicks INCLUDING ALL)', part);
            EXECUTE format('ALTER TABLE clicks ATTACH PARTITION %I FOR VALUES FROM (%L) TO (%L)', part,
                           click_id_floor(lower_bound), click_id_floor(lower_bound + interval '1 day'));
            made := made + 1;
        END IF;
    END LOOP;
    RETURN made;
END $$;
-- The other end, for retention: drops whole days before `before`; how many. Their statistics and their money stay.
CREATE OR REPLACE FUNCTION drop_click_partitions(before date) RETURNS integer LANGUAGE plpgsql AS $$
DECLARE
    dropped integer := 0;
    part regclass;
BEGIN
    IF before > (now() AT TIME ZONE 'UTC')::date - 7 THEN       -- as long as journals are kept: these days may yet be refilled
        RAISE EXCEPTION 'the last 7 days of clicks are kept' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    FOR part IN
        SELECT c.oid FROM pg_inherits AS i JOIN pg_class AS c ON c.oid = i.inhrelid
         WHERE i.inhparent = 'clicks'::regclass
           AND substring(pg_get_expr(c.relpartbound, c.oid) FROM 'TO \(''([0-9a-f-]{36})''\)')::uuid
               <= click_id_floor(before::timestamp AT TIME ZONE 'UTC')
    LOOP
        EXECUTE format('DROP TABLE %s', part);
        dropped := dropped + 1;
    END LOOP;
    RETURN dropped;
END $$;

-- Making and dropping days is the owner's right; control and retention have it through these two and no further
-- (`tracker db roles`). A search path of their own, so that no caller's temporary table stands in for ours.
DO $$
DECLARE
    name text;
BEGIN
    FOREACH name IN ARRAY ARRAY['ensure_click_partitions(date, integer)', 'drop_click_partitions(date)'] LOOP
        EXECUTE format('ALTER FUNCTION %s SECURITY DEFINER SET search_path = %I, pg_temp', name, current_schema());
        EXECUTE format('REVOKE EXECUTE ON FUNCTION %s FROM PUBLIC', name);
    END LOOP;
END $$;
SELECT ensure_click_partitions((now() AT TIME ZONE 'UTC')::date - 1, 32);

-- 15-minute statistics. Shippers append to click_stats_new in the transaction that stores the clicks (no hot counter row);
-- a job folds it into the two tables behind it. Every row of clicks is counted once in each grain, always, so either grain's
-- sum of both tables equals the rows of clicks. Reports read the views.
--   per link (program and partner are the link's for ever): how often was this link followed? Routed by link_id.
--   per source: by which channel, from which country, with what did the visitors of a partner come to a program?
-- One grain with all columns would have about a row for each click. The names of channels are strangers' words: 100 of a
-- partner and day are counted by name (for each shipper), the others as '(other)'; clicks has them all.
CREATE TABLE IF NOT EXISTS click_stats_new (
    bucket      timestamptz NOT NULL,                      -- start of the quarter hour: every time zone's days are sums of these
    kind        text NOT NULL,                             -- click, bot, prefetch, head, test: each row of clicks is one of these
    program_id  integer,                                   -- these five: per source, else null
    partner_id  integer,
    channel     text,                                      -- '' where unknown, as country and device
    country     text,
    device      text,
    link_id     integer,                                   -- per link, else null
    clicks      bigint NOT NULL
);
CREATE TABLE IF NOT EXISTS click_stats_by_link (
    bucket      timestamptz NOT NULL,
    link_id     integer NOT NULL,
    kind        text NOT NULL,
    clicks      bigint NOT NULL,
    PRIMARY KEY (link_id, bucket, kind)
);
CREATE TABLE IF NOT EXISTS click_stats_by_source (
    bucket      timestamptz NOT NULL,
    program_id  integer NOT NULL,
    partner_id  integer NOT NULL,
    kind        text NOT NULL,
    channel     text NOT NULL,
    country     text NOT NULL,
    device      text NOT NULL,
    clicks      bigint NOT NULL,
    PRIMARY KEY (partner_id, program_id, bucket, kind, channel, country, device)
);
CREATE OR REPLACE VIEW click_statistics AS
    SELECT bucket, link_id, kind, sum(clicks)::bigint AS clicks
      FROM (SELECT bucket, link_id, kind, clicks FROM click_stats_by_link
            UNION ALL SELECT bucket, link_id, kind, clicks FROM click_stats_new WHERE link_id IS NOT NULL) AS s
     GROUP BY 1, 2, 3;
CREATE OR REPLACE VIEW click_source_statistics AS
    SELECT bucket, program_id, partner_id, kind, channel, country, device, sum(clicks)::bigint AS clicks
      FROM (SELECT * FROM click_stats_by_source
            UNION ALL SELECT bucket, program_id, partner_id, kind, channel, country, device, clicks
                        FROM click_stats_new WHERE link_id IS NULL) AS s
     GROUP BY 1, 2, 3, 4, 5, 6, 7;


-- ── Spools (routed by spool_id) ────────────────────────────────────────────────────────────────────────────────────────

CREATE TABLE IF NOT EXISTS spool_cursors (                 -- how far each spool has been shipped; moved in the rows' own transaction
    spool_id          bigint NOT NULL,
    log               text NOT NULL CHECK (log IN ('clicks', 'journal')),
    next_seq          bigint NOT NULL DEFAULT 0,           -- the first sequence number not yet here
    rows_stored       bigint NOT NULL DEFAULT 0,           -- to clicks, or journal messages applied
    rows_stray        bigint NOT NULL DEFAULT 0,           -- to clicks_stray (unchanged when strays are moved in later)
    rows_quarantined  bigint NOT NULL DEFAULT 0,           -- to quarantine, missing sequence numbers included
    writer_pid        integer,                             -- the backend that ships this spool, and when it started: a hung one
    writer_start      timestamptz,                         --   is terminated by exactly these two
    updated_at        timestamptz NOT NULL DEFAULT now(),
    closed_at         timestamptz,                         -- everything is here and the spool's directory is gone
    PRIMARY KEY (spool_id, log),
    CONSTRAINT conservation CHECK (next_seq = rows_stored + rows_stray + rows_quarantined)
);

CREATE TABLE IF NOT EXISTS quarantine (                    -- rows PostgreSQL refused, and sequence numbers lost to damage
    spool_id  bigint NOT NULL,
    log       text NOT NULL,
    seq       bigint NOT NULL,                             -- first sequence number
    count     bigint NOT NULL DEFAULT 1,                   -- more than one for a damaged range
    reason    text NOT NULL,                               -- SQLSTATE and message, or "damaged"
    record    bytea,                                       -- the record as spooled
    at        timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (spool_id, log, seq)
);

CREATE TABLE IF NOT EXISTS worker_numbers (                -- the 15-bit number in click ids; a row while it is taken
    number       integer PRIMARY KEY CHECK (number BETWEEN 0 AND 32767),
    spool_id     bigint UNIQUE,                            -- null: kept in stock on some edge's disk, not used yet
    reserved_at  timestamptz NOT NULL DEFAULT now(),
    seen_at      timestamptz NOT NULL DEFAULT now(),       -- last word from its owner
    last_id_at   timestamptz                               -- set when the spool is shipped and closed: free again 24 h later
);


-- ── Conversions and money (routed by conversion_id) ────────────────────────────────────────────────────────────────────
-- conversion_state is the only money table ever updated. conversions, conversion_history and ledger are append-only.

CREATE TABLE IF NOT EXISTS conversion_state (
    conversion_id     uuid PRIMARY KEY,                    -- derived from the parts below: the primary key is the deduplication
    program_id        integer NOT NULL,
    event             text NOT NULL,                       -- sale, lead …
    txid              text,                                -- the shop's order number; null: keyed by the click
    key_click_id      uuid,                                -- the click the key is made of, when there is no txid
    discriminator     text NOT NULL DEFAULT '',            -- tells several conversions of one key apart, where the program allows it
    version           integer NOT NULL DEFAULT 0,          -- raised by every claim
    untimed_status    text,                                -- U: highest status named by a message without ts
    timed_status      text,                                -- T: the status with the greatest (ts, rank)
    timed_at          timestamptz,
    admin_status      text,                                -- a person's decision, holds until U or T rises above what it saw:
    admin_reason      text,
    admin_saw_untimed text,
    admin_saw_timed   text,
    admin_saw_timed_at timestamptz,
    status            text CHECK (status IN ('pending', 'approved', 'rejected', 'reversed')),   -- null only inside the claiming transaction
    amount            numeric(18, 6),                      -- what the customer paid; with currency, one pair, filled once
    currency          text,
    click_id          uuid,                                -- the click named, filled once, with its link
    link_id           integer,
    coupon            text,                                -- lower case; of several the alphabetically first
    partner_id        integer,                             -- who is credited; null: nobody
    credit            text CHECK (credit IN ('click', 'id', 'coupon', 'none')),   -- id: the click's row never came
    credit_reason     text,                                -- why: in words of tracker/domain/attribution.py
    told_at           timestamptz,                         -- earliest ts of its messages
    heard_at          timestamptz,                         -- earliest received-at
    sold_at           timestamptz GENERATED ALWAYS AS (coalesce(told_at, heard_at)) STORED,   -- the window is judged by it
    commission_owed   numeric(18, 6) NOT NULL DEFAULT 0,   -- sum of this conversion's ledger
    commission_currency text,
    last_entry        integer NOT NULL DEFAULT 0,          -- last entry number in history and ledger
    test              boolean NOT NULL DEFAULT false,      -- of a test click: nothing is ever owed
    unconfirmed       boolean NOT NULL DEFAULT false,      -- only browsers or open doors spoke of it: pending, capped a day
    created_at        timestamptz NOT NULL DEFAULT now(),
    updated_at        timestamptz NOT NULL DEFAULT now()
);

CREATE INDEX IF NOT EXISTS conversion_state_created ON conversion_state (created_at, conversion_id);   -- lists
CREATE INDEX IF NOT EXISTS conversion_state_unconfirmed ON conversion_state (program_id, created_at) WHERE unconfirmed;   -- the cap
CREATE INDEX IF NOT EXISTS conversion_state_from_id ON conversion_state (created_at, conversion_id) WHERE credit = 'id';   -- rows to attach

CREATE TABLE IF NOT EXISTS conversions (                   -- the first message, as received
    conversion_id  uuid PRIMARY KEY,
    message_id     uuid NOT NULL,
    program_id     integer NOT NULL,
    event          text NOT NULL,
    txid           text,
    click_id       uuid,
    amount         numeric(18, 6),
    currency       text,
    status         text,
    customer       text,
    coupon         text,
    happened_at    timestamptz,                            -- the message's ts
    received_at    timestamptz NOT NULL,
    recorded_at    timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE IF NOT EXISTS conversion_history (            -- every change after that, and why
    conversion_id  uuid NOT NULL,
    entry          integer NOT NULL,
    message_id     uuid,                                   -- null: a person's decision or a job
    change         text NOT NULL CHECK (change IN ('recorded', 'filled', 'status', 'credit', 'decided', 'attached')),
    detail         jsonb NOT NULL,                         -- every visible field that changed, with its new value
    at             timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (conversion_id, entry)
);

CREATE TABLE IF NOT EXISTS ledger (                        -- what partners are owed is the sum; reversed by entries, never changed
    conversion_id  uuid NOT NULL,
    entry          integer NOT NULL,                       -- counted with the history's; the database refuses a double entry
    program_id     integer NOT NULL,
    partner_id     integer NOT NULL,
    amount         numeric(18, 6) NOT NULL CHECK (amount <> 0),
    currency       text NOT NULL,
    reason         text NOT NULL,                          -- the conversion's status at that entry
    at             timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (conversion_id, entry)
);

CREATE TABLE IF NOT EXISTS outbox (                        -- outgoing postbacks to partners' trackers, written with the decision
    conversion_id  uuid NOT NULL,
    entry          integer NOT NULL,                       -- of the history: the step that is told
    endpoint_id    integer NOT NULL,                       -- to whom; with the two above also the message's id
    partner_id     integer NOT NULL,
    program_id     integer NOT NULL,
    link_id        integer,                                -- of the partner's own click, as is
    click_id       uuid,                                   -- the click whose labels fill the URL; null: none of his
    awaits_click   boolean NOT NULL,                       -- its row was not here yet: sent when it is, or after 72 hours
    said           jsonb NOT NULL,                         -- event, txid, status, amount, commission … as they were decided
    state          text NOT NULL DEFAULT 'waiting' CHECK (state IN ('waiting', 'sent', 'given_up')),
    due_at         timestamptz NOT NULL DEFAULT now(),     -- next attempt; during one, when it counts as lost
    give_up_at     timestamptz,                            -- set by the first attempt
    attempts       integer NOT NULL DEFAULT 0,
    last_reason    text,                                   -- how the last one ended: a word of tracker/domain/outgoing.py
    last_status    integer,                                -- what was answered, never more of it
    tried_at       timestamptz,
    created_at     timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (conversion_id, entry, endpoint_id)
);
CREATE INDEX IF NOT EXISTS outbox_due ON outbox (endpoint_id, due_at) WHERE state = 'waiting';
CREATE INDEX IF NOT EXISTS outbox_created ON outbox (created_at, conversion_id, entry, endpoint_id);   -- lists, and their end

CREATE TABLE IF NOT EXISTS pending (                       -- postbacks whose click row has not come yet (routed by click_id)
    click_id       uuid NOT NULL,                          -- whose row is awaited; perhaps by another message of the key
    message_id     uuid NOT NULL,
    conversion_id  uuid,                                   -- null: the link is unknown here, so the program is too
    credential_id  integer,                                -- what authenticated it provisionally, then
    message        jsonb NOT NULL,
    inserted_at    timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (click_id, message_id)
);
CREATE INDEX IF NOT EXISTS pending_conversion ON pending (conversion_id);
CREATE INDEX IF NOT EXISTS pending_due ON pending (inserted_at);
CREATE INDEX IF NOT EXISTS pending_message ON pending (message_id);
CREATE INDEX IF NOT EXISTS pending_limited ON pending (((message ->> 'program_id')::int)) WHERE message ? 'limited';   -- the cap

CREATE TABLE IF NOT EXISTS postback_log (                  -- every postback and what became of it (routed by message_id)
    message_id     uuid PRIMARY KEY,                       -- spool id and journal sequence number; random for refusals
    received_at    timestamptz NOT NULL,
    outcome        text NOT NULL,                          -- recorded, updated, duplicate, conflict, pending_click, refused, quarantined
    reason         text,                                   -- why refused, what conflicts
    program_id     integer,
    conversion_id  uuid,
    click_id       uuid,
    message        jsonb NOT NULL                          -- as received, secrets removed
);
CREATE INDEX IF NOT EXISTS postback_log_received ON postback_log (received_at);
CREATE INDEX IF NOT EXISTS postback_log_conversion ON postback_log (conversion_id);

CREATE OR REPLACE FUNCTION append_only() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '% is append-only', TG_TABLE_NAME USING ERRCODE = 'insufficient_privilege';
END $$;
CREATE OR REPLACE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON conversions FOR EACH STATEMENT EXECUTE FUNCTION append_only();
CREATE OR REPLACE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON conversion_history FOR EACH STATEMENT EXECUTE FUNCTION append_only();
CREATE OR REPLACE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON ledger FOR EACH STATEMENT EXECUTE FUNCTION append_only();
CREATE OR REPLACE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON link_versions FOR EACH STATEMENT EXECUTE FUNCTION append_only();


-- ── Jobs ───────────────────────────────────────────────────────────────────────────────────────────────────────────────

CREATE TABLE IF NOT EXISTS job_leases (                    -- any number of control processes: one runs each job; a hung holder loses it
    job         text PRIMARY KEY,
    holder      text NOT NULL,
    expires_at  timestamptz NOT NULL
);


-- ── Views for reports: nothing in them says who a visitor or customer is ───────────────────────────────────────────────
-- The role `reporter` reads these and the two views of statistics; never an address, a message or a secret.

CREATE OR REPLACE VIEW report_clicks AS
    SELECT click_id, click_time(click_id) AS clicked_at, link_id, link_version, program_id, partner_id, flags, channel, country,
           device, os, browser, coalesce(referrer, (
               SELECT s.referrer FROM clicks AS s WHERE s.referrer_key = c.referrer_key AND s.referrer IS NOT NULL
                  AND s.click_id >= click_id_of_day(c.click_id, 0) AND s.click_id < click_id_of_day(c.click_id, 1) LIMIT 1
           )) AS referrer, sub1, sub2, sub3, sub4, sub5, sub6, sub7, sub8, sub9, sub10, ext
      FROM clicks AS c;
CREATE OR REPLACE VIEW report_conversions AS
    SELECT conversion_id, program_id, event, txid, status, amount, currency, click_id, link_id, coupon, partner_id, credit,
           credit_reason, sold_at, commission_owed, commission_currency, test, unconfirmed, created_at, updated_at
      FROM conversion_state;
CREATE OR REPLACE VIEW report_ledger AS
    SELECT conversion_id, entry, program_id, partner_id, amount, currency, reason, at FROM ledger;
CREATE OR REPLACE VIEW report_names AS                     -- what the numbers in the others are called
    SELECT l.link_id, l.slug AS link, l.program_id, p.slug AS program, l.partner_id, a.slug AS partner
      FROM links AS l JOIN programs AS p USING (program_id) JOIN partners AS a USING (partner_id);
