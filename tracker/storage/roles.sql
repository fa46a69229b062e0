-- Tracker's database roles, each with what it needs and no more. For psql, after `tracker db init`, and again after each
-- update; applied again it changes nothing:
--
--     tracker db roles | psql --set ON_ERROR_STOP=1 postgresql://admin@db/tracker
--
-- as a superuser, or as the database's owner with CREATEROLE. Then give each its password: \password tracker_edge
--
--   tracker_migrator   owns the tables: `tracker db init`, `tracker db check`
--   tracker_edge       `tracker edge`: adds clicks and conversions, reads the catalog
--   tracker_control    `tracker control`, `tracker serve` and the commands: what edge may, the catalog, the jobs
--   tracker_reporter   reads the views for reports, never an address
--   tracker_retention  drops days of clicks, nothing else
--
-- Nobody may change or delete conversions, their history or the ledger; the owner's own attempts are stopped by a trigger.

BEGIN;
SET LOCAL client_min_messages = warning;
SET LOCAL lock_timeout = '5s';        -- of this script: on a busy database it fails, and can be run again
SET LOCAL search_path = public;

-- Connections: a worker of an edge holds 4 as a rule and 12 at most (what dead spools left, unknown links, refusals); control
-- 8 for the API and 6 for its jobs. With these, max_connections = 100 feeds 4 workers at their worst, 12 as a rule, and two
-- control processes; a deploy has old and new at once. `tracker serve` is both under one name: 14 and 12 a worker for
-- tracker_control. Have you more, raise them and max_connections: the numbers are yours to change, here.
-- Sessions of the service bring a statement timeout of their own; these bind whoever else has the password.
DO $$
DECLARE
    wanted record;
BEGIN
    FOR wanted IN SELECT * FROM (VALUES
        ('tracker_migrator', 3, '0', '5s'),        -- an index takes as long as it takes, waiting for a lock stops everybody
        ('tracker_edge', 50, '30s', '5s'),
        ('tracker_control', 30, '30s', '5s'),
        ('tracker_reporter', 5, '60s', '5s'),
        ('tracker_retention', 2, '60s', '1s')      -- a dropped day locks `clicks` for a moment; it must not queue for it
    ) AS w (name, connections, statement_timeout, lock_timeout)
    LOOP
        IF NOT EXISTS (SELECT 1 FROM pg_roles WHERE rolname = wanted.name) THEN
            EXECUTE format('CREATE ROLE %I LOGIN', wanted.name);
        END IF;
        EXECUTE format('ALTER ROLE %I CONNECTION LIMIT %s', wanted.name, wanted.connections);
        EXECUTE format('ALTER ROLE %I SET statement_timeout = %L', wanted.name, wanted.statement_timeout);
        EXECUTE format('ALTER ROLE %I SET lock_timeout = %L', wanted.name, wanted.lock_timeout);
        EXECUTE format('ALTER ROLE %I SET idle_in_transaction_session_timeout = %L', wanted.name, '30s');
        EXECUTE format('GRANT CONNECT ON DATABASE %I TO %I', current_database(), wanted.name);
        EXECUTE format('GRANT USAGE ON SCHEMA public TO %I', wanted.name);
    END LOOP;
    IF NOT (SELECT rolsuper FROM pg_roles WHERE rolname = current_user) THEN
        EXECUTE format('GRANT tracker_migrator TO %I', current_user);          -- or it could not hand its tables over
    END IF;
    EXECUTE format('GRANT CREATE ON DATABASE %I TO tracker_migrator', current_database());     -- `db check` makes a scratch schema
    EXECUTE format('GRANT TEMPORARY ON DATABASE %I TO tracker_edge', current_database());      -- rows that may be there already
END $$;
ALTER ROLE tracker_reporter SET default_transaction_read_only = on;

REVOKE CREATE ON SCHEMA public FROM PUBLIC;
GRANT CREATE ON SCHEMA public TO tracker_migrator;

-- The owner. What is its already is not touched: ALTER TABLE would wait for everybody.
DO $$
DECLARE
    thing text;
