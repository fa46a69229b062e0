"""The store of what people manage and look at, for the admin API and the commands.

Every kind has the same verbs: create, edit, show, list. A write is one transaction, checked whole before anything is
written; the catalog of every edge hears of it by the tables' triggers. Nothing is ever deleted, slugs and numbers are
never used again: clicks and conversions hold them.
"""

from __future__ import annotations

from collections.abc import Sequence

from tracker.domain.addresses import Network
from tracker.storage.entities.coupons import Coupons
from tracker.storage.entities.credentials import Credentials
from tracker.storage.entities.deliveries import Deliveries
from tracker.storage.entities.endpoints import Endpoints
from tracker.storage.entities.links import Links
from tracker.storage.entities.partners import Partners
from tracker.storage.entities.programs import Programs
from tracker.storage.entities.records import Records
from tracker.storage.postgres import Pool


class Store:
    """All of it over one pool. What may go wrong: tracker/domain/mistakes.py, or PostgreSQL is away (Unavailable).

    `outbox_networks`: the setting, without which endpoints in private networks are refused.
    """

    def __init__(self, pool: Pool, *, outbox_networks: Sequence[Network] = ()) -> None:
        self.programs = Programs(pool)
        self.partners = Partners(pool)
        self.links = Links(pool)
        self.coupons = Coupons(pool)
        self.credentials = Credentials(pool)
        self.endpoints = Endpoints(pool, outbox_networks)
        self.deliveries = Deliveries(pool)
        self.records = Records(pool)
