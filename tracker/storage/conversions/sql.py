"""Every statement about conversions and money, and nothing else. What they are for: conversions/store.py.

All take arrays and unnest them: one statement per group of messages (45,000 rows/s; one row a statement 2,800). Claims and
writes of conversion_state have the same form, INSERT … ON CONFLICT DO UPDATE sorted by conversion_id: it locks in one
order on every edge, and is routed by Citus, which refuses FOR UPDATE over several shards.
"""

from typing import Final

LOGGED: Final = "SELECT message_id, outcome, reason, conversion_id FROM postback_log WHERE message_id = ANY($1::uuid[])"

# Look-ups in `clicks` name the day's bounds, so that all other partitions are pruned (sessions plan for the values at hand).
CLICKS_OF_DAY: Final = "SELECT click_id FROM clicks WHERE click_id >= $2 AND click_id < $3 AND click_id = ANY($1::uuid[])"
CLICKS_STRAY: Final = "SELECT click_id FROM clicks_stray WHERE click_id = ANY($1::uuid[])"

CREDITED_CLICKS: Final = "SELECT conversion_id, click_id FROM conversion_state WHERE conversion_id = ANY($1::uuid[])"
WAITING: Final = """
    SELECT conversion_id, min(click_id::text)::uuid AS click_id FROM pending WHERE conversion_id = ANY($1::uuid[]) GROUP BY 1
"""

# `told`: some endpoint may hear of its conversions. Planning ENDPOINTS takes a third of a millisecond: not for nothing.
PROGRAMS: Final = """
    SELECT program_id, several_per_key, pending_cap, EXISTS (
           SELECT 1 FROM outbox_endpoints AS e WHERE e.status <> 'paused' AND (e.program_id IS NULL OR e.program_id = p.program_id)
           ) AS told
      FROM programs AS p WHERE program_id = ANY($1::int[])
"""
PROGRAM_TERMS: Final = """
    SELECT program_id, valid_from, window_days, default_status FROM program_terms WHERE program_id = ANY($1::int[])
"""
LINKS: Final = "SELECT link_id, program_id, partner_id FROM links WHERE link_id = ANY($1::int[])"
# lower() knows only some alphabets under some locales: codes that are not ASCII are compared by coupon_key, in Python.
COUPONS: Final = """
    SELECT coupon_id, program_id, partner_id, code, valid_from, valid_to
      FROM coupons WHERE program_id = ANY($1::int[]) AND cardinality($2::text[]) > 0
       AND (lower(code) = ANY($2::text[]) OR code ~ '[^ -~]')
"""
# Partners of links ($2) and of coupons ($3) of programs ($1): asked for with what is known of them, to spare a round trip.
_PARTNERS: Final = f"""
    SELECT partner_id FROM ({LINKS.replace("$1", "$2")}) AS by_link
     UNION SELECT partner_id FROM ({COUPONS.replace("$2", "$3")}) AS by_coupon
"""  # noqa: S608 - made of constants, here and below
COMMISSIONS: Final = f"""
    SELECT program_id, partner_id, event, valid_from, kind, rate, amount, currency
      FROM commission_terms WHERE program_id = ANY($1::int[]) AND (partner_id = 0 OR partner_id IN ({_PARTNERS}))
"""  # noqa: S608
ENROLMENTS: Final = f"""
    SELECT program_id, partner_id, valid_from, status FROM enrolments
     WHERE program_id = ANY($1::int[]) AND partner_id IN ({_PARTNERS})
"""  # noqa: S608
PARTNER_STATUSES: Final = f"SELECT partner_id, valid_from, status FROM partner_statuses WHERE partner_id IN ({_PARTNERS})"  # noqa: S608

# A paused endpoint is not told; one that was switched off is, when it works again.
ENDPOINTS: Final = f"""
    SELECT endpoint_id, partner_id, program_id, statuses, events FROM outbox_endpoints
     WHERE status <> 'paused' AND (program_id IS NULL OR program_id = ANY($1::int[])) AND partner_id IN ({_PARTNERS})
"""  # noqa: S608

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

