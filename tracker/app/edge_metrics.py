"""What one worker tells /metrics. Counters of money and rows at once, gauges each second."""

from __future__ import annotations

import time

from tracker.app.counting import Totals
from tracker.metrics import Page
from tracker.storage.catalog.catalog import Catalog
from tracker.storage.clicks.dead_spools import DeadSpools
from tracker.storage.clicks.shipper import Shipper
from tracker.storage.conversions.recorder import Recorder
from tracker.storage.conversions.refusals import Refusals
from tracker.storage.conversions.unjournalled import UnjournalledRecorder
from tracker.storage.spool.spool import Spool
from tracker.web.fastlane import Lanes
from tracker.web.misses import Misses
from tracker.web.postback_intake import Intake


class EdgeMetrics:
    """Reads the plain numbers the rooms keep and brings the page up to them."""

    def __init__(
        self, page: Page, *, spool: Spool, catalog: Catalog, shipper: Shipper, dead: DeadSpools, recorder: Recorder,
        unjournalled: UnjournalledRecorder, refusals: Refusals, misses: Misses, intake: Intake, lanes: Lanes,
    ) -> None:
        self._page, self._totals = page, Totals(page)
        self._spool, self._catalog, self._shipper, self._dead = spool, catalog, shipper, dead
        self._recorder, self._unjournalled, self._refusals = recorder, unjournalled, refusals
        self._misses, self._intake, self._lanes = misses, intake, lanes

    def postback_answered(self, seconds: float) -> None:
        """After each request, so that a worker's death loses no count of an answer."""
        self._page.observe("tracker_postback_duration_seconds", seconds)
        self._totals.bring_all("tracker_postbacks_total", self._intake.answered)
        self._totals.bring_all("tracker_postback_refusals_total", self._refusals.counts)

    def rows_shipped(self) -> None:
        """After each batch, for the same reason."""
        counts, bring = self._shipper.counts, self._totals.bring
        bring("tracker_clicks_shipped_total", counts.rows, label="clicks")
        bring("tracker_clicks_shipped_total", counts.strays, label="stray")
        bring("tracker_clicks_shipped_total", counts.quarantined, label="quarantine")
        bring("tracker_clicks_replayed_duplicates_total", counts.duplicates)
        bring("tracker_ship_batches_total", counts.batches, label="committed")
        bring("tracker_ship_batches_total", counts.retries, label="retried")
        bring("tracker_ship_batches_total", counts.ambiguous_commits, label="ambiguous")

    def each_second(self, *, ready: bool) -> None:
        """Gauges, and the counters nobody would miss a second of."""
        self.rows_shipped()
        page, bring, clicks, journal = self._page, self._totals.bring, self._spool.clicks, self._spool.journal
        page.set("tracker_ready", ready)
        page.set("tracker_connections", len(self._lanes.open))
        page.set("tracker_spool_pending_records", clicks.next_seq - self._shipper.next_seq)
        page.set("tracker_dead_spool_records", self._dead.pending_rows)
        page.set("tracker_spool_unsynced_seconds", max(clicks.unsynced_seconds(), journal.unsynced_seconds()))
        for log in (clicks, journal):
            while log.sync_seconds:
                page.observe("tracker_spool_sync_duration_seconds", log.sync_seconds.popleft())
        page.set("tracker_spool_bytes", clicks.file_bytes + journal.file_bytes)
        page.set("tracker_spool_healthy", self._spool.healthy)
        page.set("tracker_spools_held", self._shipper.counts.held)
        page.set("tracker_dead_spools", self._dead.waiting)
        page.set("tracker_ship_delay_seconds", self._shipper.oldest_age_seconds(time.time()))
        page.set("tracker_locked_conversions", self._recorder.counts.held)
        page.set("tracker_catalog_links", len(self._catalog.rows["links"]))
        page.set("tracker_catalog_refresh_timestamp_seconds", self._catalog.loaded_at)
        page.set("tracker_database_up", not self._catalog.database_away)
        bring("tracker_spool_errors_total", clicks.write_errors + journal.write_errors, label="write")
        bring("tracker_spool_errors_total", clicks.fsync_errors + journal.fsync_errors, label="fsync")
        bring("tracker_clicks_missed_total", self._misses.unknown, label="unknown")
        bring("tracker_clicks_missed_total", self._misses.closed, label="closed")
        groups = self._recorder.counts
        bring("tracker_postback_groups_total", groups.groups, label="committed")
        bring("tracker_postback_groups_total", groups.retries, label="retried")
        bring("tracker_postback_groups_total", groups.ambiguous_commits, label="ambiguous")
        bring("tracker_postbacks_quarantined_total", self._recorder.counts.quarantined)
        bring("tracker_postbacks_unjournalled_total", self._unjournalled.messages)
        bring("tracker_connections_refused_total", self._lanes.refused)
