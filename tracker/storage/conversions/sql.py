"""Every statement about conversions and money, and nothing else. What they are for: conversions/store.py.

All take many rows: one statement per group of messages (45,000 rows/s; one row a statement 2,800). Claims and
writes of conversion_state have the same form, INSERT … ON CONFLICT DO UPDATE sorted by conversion_id: it locks in one
order on every edge, and is routed by Citus, which refuses FOR UPDATE over several shards. What is new is inserted in the same
order, table after table, so that two edges with the same new keys wait for each other but never in a circle.
"""

from functools import lru_cache
from typing import Final

from tracker.storage.together import ALWAYS


@lru_cache
def names_of(columns: str) -> tuple[str, ...]:
    """The names in a list of columns with their types."""
    return tuple(column.split()[0] for column in columns.split(","))


LOGGED: Final = "SELECT message_id, outcome, reason, conversion_id FROM postback_log WHERE message_id = ANY($1::uuid[])"

# Only look-ups in `clicks` open partitions. The plans of a group's other statements are kept: planning took half their time.
PLANS_KEPT: Final = "SELECT set_config('plan_cache_mode', 'force_generic_plan', false)"
PLANS_ANEW: Final = "SELECT set_config('plan_cache_mode', 'force_custom_plan', false)"
PLANNED_ANEW: Final = "SET LOCAL plan_cache_mode = force_custom_plan"

# Look-ups in `clicks` name the day's bounds, so that all other partitions are pruned (sessions plan for the values at hand).
CLICKS_OF_DAY: Final = "SELECT click_id FROM clicks WHERE click_id >= $2 AND click_id < $3 AND click_id = ANY($1::uuid[])"
CLICKS_STRAY: Final = "SELECT click_id FROM clicks_stray WHERE click_id = ANY($1::uuid[])"

# In order of the id, so that a plan made while the table was empty takes its primary key: the index for lists (created_at,
# conversion_id) seems as good then, and is read from end to end. That was two fifths of a group's cost there with 40,000 rows.
KNOWN: Final = "SELECT conversion_id, click_id FROM conversion_state WHERE conversion_id = ANY($1::uuid[]) ORDER BY 1"
WAITING: Final = """
    SELECT conversion_id, min(click_id::text)::uuid AS click_id FROM pending WHERE conversion_id = ANY($1::uuid[]) GROUP BY 1
"""

# `told`: some endpoint may hear of its conversions. ENDPOINTS is one more round trip: not for nothing.
PROGRAMS: Final = """
    SELECT program_id, several_per_key, pending_cap, EXISTS (
           SELECT 1 FROM outbox_endpoints AS e WHERE e.status <> 'paused' AND (e.program_id IS NULL OR e.program_id = p.program_id)
           ) AS told
      FROM programs AS p WHERE program_id = ANY($1::int[])
"""
LINKS: Final = "SELECT link_id, program_id, partner_id FROM links WHERE link_id = ANY($1::int[])"
# All that a group is decided by, each kind an array of rows: of programs ($1), links ($2), coupons ($3, by coupon_key) and the
# partners of these links and coupons. One statement: asked one by one, each looked the partners up and was planned again.
# lower() knows only some alphabets under some locales: codes that are not ASCII are compared by coupon_key, in Python.
FACTS: Final = """
    WITH l AS MATERIALIZED (SELECT link_id, program_id, partner_id FROM links WHERE link_id = ANY($2::int[])),
    c AS MATERIALIZED (
        SELECT coupon_id, program_id, partner_id, code, valid_from, valid_to
          FROM coupons WHERE program_id = ANY($1::int[]) AND cardinality($3::text[]) > 0
           AND (lower(code) = ANY($3::text[]) OR code ~ '[^ -~]')),
    partners AS MATERIALIZED (SELECT partner_id FROM l UNION SELECT partner_id FROM c)
    SELECT (SELECT array_agg(l) FROM l), (SELECT array_agg(c) FROM c),
        (SELECT array_agg(q) FROM (
            SELECT program_id, valid_from, window_days, default_status FROM program_terms WHERE program_id = ANY($1::int[])) AS q),
        (SELECT array_agg(q) FROM (
            SELECT program_id, partner_id, event, valid_from, kind, rate, amount, currency FROM commission_terms
             WHERE program_id = ANY($1::int[]) AND (partner_id = 0 OR partner_id IN (SELECT partner_id FROM partners))) AS q),
        (SELECT array_agg(q) FROM (
            SELECT program_id, partner_id, valid_from, status FROM enrolments
             WHERE program_id = ANY($1::int[]) AND partner_id IN (SELECT partner_id FROM partners)) AS q),
        (SELECT array_agg(q) FROM (
            SELECT partner_id, valid_from, status FROM partner_statuses
             WHERE partner_id IN (SELECT partner_id FROM partners)) AS q)
"""

