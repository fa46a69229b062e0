"""The catalog's questions to PostgreSQL: what a row of each kind is, and the three ways of asking for rows.

Only what JSON can say is selected (times as ms, bytes as hex, networks as text), the id first. No logic in here.
"""

from __future__ import annotations

from typing import Literal, LiteralString

Kind = Literal["programs", "partners", "links", "coupons", "credentials"]

KINDS: tuple[Kind, ...] = ("programs", "partners", "links", "coupons", "credentials")  # what others refer to first

CHANNEL = "tracker_catalog"   # see catalog_notify() in schema.sql

HORIZON = "SELECT pg_snapshot_xmin(pg_current_snapshot())::text::bigint"

_PROGRAMS = """
SELECT program_id, slug, name, currency, auth_mode, ip_allow::text[], several_per_key, pending_cap FROM programs AS t
"""

_PARTNERS = """
SELECT partner_id, slug, name FROM partners AS t
"""

_LINKS = """
SELECT t.link_id, t.slug, t.program_id, t.partner_id, programs.slug, partners.slug, t.version, t.destination,
       t.fallback, t.channel, t.pass_query, t.referrer_policy, t.allow_test, t.status,
       floor(extract(epoch FROM t.expires_at) * 1000)::bigint
  FROM links AS t JOIN programs USING (program_id) JOIN partners USING (partner_id)
"""

_COUPONS = """
SELECT coupon_id, program_id, partner_id, code, floor(extract(epoch FROM valid_from) * 1000)::bigint,
       floor(extract(epoch FROM valid_to) * 1000)::bigint
  FROM coupons AS t
"""

_CREDENTIALS = """
SELECT credential_id, kind, ARRAY(SELECT program_id FROM credential_programs AS p
                                   WHERE p.credential_id = t.credential_id ORDER BY program_id),
       encode(token_hash, 'hex'), encode(hmac_secret, 'hex'), revoked_at IS NOT NULL
  FROM credentials AS t
"""

_EACH: dict[Kind, tuple[LiteralString, LiteralString]] = {
    "programs": (_PROGRAMS, "program_id"),
    "partners": (_PARTNERS, "partner_id"),
    "links": (_LINKS, "link_id"),
    "coupons": (_COUPONS, "coupon_id"),
    "credentials": (_CREDENTIALS, "credential_id"),
}

ALL: dict[Kind, LiteralString] = {kind: select for kind, (select, _) in _EACH.items()}

SINCE: dict[Kind, LiteralString] = {
    kind: select + " WHERE t.xid >= $1::bigint::text::xid8" for kind, (select, _) in _EACH.items()
}

BY_IDS: dict[Kind, LiteralString] = {
    kind: select + " WHERE t." + key + " = ANY ($1::int[])" for kind, (select, key) in _EACH.items()
}

LINK_BY_SLUG: LiteralString = _LINKS + " WHERE t.slug = $1"
