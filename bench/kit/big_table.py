"""Filling `clicks` with millions of rows: real ones under new ids, made inside PostgreSQL, spread over the last 30 days.

The columns are read from the catalog, so that a table that gains or loses one is filled as well.
"""

from __future__ import annotations

import random
import time
from datetime import UTC, datetime, timedelta
from typing import Final
from uuid import UUID

from bench.kit.database import Database
from bench.kit.progress import steps
from bench.kit.servers import KEYRING, Edge
from bench.kit.traffic import rich_clicks
from bench.kit.wrk import load
from tracker.domain.click_id import ClickIdMaker

DAYS: Final = 30             # of the usual attribution window
TOKENS: Final = 2000
_WORKER: Final = 32_767      # no edge has this number yet: PostgreSQL gives low ones
_DAY_MS: Final = 86_400_000

_COLUMNS: Final = """
    SELECT string_agg(quote_ident(column_name), ', ' ORDER BY ordinal_position) FROM information_schema.columns
     WHERE table_schema = 'public' AND table_name = 'clicks' AND column_name <> 'click_id'
"""
_SAMPLE: Final = "CREATE TABLE bench_sample AS SELECT row_number() OVER () AS bench_n, * FROM clicks"
# $1: ms of the day's first click, $2: ms over which they are spread, $3: how many. The sample as often as it takes, in order.
_DAY: Final = """
    INSERT INTO clicks (click_id, {columns})
    SELECT (lpad(to_hex(($1::bigint + at * $2::bigint / $3::bigint) << 3), 12, '0') || substr(md5(at::text), 1, 20))::uuid,
           {columns}
      FROM generate_series(0, ($3::bigint - 1) / (SELECT count(*) FROM bench_sample)) AS copy,
           bench_sample AS sample, LATERAL (SELECT copy * (SELECT count(*) FROM bench_sample) + bench_n - 1 AS at) AS place
     WHERE at < $3::bigint
"""
_SOLD: Final = """
    INSERT INTO clicks (click_id, {columns})
    SELECT id, {columns} FROM unnest($1::uuid[]) WITH ORDINALITY AS sold (id, n) JOIN bench_sample ON bench_n = sold.n
"""


def grow(stored: Database, edge: Edge, rows: int, *, days: int = DAYS) -> list[str]:
    """Add `rows` to the table, over the last `days`; tokens of clicks strewn over them, for sales."""
    load(edge.port, rich_clicks(), seconds=1)      # what there is to copy
    edge.settle()
    stored.execute(_SAMPLE)
    columns = str(stored.fetch(_COLUMNS)[0][0])
    today = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    stored.fetch("SELECT ensure_click_partitions($1::date, $2::int)", (today - timedelta(days=days - 1)).date(), days)
    now_ms = time.time_ns() // 10**6
    for day in steps(f"filling a table with {rows:,} clicks", range(days if rows else 0), lambda day: f"day {day + 1} of {days}"):
        first_ms = int((today - timedelta(days=days - 1 - day)).timestamp() * 1000)
        stored.fetch(_DAY.format(columns=columns), first_ms, min(_DAY_MS, now_ms - first_ms), rows // days)
    tokens = _sell(stored, columns, now_ms, days)
    stored.execute("DROP TABLE bench_sample")
    stored.execute("VACUUM (ANALYZE) clicks")
    stored.execute("CHECKPOINT")
    return tokens


def _sell(stored: Database, columns: str, now_ms: int, days: int) -> list[str]:
    """Rows for tokens that a shop will send back, in a mixed order: links as the sample's rows have them."""
    rng = random.Random(3)
    maker = ClickIdMaker(keyring=KEYRING, worker=_WORKER, random_counter=lambda: rng.getrandbits(20))
    links = [row[0] for row in stored.fetch("SELECT link_id FROM bench_sample ORDER BY bench_n LIMIT $1", TOKENS)]
    step = (days - 1) * _DAY_MS // len(links)
    made = [maker.make(now_ms - (len(links) - number) * step, link) for number, link in enumerate(links)]
    stored.fetch(_SOLD.format(columns=columns), [UUID(bytes=uuid) for uuid, _ in made])
    tokens = [token.decode() for _, token in made]
    rng.shuffle(tokens)
    return tokens