# A paused endpoint is not told; one that was switched off is, when it works again.
ENDPOINTS: Final = """
    SELECT endpoint_id, partner_id, program_id, statuses, events FROM outbox_endpoints
     WHERE status <> 'paused' AND (program_id IS NULL OR program_id = ANY($1::int[])) AND partner_id = ANY($2::int[])
"""
UNCONFIRMED_TODAY: Final = """
    SELECT program_id, count(*) AS made FROM conversion_state
     WHERE unconfirmed AND program_id = ANY($1::int[]) AND created_at >= date_trunc('day', now()) GROUP BY 1
"""
# Keys that limited messages wait for: each is an unconfirmed conversion in a quarter of an hour at most.
UNCONFIRMED_WAITING: Final = """
    SELECT (message ->> 'program_id')::int AS program_id, count(DISTINCT conversion_id) AS waiting FROM pending
     WHERE message ? 'limited' AND (message ->> 'program_id')::int = ANY($1::int[]) GROUP BY 1
"""

CLAIM: Final = """
    INSERT INTO conversion_state (conversion_id, program_id, event, txid, key_click_id, discriminator)
    SELECT * FROM unnest($1::uuid[], $2::int[], $3::text[], $4::text[], $5::uuid[], $6::text[]) ORDER BY 1
        ON CONFLICT (conversion_id) DO UPDATE SET version = conversion_state.version + 1
    RETURNING *
"""
CLAIM_ONE: Final = "UPDATE conversion_state SET version = version + 1 WHERE conversion_id = $1 RETURNING *"

# What is written comes as one JSON document for each table (rows.as_json): the driver takes three times as long over arrays.

def _inserting(table: str, columns: str) -> str:
    names = ", ".join(names_of(columns))
    rows = f"json_to_recordset($1::json) AS r ({columns}) {ALWAYS}"
    return f"INSERT INTO {table} ({names}) SELECT * FROM {rows} ORDER BY 1, 2"  # noqa: S608


STATE: Final = """
    conversion_id uuid, program_id int, event text, txid text, key_click_id uuid, discriminator text, untimed_status text,
    timed_status text, timed_at timestamptz, admin_status text, admin_reason text, admin_saw_untimed text,
    admin_saw_timed text, admin_saw_timed_at timestamptz, status text, amount numeric, currency text, click_id uuid,
    link_id int, coupon text, partner_id int, credit text, credit_reason text, told_at timestamptz, heard_at timestamptz,
    commission_owed numeric, commission_currency text, last_entry int, test bool, unconfirmed bool
"""
# Of keys that were not there: two edges that insert one at once meet in its primary key.
NEW_STATE: Final = _inserting("conversion_state AS s", STATE)
WRITE_STATE: Final = NEW_STATE + """
        ON CONFLICT (conversion_id) DO UPDATE SET
           untimed_status = EXCLUDED.untimed_status, timed_status = EXCLUDED.timed_status, timed_at = EXCLUDED.timed_at,
           admin_status = EXCLUDED.admin_status, admin_reason = EXCLUDED.admin_reason,
           admin_saw_untimed = EXCLUDED.admin_saw_untimed, admin_saw_timed = EXCLUDED.admin_saw_timed,
           admin_saw_timed_at = EXCLUDED.admin_saw_timed_at, status = EXCLUDED.status, amount = EXCLUDED.amount,
           currency = EXCLUDED.currency, click_id = EXCLUDED.click_id, link_id = EXCLUDED.link_id,
           coupon = EXCLUDED.coupon, partner_id = EXCLUDED.partner_id, credit = EXCLUDED.credit,
           credit_reason = EXCLUDED.credit_reason, told_at = EXCLUDED.told_at, heard_at = EXCLUDED.heard_at,
           commission_owed = EXCLUDED.commission_owed, commission_currency = EXCLUDED.commission_currency,
           last_entry = EXCLUDED.last_entry, test = EXCLUDED.test, unconfirmed = EXCLUDED.unconfirmed, updated_at = now()
"""
CONVERSIONS: Final = """
    conversion_id uuid, message_id uuid, program_id int, event text, txid text, click_id uuid, amount numeric, currency text,
    status text, customer text, coupon text, happened_at timestamptz, received_at timestamptz
"""
WRITE_CONVERSIONS: Final = _inserting("conversions", CONVERSIONS)
HISTORY: Final = "conversion_id uuid, entry int, message_id uuid, change text, detail jsonb"
WRITE_HISTORY: Final = _inserting("conversion_history", HISTORY)
LEDGER: Final = "conversion_id uuid, entry int, program_id int, partner_id int, amount numeric, currency text, reason text"
WRITE_LEDGER: Final = _inserting("ledger", LEDGER)
OUTBOX: Final = """
    conversion_id uuid, entry int, endpoint_id int, partner_id int, program_id int, link_id int, click_id uuid,
    awaits_click bool, said jsonb
"""
WRITE_OUTBOX: Final = _inserting("outbox", OUTBOX)
LOG: Final = """
    message_id uuid, received_at timestamptz, outcome text, reason text, program_id int, conversion_id uuid, click_id uuid,
    message jsonb
"""
WRITE_LOG: Final = _inserting("postback_log", LOG)
WRITE_FAULT: Final = WRITE_LOG + " ON CONFLICT (message_id) DO UPDATE SET outcome = EXCLUDED.outcome, reason = EXCLUDED.reason"
# Of messages played again: what was quarantined has its row already, with what was wrong then.
WRITE_LOG_AGAIN: Final = WRITE_LOG + """
        ON CONFLICT (message_id) DO UPDATE SET outcome = EXCLUDED.outcome, reason = EXCLUDED.reason,
           program_id = EXCLUDED.program_id, conversion_id = EXCLUDED.conversion_id
     WHERE postback_log.outcome = 'quarantined'
"""
PENDING: Final = "click_id uuid, message_id uuid, conversion_id uuid, credential_id int, message jsonb"
WRITE_PENDING: Final = _inserting("pending", PENDING)