BEGIN
    FOR thing IN
        SELECT format('TABLE %s', c.oid::regclass) FROM pg_class AS c
         WHERE c.relnamespace = 'public'::regnamespace AND c.relowner <> 'tracker_migrator'::regrole
           AND (c.oid IN (SELECT inhrelid FROM pg_inherits WHERE inhparent = 'clicks'::regclass) OR c.relname IN (
                'schema_version', 'programs', 'program_terms', 'partners', 'partner_statuses', 'enrolments', 'commission_terms',
                'links', 'link_versions', 'coupons', 'credentials', 'credential_programs', 'outbox_endpoints', 'clicks', 'clicks_stray',
                'click_stats_new', 'click_stats_by_link', 'click_stats_by_source', 'click_statistics', 'click_source_statistics',
                'spool_cursors', 'quarantine', 'worker_numbers', 'conversion_state', 'conversions', 'conversion_history', 'ledger',
                'outbox', 'pending', 'postback_log', 'job_leases', 'report_clicks', 'report_conversions', 'report_ledger',
                'report_names'))
        UNION ALL
        SELECT format('FUNCTION %s', p.oid::regprocedure) FROM pg_proc AS p
         WHERE p.pronamespace = 'public'::regnamespace AND p.proowner <> 'tracker_migrator'::regrole
           AND p.proname IN ('catalog_stamp', 'catalog_notify', 'click_time', 'click_id_floor', 'click_id_of_day', 'ensure_click_partitions',
                             'drop_click_partitions', 'append_only')
    LOOP
        EXECUTE format('ALTER %s OWNER TO tracker_migrator', thing);
    END LOOP;
END $$;

-- What follows is all there is: whatever was granted beside it ends here.
REVOKE ALL ON ALL TABLES IN SCHEMA public FROM tracker_edge, tracker_control, tracker_reporter, tracker_retention;
REVOKE ALL ON ALL FUNCTIONS IN SCHEMA public FROM tracker_edge, tracker_control, tracker_reporter, tracker_retention;

GRANT SELECT ON
    schema_version, programs, program_terms, partners, partner_statuses, enrolments, commission_terms, links, link_versions,
    coupons, credentials, credential_programs
    TO tracker_edge;
GRANT SELECT, INSERT ON
    clicks, clicks_stray, quarantine, click_stats_new, conversions, conversion_history, ledger, pending, postback_log
    TO tracker_edge;
GRANT SELECT (endpoint_id, partner_id, program_id, statuses, events, status) ON outbox_endpoints TO tracker_edge;   -- no URL, no secret
GRANT INSERT ON outbox TO tracker_edge;
GRANT SELECT, INSERT, UPDATE ON conversion_state, spool_cursors, worker_numbers TO tracker_edge;
GRANT UPDATE (outcome, reason, program_id, conversion_id) ON postback_log TO tracker_edge;     -- of a message first quarantined

GRANT tracker_edge TO tracker_control;
GRANT INSERT ON
    program_terms, partner_statuses, enrolments, commission_terms, link_versions, credential_programs
    TO tracker_control;
GRANT INSERT, UPDATE ON programs, partners, links, coupons TO tracker_control;
GRANT INSERT, UPDATE (revoked_at) ON credentials TO tracker_control;
GRANT SELECT, INSERT, UPDATE, DELETE ON job_leases TO tracker_control;
GRANT DELETE ON click_stats_new TO tracker_control;
GRANT SELECT, INSERT, UPDATE ON click_stats_by_link, click_stats_by_source TO tracker_control;
GRANT SELECT ON click_statistics, click_source_statistics TO tracker_control;
GRANT UPDATE (flags), DELETE ON clicks_stray TO tracker_control;               -- moved to their day; FOR UPDATE needs a right to update
GRANT UPDATE (conversion_id, message), DELETE ON pending TO tracker_control;
GRANT SELECT, INSERT ON outbox_endpoints TO tracker_control;
GRANT UPDATE (url, host, method, statuses, events, status, failures, failing_since, retry_at) ON outbox_endpoints TO tracker_control;
GRANT SELECT, DELETE, UPDATE (state, due_at, give_up_at, attempts, last_reason, last_status, tried_at) ON outbox TO tracker_control;
GRANT DELETE ON worker_numbers TO tracker_control;
GRANT EXECUTE ON FUNCTION ensure_click_partitions(date, integer) TO tracker_control;

GRANT SELECT ON
    report_clicks, report_conversions, report_ledger, report_names, click_statistics, click_source_statistics
    TO tracker_reporter;

GRANT EXECUTE ON FUNCTION drop_click_partitions(date) TO tracker_retention;
COMMIT;