# In the order of conversion_rows.STATE_COLUMNS.
WRITE_STATE: Final = """
    INSERT INTO conversion_state AS s (
        conversion_id, program_id, event, txid, key_click_id, discriminator, untimed_status, timed_status, timed_at,
        admin_status, admin_reason, admin_saw_untimed, admin_saw_timed, admin_saw_timed_at, status, amount, currency,
        click_id, link_id, coupon, partner_id, credit, credit_reason, told_at, heard_at, commission_owed,
        commission_currency, last_entry, test, unconfirmed)
    SELECT * FROM unnest(
        $1::uuid[], $2::int[], $3::text[], $4::text[], $5::uuid[], $6::text[], $7::text[], $8::text[], $9::timestamptz[],
        $10::text[], $11::text[], $12::text[], $13::text[], $14::timestamptz[], $15::text[], $16::numeric[], $17::text[],
        $18::uuid[], $19::int[], $20::text[], $21::int[], $22::text[], $23::text[], $24::timestamptz[], $25::timestamptz[],
        $26::numeric[], $27::text[], $28::int[], $29::bool[], $30::bool[])
     ORDER BY 1
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
WRITE_CONVERSIONS: Final = """
    INSERT INTO conversions (conversion_id, message_id, program_id, event, txid, click_id, amount, currency, status,
                             customer, coupon, happened_at, received_at)
    SELECT * FROM unnest($1::uuid[], $2::uuid[], $3::int[], $4::text[], $5::text[], $6::uuid[], $7::numeric[], $8::text[],
                         $9::text[], $10::text[], $11::text[], $12::timestamptz[], $13::timestamptz[])
"""
WRITE_HISTORY: Final = """
    INSERT INTO conversion_history (conversion_id, entry, message_id, change, detail)
    SELECT c, e, m, w, d::jsonb FROM unnest($1::uuid[], $2::int[], $3::uuid[], $4::text[], $5::text[]) AS h (c, e, m, w, d)
"""
WRITE_LEDGER: Final = """
    INSERT INTO ledger (conversion_id, entry, program_id, partner_id, amount, currency, reason)
    SELECT * FROM unnest($1::uuid[], $2::int[], $3::int[], $4::int[], $5::numeric[], $6::text[], $7::text[])
"""
WRITE_OUTBOX: Final = """
    INSERT INTO outbox (conversion_id, entry, endpoint_id, partner_id, program_id, link_id, click_id, awaits_click, said)
    SELECT c, e, n, a, p, l, k, w, s::jsonb
      FROM unnest($1::uuid[], $2::int[], $3::int[], $4::int[], $5::int[], $6::int[], $7::uuid[], $8::bool[], $9::text[])
           AS o (c, e, n, a, p, l, k, w, s)
"""
WRITE_LOG: Final = """
    INSERT INTO postback_log (message_id, received_at, outcome, reason, program_id, conversion_id, click_id, message)
    SELECT i, r, o, y, p, c, k, m::jsonb
      FROM unnest($1::uuid[], $2::timestamptz[], $3::text[], $4::text[], $5::int[], $6::uuid[], $7::uuid[], $8::text[])
           AS l (i, r, o, y, p, c, k, m)
"""
WRITE_FAULT: Final = WRITE_LOG + " ON CONFLICT (message_id) DO UPDATE SET outcome = EXCLUDED.outcome, reason = EXCLUDED.reason"
# Of messages played again: what was quarantined has its row already, with what was wrong then.
WRITE_LOG_AGAIN: Final = WRITE_LOG + """
        ON CONFLICT (message_id) DO UPDATE SET outcome = EXCLUDED.outcome, reason = EXCLUDED.reason,
           program_id = EXCLUDED.program_id, conversion_id = EXCLUDED.conversion_id
     WHERE postback_log.outcome = 'quarantined'
"""
WRITE_PENDING: Final = """
    INSERT INTO pending (click_id, message_id, conversion_id, credential_id, message)
    SELECT k, i, c, d, m::jsonb FROM unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::int[], $5::text[]) AS p (k, i, c, d, m)
"""

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
