"""The questions of records.py. Nothing in here is built from input; the order of parameters is the reader's."""

_NAMES_OF_CLICKS = """
  LEFT JOIN links AS l ON l.link_id = c.link_id LEFT JOIN programs AS p ON p.program_id = c.program_id
  LEFT JOIN partners AS r ON r.partner_id = c.partner_id
"""

CLICK = f"""
SELECT c.*, l.slug AS link, p.slug AS program, r.slug AS partner
  FROM (SELECT * FROM clicks WHERE click_id = $1 UNION ALL SELECT * FROM clicks_stray WHERE click_id = $1) AS c
{_NAMES_OF_CLICKS}
"""  # noqa: S608

_OF_A_SPAN = """
WHERE click_id >= $1 AND click_id < $2 AND ($3::int IS NULL OR link_id = $3)
  AND ($4::int IS NULL OR program_id = $4) AND ($5::int IS NULL OR partner_id = $5)
"""

# Numbers in the conditions, names joined to the page alone: each partition is read in the order of its key, and no
# further than the page reaches.
CLICKS = f"""
SELECT c.*, l.slug AS link, p.slug AS program, r.slug AS partner
  FROM (SELECT * FROM clicks {_OF_A_SPAN} UNION ALL SELECT * FROM clicks_stray {_OF_A_SPAN}
         ORDER BY click_id LIMIT $6) AS c
{_NAMES_OF_CLICKS} ORDER BY c.click_id
"""  # noqa: S608

# Of a day: what user agents and referrers the keys stand for that its rows leave out.
USER_AGENTS = """
SELECT agent_key, user_agent FROM clicks
 WHERE click_id >= $1 AND click_id < $2 AND agent_key = ANY ($3::bytea[]) AND user_agent IS NOT NULL
UNION ALL SELECT agent_key, user_agent FROM clicks_stray WHERE agent_key = ANY ($3::bytea[]) AND user_agent IS NOT NULL
"""

REFERRERS = """
SELECT referrer_key, referrer FROM clicks
 WHERE click_id >= $1 AND click_id < $2 AND referrer_key = ANY ($3::bytea[]) AND referrer IS NOT NULL
UNION ALL SELECT referrer_key, referrer FROM clicks_stray WHERE referrer_key = ANY ($3::bytea[]) AND referrer IS NOT NULL
"""

NUMBERS = """
SELECT (SELECT link_id FROM links WHERE slug = $1) AS link,
       (SELECT program_id FROM programs WHERE slug = $2) AS program,
       (SELECT partner_id FROM partners WHERE slug = $3) AS partner
"""

_STATE = """
SELECT s.conversion_id, p.slug AS program, s.event, s.txid, s.status, s.amount, s.currency, r.slug AS partner,
       l.slug AS link, s.click_id, s.credit, s.credit_reason, s.commission_owed, s.commission_currency, s.admin_status,
       s.admin_reason, s.test, s.sold_at, s.created_at, s.updated_at
  FROM conversion_state AS s LEFT JOIN programs AS p USING (program_id)
  LEFT JOIN partners AS r ON r.partner_id = s.partner_id LEFT JOIN links AS l ON l.link_id = s.link_id
"""

CONVERSION = _STATE + " WHERE s.conversion_id = $1"

CONVERSIONS = (
    _STATE
    + """
 WHERE ($1::timestamptz IS NULL OR (s.created_at, s.conversion_id) < ($1, $2::uuid))
   AND ($3::text IS NULL OR p.slug = $3) AND ($4::text IS NULL OR r.slug = $4)
   AND ($5::text IS NULL OR s.status = $5) AND ($6::text IS NULL OR s.txid = $6)
 ORDER BY s.created_at DESC, s.conversion_id DESC LIMIT $7
"""
)

FIRST_MESSAGE = """
SELECT message_id, event, txid, click_id, amount, currency, status, customer, coupon, happened_at, received_at,
       recorded_at
  FROM conversions WHERE conversion_id = $1
"""

HISTORY = """
SELECT entry, change, detail, message_id, at FROM conversion_history WHERE conversion_id = $1 ORDER BY entry
"""

LEDGER = """
SELECT g.entry, r.slug AS partner, g.amount, g.currency, g.reason, g.at
  FROM ledger AS g LEFT JOIN partners AS r USING (partner_id) WHERE conversion_id = $1 ORDER BY entry
"""

POSTBACKS = """
SELECT b.message_id, b.received_at, b.outcome, b.reason, p.slug AS program, b.conversion_id, b.click_id, b.message
  FROM postback_log AS b LEFT JOIN programs AS p USING (program_id)
 WHERE ($1::timestamptz IS NULL OR (b.received_at, b.message_id) < ($1, $2::uuid))
   AND ($3::text IS NULL OR p.slug = $3) AND ($4::text IS NULL OR b.outcome = $4)
   AND ($5::uuid IS NULL OR b.conversion_id = $5)
 ORDER BY b.received_at DESC, b.message_id DESC LIMIT $6
"""