# Resolving what waited: jobs/pending.py.
RESOLVED_LOG: Final = """
    UPDATE postback_log AS l SET outcome = r.o, reason = r.y, program_id = coalesce(r.p, l.program_id), conversion_id = r.c
      FROM unnest($1::uuid[], $2::text[], $3::text[], $4::int[], $5::uuid[]) AS r (i, o, y, p, c) WHERE l.message_id = r.i
"""
PENDING_PAGE: Final = "SELECT DISTINCT click_id FROM pending WHERE click_id > $1 AND conversion_id IS NOT NULL ORDER BY 1 LIMIT $2"
PENDING_NEWEST: Final = "SELECT click_id FROM pending WHERE conversion_id IS NOT NULL ORDER BY inserted_at DESC LIMIT $1"
PENDING_OVERDUE: Final = """
    SELECT click_id FROM pending WHERE conversion_id IS NOT NULL AND inserted_at <= now() - make_interval(secs => $1)
     ORDER BY inserted_at LIMIT $2
"""
PENDING_OF_CLICKS: Final = """
    SELECT click_id, message_id, conversion_id, message, inserted_at FROM pending
     WHERE click_id = ANY($1::uuid[]) AND conversion_id IS NOT NULL
     ORDER BY inserted_at, message_id LIMIT $2
"""
PENDING_UNKNOWN: Final = """
    SELECT click_id, message_id, conversion_id, message, inserted_at, inserted_at <= now() - make_interval(secs => $1) AS overdue
      FROM pending WHERE conversion_id IS NULL AND message_id > $2 ORDER BY message_id LIMIT $3
"""
PENDING_KNOWN: Final = """
    UPDATE pending SET conversion_id = $3, message = $4::jsonb WHERE click_id = $1 AND message_id = $2 AND conversion_id IS NULL
"""
LEAVE_PENDING: Final = "DELETE FROM pending WHERE message_id = ANY($1::uuid[])"
# Of the kind, too, that the program asks for: a token says nothing to a program that wants signatures.
COVERED: Final = """
    SELECT 1 FROM credential_programs AS cp JOIN credentials AS c USING (credential_id) JOIN programs AS p USING (program_id)
     WHERE cp.credential_id = $1 AND cp.program_id = $2 AND c.kind = p.auth_mode AND (c.revoked_at IS NULL OR c.revoked_at > $3)
"""
FROM_ID: Final = """
    SELECT conversion_id, click_id, created_at FROM conversion_state
     WHERE credit = 'id' AND created_at > now() - make_interval(secs => $1) AND (created_at, conversion_id) > ($2, $3)
     ORDER BY created_at, conversion_id LIMIT $4
"""
