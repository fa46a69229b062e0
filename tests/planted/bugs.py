"""The bugs that test_planted_bugs.py plants: each a mistake that somebody in this trade has shipped (RELIABILITY section 1).

An edit replaces a text that stands once in its file, as short as it can be while it stands once. When a file changes so that
it no longer does, the test says so, and the mistake is written anew for what stands there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, NamedTuple


class Edit(NamedTuple):
    file: str
    old: str
    new: str


@dataclass(frozen=True, slots=True)
class Bug:
    """`tests` must each fail, saying `says` (a regular expression): else they are red for another reason than the bug.

    `quick` ones run in CI, all in `nightly`.
    """

    name: str
    mistake: str
    edits: tuple[Edit, ...]
    tests: tuple[str, ...]
    says: str = "assert"
    quick: bool = False


ACK: Final = "tests/faults/test_ack_rule.py"
DISK: Final = "tests/faults/test_spool_disk.py"
CLAIMS: Final = "tests/faults/test_claims.py"
SPOOL_FAULTS: Final = "tests/property/test_spool_faults.py"
LANE_SPOOL: Final = "tests/integration/test_lane_spool.py"
SHIPPER_TESTS: Final = "tests/integration/test_shipper.py"
ADVERSITY: Final = "tests/integration/test_shipper_adversity.py"
RECORDER_TESTS: Final = "tests/integration/test_recorder.py"
ORDER: Final = "tests/property/test_order.py"
EDGES_MACHINE: Final = "tests/faults/test_matching_on_postgres.py"
MACHINE: Final = "tests/property/test_matching_machine.py"
SECRETS: Final = "tests/unit/test_constant_time.py"
OUTBOX_CLIENT: Final = "tests/integration/test_outbox_client.py"

CLICK_STORE: Final = "tracker/storage/clicks/store.py"
STORE: Final = "tracker/storage/conversions/store.py"
CURSOR: Final = "tracker/storage/spool/cursor.py"

# Texts that more than one edit speaks of.
PLAIN_END: Final = "    await cursor.commit(connection)\n    return Stored(batch.first_seq + len(batch), stored=len(batch))"
PLAIN_ADVANCE: Final = "    await cursor.advance(connection, batch.first_seq, stored=len(batch))\n"
CLAIMING: Final = "await connection.fetch(sql.CLAIM, *columns((key_parts(keys[id_]) for id_ in there), 6))"

BUGS: Final = (
    # Ack before write
    Bug(
        "answer before the write", "the redirect leaves before its row is written",
        (Edit("tracker/web/desk.py", "self.redirector.commit()",
              "_deliver(answers)\n            answers = []\n            self.redirector.commit()"),),
        (f"{ACK}::test_no_answer_leaves_when_the_write_does_not_return",), "acknowledged, and not written",
        quick=True,
    ),
    Bug(
        "answer before the sync", "with TRACKER_SYNC=always the redirect leaves before the disk has its row",
        (Edit("tracker/web/desk.py", "await sync()", "_deliver(answers)\n                    answers = []\n"
              "                    await sync()"),),
        (f"{LANE_SPOOL}::test_in_mode_always_no_answer_leaves_before_its_sync",
         f"{LANE_SPOOL}::test_in_mode_always_answers_keep_their_order"), "closed, or an answer",
    ),
    Bug(
        "a short write is a write", "an append counts though only part of the frame was written",
        (Edit("tracker/storage/spool/fsops.py", "if count == len(rest):", "if count:"),),
        (f"{SPOOL_FAULTS}::test_short_and_interrupted_writes_are_finished",),
    ),
    Bug(
        "queued before the sync", "a postback is called kept while it is in memory only",
        (Edit("tracker/web/postback_keeping.py", "await self._journal.sync()", "await asyncio.sleep(0)"),),
        ("tests/integration/test_postback_door.py::test_while_postgres_is_away_messages_are_queued_and_synced[aiohttp-18]",
         "tests/integration/test_postback_door.py::test_a_journal_that_cannot_be_synced_promises_nothing[aiohttp-18]"),
    ),
    Bug(
        "fsync tried again", "after an fsync error the same file is synced again and believed",
        (Edit("tracker/storage/spool/log.py", "                self._distrust()\n                error", "                error"),),
        ("tests/property/test_spool_crash_points.py::test_a_crash_between_any_two_operations_keeps_every_promise[failing_sync]",),
        "lost", quick=True,
    ),
    Bug(
        "fsync tried again, under a tracker", "after an fsync error the same file is synced again and believed",
        (Edit("tracker/storage/spool/log.py", "                self._distrust()\n                error",
              "                self.fsync_errors += 1\n                error"),),
        (f"{DISK}::test_a_sync_that_fails_once_and_drops_its_pages_loses_no_acknowledged_click[18-50ms]",),
        "acknowledged, but no row",
    ),
    Bug(
        "lost clicks look kept", "ids do not say that the spool cannot be written",
        (Edit("tracker/app/edge.py", "return self._log.healthy", "return True"),),
        (f"{DISK}::test_a_disk_that_takes_nothing_stops_no_visitor_and_loses_no_sale[18-full]",), "only the first",
    ),
    Bug(
        "memory is no copy", "rows that the writer will write again are counted as lost",
        (Edit("tracker/storage/spool/log.py", "return self.synced_seq if self._durable else self.next_seq",
              "return self.next_seq"),),
        (f"{DISK}::test_a_disk_that_takes_nothing_stops_no_visitor_and_loses_no_sale[18-broken]",
         "tests/property/test_spool_damage.py::test_what_is_still_in_memory_is_no_gap_though_its_file_reads_as_zeros"),
    ),
    # Cursor outside the transaction
    Bug(
        "cursor before its rows", "the mark is committed, then the rows",
        (Edit(CLICK_STORE, PLAIN_ADVANCE,
              PLAIN_ADVANCE + '    await connection.execute("COMMIT")\n    await connection.execute("BEGIN")\n'),),
        (f"{ADVERSITY}::test_a_commit_whose_answer_is_lost_is_not_repeated[18]",), quick=True,
    ),
    Bug(
        "rows before their cursor", "the rows are committed, then the mark",
        (Edit(CLICK_STORE, PLAIN_ADVANCE, ""),
         Edit(CLICK_STORE, PLAIN_END,
              '    await connection.execute("COMMIT")\n    await connection.execute("BEGIN")\n' + PLAIN_ADVANCE + PLAIN_END)),
        (f"{ADVERSITY}::test_a_zombie_that_commits_late_stores_nothing_twice[18]",),
    ),
    Bug(
        "no FOR UPDATE", "the mark is read without its lock, and moved from wherever it is",
        (Edit(CURSOR, '"SELECT next_seq FROM spool_cursors WHERE spool_id = $1 AND log = $2 FOR UPDATE"',
              '"SELECT next_seq FROM spool_cursors WHERE spool_id = $1 AND log = $2"'),
         Edit(CURSOR, "AND next_seq = $3 AND writer_pid = pg_backend_pid() AND writer_start = $4\n\"\"\"\n_TOUCH",
              "AND $3::bigint >= 0 AND writer_pid = pg_backend_pid() AND writer_start = $4\n\"\"\"\n_TOUCH")),
        (f"{CLAIMS}::test_a_mark_is_read_after_the_commit_that_was_still_on_its_way",),
    ),
    Bug(
        "journal's cursor before its messages", "a journal's mark is committed, then what its messages come to",
        (Edit("tracker/storage/conversions/transaction.py",
              "            await self._mark.write(self.connection, self._messages, writes)",
              "            await self._mark.write(self.connection, self._messages, ())\n"
              "            await execute_together(self.connection, *writes)"),),
        (f"{RECORDER_TESTS}::test_a_connection_cut_anywhere_in_the_exchange_records_each_once[small-18]",),
    ),
    # Decide before claim
    Bug(
        "decide before claim", "a group reads and decides, and only then claims its keys",
        (Edit(STORE, "rows = " + CLAIMING,
              'rows = await connection.fetch("SELECT * FROM conversion_state WHERE conversion_id = ANY($1::uuid[])",\n'
              "                                  [UUID(bytes=id_) for id_ in keys])"),
         Edit(STORE, "    return await _decide(subjects, before, facts)\n",
              f"    decided = await _decide(subjects, before, facts)\n    if there:\n        {CLAIMING}\n    return decided\n")),
        (f"{CLAIMS}::test_a_decision_is_made_from_what_the_claim_found",), "reversed", quick=True,
    ),
    Bug(
        "decided before its elder", "a sale's second message is decided while its first one is still being committed",
        (Edit("tracker/storage/conversions/recorder.py", "if rough_key(message) in keys or (limited", "if (limited"),),
        ("tests/integration/test_look_ahead.py::test_a_message_whose_key_is_under_way_is_read_after_it",), "pending_click",
    ),
    Bug(
        "a locked key's messages go ahead", "when one of them is at fault, those behind the lock are tried one by one",
        (Edit("tracker/storage/conversions/group_commit.py", "if key in locked:", "if False:"),),
        (f"{RECORDER_TESTS}::test_messages_of_a_locked_key_keep_their_order_when_one_of_them_is_at_fault",), "TimeoutError",
    ),
    # Unlink before commit
    Bug(
        "confirmed before the commit", "segments count as shipped when they are sent",
        (Edit("tracker/storage/clicks/shipper.py", "        stored = await self._store(connection, found",
              "        self._confirmed(found.next_seq)\n        stored = await self._store(connection, found"),),
        ("tests/faults/test_unlink_after_commit.py::test_a_segment_stays_while_the_commit_of_its_rows_is_in_doubt",),
        "unlinked before its rows were committed",
    ),
    Bug(
        "unlink before commit", "a segment goes when its time is over, shipped or not",
        (Edit("tracker/storage/spool/log.py",
              "if segment.fd >= 0 or max(segment.end_seq, successor.first_seq) > self.confirmed_seq:", "if segment.fd >= 0:"),),
        (f"{SPOOL_FAULTS}::test_shipped_segments_are_kept_for_their_time_from_the_day_they_were_shipped",
         f"{SPOOL_FAULTS}::test_segments_that_postgres_lost_again_are_kept_however_scarce_space_is"), quick=True,
    ),
    Bug(
        "a dead spool removed unshipped", "a directory is deleted without a look at what PostgreSQL has of it",
        (Edit("tracker/storage/spool/dead_spool.py", "if reader.end_seq() > cursor:", "if reader.end_seq() < 0:"),),
        ("tests/unit/test_spool_directories.py::test_both_logs_come_back_from_a_dead_spool_and_only_then_may_it_be_removed",),
        "DID NOT RAISE",
    ),
    # Float money
    Bug(
        "float money", "a commission is computed in binary fractions",
        (Edit("tracker/domain/money.py", "return _CONTEXT.multiply(amount, rate).scaleb(-2, context=_CONTEXT)",
              "return Decimal(float(amount) * float(rate) / 100)"),),
        ("tests/unit/test_money.py::test_percentages_are_exact_whatever_the_process_wide_context_says",), quick=True,
    ),
    Bug(
        "float amounts", "an amount goes through a float on its way in",
        (Edit("tracker/domain/money.py", "        return Decimal(text)\n", "        return Decimal(float(text))\n"),),
        ("tests/unit/test_money.py::test_plain_decimals_are_amounts",),
    ),
    # Requests to strangers
    Bug(
        "any address", "a partner's URL is resolved and connected to, wherever that is",
        (Edit("tracker/jobs/outbox_client.py",
              "if not all(may_reach(address, port, self._allowed) for address in addresses):", "if not addresses:"),),
        (f"{OUTBOX_CLIENT}::test_a_name_with_one_address_that_may_not_be_reached_is_refused_before_anything_is_sent",
         f"{OUTBOX_CLIENT}::test_a_name_that_changes_its_mind_is_asked_once_and_the_judged_address_is_the_connected_one"),
        quick=True,
    ),
    Bug(
        "redirects followed", "a partner's server may send us on, to where no check looks",
        (Edit("tracker/jobs/outbox_client.py", "allow_redirects=False", "allow_redirects=True"),),
        (f"{OUTBOX_CLIENT}::test_a_redirect_into_our_network_is_not_followed",),
    ),
    Bug(
        "read to the end", "a partner's answer is read as long as it comes",
        (Edit("tracker/jobs/outbox_client.py", "if read > ANSWER_BYTES:", "if read < 0:"),),
        (f"{OUTBOX_CLIENT}::test_an_endless_answer_is_cut",),
    ),
    Bug(
        "told again and again", "a partner hears of each message, news or not",
        (Edit("tracker/domain/outgoing.py", "if now is not None and now != was:", "if now is not None:"),),
        ("tests/integration/test_outbox.py::test_only_what_changes_for_the_partner_is_news",),
    ),
    # == on tokens
    Bug(
        "== on tokens", "secrets are compared byte by byte, as far as they agree",
        (Edit("tracker/domain/click_id.py", "not hmac.compare_digest(blake2b(head, key=key, digest_size=5).digest(), mac)",
              "blake2b(head, key=key, digest_size=5).digest() != mac"),
         Edit("tracker/web/postback_auth.py", "hmac.compare_digest(made.encode(), shown)", "made.encode() == shown"),
         Edit("tracker/storage/catalog/memory.py", "hmac.compare_digest(kept, digest)", "kept == digest"),
         Edit("tracker/web/admin.py", "not hmac.compare_digest(given, self._token)", "given != self._token")),
        (f"{SECRETS}::test_the_mac_of_a_click_id", f"{SECRETS}::test_the_signature_of_a_postback",
         f"{SECRETS}::test_the_token_of_a_postback", f"{SECRETS}::test_the_admin_token"), "assert|not enough values", quick=True,
    ),
    # "No partition" taken for poison
    Bug(
        "no partition taken for poison", "a row whose day has no partition is called a bad row",
        (Edit("tracker/storage/clicks/copy_errors.py", "return Fault.NO_PARTITION", "return Fault.POISON"),),
        ("tests/unit/test_copy_errors.py::test_a_check_is_poison_by_name_and_a_missing_partition_without",), quick=True,
    ),
    Bug(
        "strays quarantined", "a row whose day has no partition is put aside as a bad row",
        (Edit("tracker/storage/clicks/copy_errors.py", "return Fault.NO_PARTITION", "return Fault.POISON"),
         Edit(CLICK_STORE, 'homes["clicks" if covers(bounds, click_id) else "clicks_stray"]', 'homes["clicks"]')),
        (f"{SHIPPER_TESTS}::test_rows_without_a_partition_become_strays[18]",
         "tests/faults/test_no_partition.py::test_clicks_of_a_day_without_a_partition[18]"),
    ),
    # Statuses ordered by arrival
    Bug(
        "statuses by arrival", "the status that arrived last is the status",
        (Edit("tracker/domain/conversion.py", "untimed = _highest(untimed, message.status)", "untimed = message.status"),),
        (f"{ORDER}::test_every_small_history_ends_the_same_in_every_order",), quick=True,
    ),
    Bug(
        "timed statuses by arrival", "of two statuses with a time the one that arrived last counts, not the later one",
        (Edit("tracker/domain/conversion.py", "timed = _highest(timed, Timed(message.ts_ms, message.status))",
              "timed = Timed(message.ts_ms, message.status)"),),
        (f"{ORDER}::test_every_small_history_ends_the_same_in_every_order",
         f"{ORDER}::test_any_order_and_repetition_of_agreeing_messages_ends_the_same",
         f"{MACHINE}::test_whatever_happens_the_books_are_the_oracles[250-25]"),
    ),
    Bug(
        "what waited is recorded backwards", "of two sales that waited for their click the later one is recorded first",
        (Edit("tracker/storage/conversions/sql.py", "ORDER BY inserted_at, message_id LIMIT $2",
              "ORDER BY inserted_at DESC, message_id DESC LIMIT $2"),),
        (f"{EDGES_MACHINE}::test_whatever_happens_to_edges_and_journals_the_books_are_the_oracles[18-30-12]",),
    ),
    # More rows of the fault matrix
    Bug(
        "damage is believed", "a frame's checksum is not looked at",
        (Edit("tracker/storage/spool/frame_window.py", "if frame_is_whole(self._view, at):", "if True:"),),
        ("tests/property/test_spool.py::test_a_flipped_bit_costs_its_own_frame_and_no_other",), "assert|Error",
    ),
    Bug(
        "one header", "a segment's second header is never read",
        (Edit("tracker/storage/spool/segments.py",
              " or _parse_header_copy(data[HEADER_SLOT_BYTES:DATA_START])", ""),),
        ("tests/property/test_spool.py::test_a_flipped_bit_of_one_header_costs_nothing",),
    ),
    Bug(
        "no lock", "a spool that somebody else has locked is taken all the same",
        (Edit("tracker/storage/spool/fsops.py", "        except BlockingIOError:\n            return False",
              "        except BlockingIOError:\n            return True"),),
        ("tests/unit/test_spool_directories.py::test_a_spool_is_taken_by_one_process_at_a_time",
         "tests/faults/test_two_shippers.py::test_who_comes_second_leaves_a_spool_to_who_ships_it"),
    ),
    Bug(
        "time goes back", "ids take the clock's word for the time",
        (Edit("tracker/domain/click_id.py", "if now_ms > self._last_ms:", "if now_ms != self._last_ms:"),),
        ("tests/faults/test_clock.py::test_clock_steps_under_load_make_no_id_twice_and_lose_nothing",
         "tests/property/test_click_id_property.py::test_no_id_twice_over_starts_crashes_and_clock_steps"),
    ),
    Bug(
        "the last amount counts", "what differs from what was recorded changes it",
        (Edit("tracker/domain/conversion.py", "    if differs := _conflict(base, message):\n", "    if differs := \"\":\n"),
         Edit("tracker/domain/conversion.py", "    if amount is None and message.amount is not None:",
              "    if message.amount is not None:")),
        ("tests/faults/test_same_sale.py::test_another_amount_is_told_at_the_door_and_changes_nothing",
         f"{RECORDER_TESTS}::test_a_conflict_changes_nothing_and_waits_for_a_person[usual-18]",
         f"{MACHINE}::test_whatever_happens_the_books_are_the_oracles[250-25]"),
    ),
    # Rows of the fault matrix that none of the above belongs to, in its order
    Bug(
        "rows wait in memory", "a row is written some time after its answer",
        (Edit("tracker/web/redirect.py", "self._log.append(rows)",
              '__import__("asyncio").get_running_loop().call_later(0.2, self._log.append, rows)'),),
        ("tests/faults/test_kill_nine.py::test_of_a_worker_at_random_times[18-1]",), "acknowledged, but no row",
    ),
    Bug(
        "cursor before its rows, killed in between", "the mark is committed, then the rows",
        (Edit(CLICK_STORE, PLAIN_ADVANCE,
              PLAIN_ADVANCE + '    await connection.execute("COMMIT")\n    await connection.execute("BEGIN")\n'),),
        ("tests/faults/test_kill_nine.py::test_of_everything_during_the_replay[18-2]",), "acknowledged, but no row",
    ),
    Bug(
        "doors close without a word", "an ending worker does not tell clients to go elsewhere, and closes their connections",
        (Edit("tracker/app/edge.py", "self._lanes.drain()", "pass"),),
        ("tests/e2e/test_clicks_survive.py::test_sigterm_fails_no_request_and_leaves_an_empty_spool[18-0.0]",), "unanswered_reused",
    ),
    Bug(
        "an end that waits for PostgreSQL", "an ending worker waits until everything is shipped, however long that is",
        (Edit("tracker/app/edge.py", "self._shipper.drain(STORE_SECONDS)", "self._shipper.drain(1e6)"),),
        ("tests/e2e/test_clicks_survive.py::test_sigterm_while_postgres_is_away_leaves_all_to_the_next_start[18]",),
    ),
    Bug(
        "a sender waits for PostgreSQL", "a postback is answered when it is committed, and not before",
        (Edit("tracker/web/postback_keeping.py", "call_at(give_up_at, frame.give_up)", "call_later(60, frame.give_up)"),),
        ("tests/faults/test_postgres_away.py::test_stopped_at_once_and_started_again[18-2.0]",
         "tests/faults/test_postgres_away.py::test_hung_and_continued[18-2.0]",
         "tests/faults/test_postgres_unwilling.py::test_a_lock_on_clicks_piles_nothing_up[18-2.0]",
         "tests/faults/test_postgres_unwilling.py::test_its_disk_is_full[18-2.0]"), "postback: TimeoutError",
    ),
    Bug(
        "an edge believes itself", "a mark that went back is set to where the edge had been",
        (Edit("tracker/storage/clicks/shipper.py", "            self._confirmed(self._flushed_seq)\n",
              "            moved = 'UPDATE spool_cursors SET rows_stored = rows_stored + $1 - next_seq, next_seq = $1'\n"
              "            where = \" WHERE spool_id = $2 AND log = 'clicks'\"\n"
              "            await connection.execute(moved + where, self._next_seq, self._cursor.spool_id)\n"
              "            next_seq = self._next_seq\n"),),
        ("tests/faults/test_postgres_replaced.py::test_failover_to_a_replica_that_lags[18-2.0]",),
        "every sale is decided|acknowledged, but no row",
    ),
    Bug(
        "no pause between tries", "a shipper that cannot connect tries again at once",
        (Edit("tracker/storage/clicks/shipper.py", "await self._pause(backoff * random.uniform(0.5, 1.0))",
              "await self._pause(0.0)"),),
        ("tests/faults/test_postgres_unwilling.py::test_no_connection_is_left[18-2.0]",), "MOST_TRIES_A_SECOND",
    ),
    Bug(
        "keys of the month", "the same order number of another month is another sale",
        (Edit("tracker/domain/conversion_id.py", 'if several_per_key else ""',
              "if several_per_key else str(message.received_ms >> 32)"),),
        ("tests/faults/test_same_sale.py::test_a_retry_three_months_later_is_not_paid_again",), "'duplicate' == 'pending_click'",
    ),
    Bug(
        "ids on trust", "a click id is taken apart and believed",
        (Edit("tracker/domain/click_id.py", "not hmac.compare_digest(blake2b(head, key=key, digest_size=5).digest(), mac)",
              "mac is None"),),
        ("tests/e2e/test_money_owed.py::test_a_forged_click_id_is_refused_without_a_query[18]",), "bad_click_id",
    ),
    Bug(
        "signatures for ever", "a signature is good whenever it comes",
        (Edit("tracker/web/postback_auth.py", "now_ms // 1000) > TOLERANCE_SECONDS", "now_ms // 1000) > 10**12"),),
        ("tests/integration/test_postback_door.py::test_signed_postbacks_are_believed_for_five_minutes_under_either_secret[aiohttp-18]",),
        "expired",
    ),
    Bug(
        "negative amounts", "an amount may have a sign",
        (Edit("tracker/domain/money.py", '_PLAIN_DECIMAL: Final = re.compile(r"[0-9]',
              '_PLAIN_DECIMAL: Final = re.compile(r"-?[0-9]'),),
        ("tests/unit/test_postback_message.py::test_what_cannot_be_believed_is_refused_by_name",), "DID NOT RAISE", quick=True,
    ),
    Bug(
        "NUL is text", "what PostgreSQL takes in no text is kept in a row",
        (Edit("tracker/domain/text.py", '.replace("\\0", "\\ufffd")', ""),),
        ("tests/property/test_link_property.py::test_any_query_becomes_storable",),
    ),
    Bug(
        "line ends are safe", "what fills a macro keeps its CR and LF",
        (Edit("tracker/domain/link.py", 'quote_from_bytes(value, safe="")', 'quote_from_bytes(value, safe="\\r\\n")'),),
        ("tests/faults/test_hostile_words.py::test_whatever_visitors_say_they_arrive_where_the_link_leads[18]",),
    ),
    Bug(
        "user names in destinations", "https://shop.example@evil.example/ is saved",
        (Edit("tracker/domain/link.py", 'if "@" in authority:', "if not authority:"),
         Edit("tracker/domain/link.py", "(?:[A-Za-z0-9._-]*[A-Za-z0-9])?|", "(?:[A-Za-z0-9@._-]*[A-Za-z0-9])?|")),
        ("tests/property/test_link_property.py::test_a_bad_template_is_refused_with_the_position",), "DID NOT RAISE", quick=True,
    ),
    Bug(
        "heads without a limit", "an unfinished head is held whatever its length",
        (Edit("tracker/web/framing.py", "HEAD_LIMIT = 16_384", "HEAD_LIMIT = 1 << 30"),
         Edit("tracker/web/fastlane.py", "if len(self._held) > HELD_LIMIT", "if not self._held")),
        ("tests/faults/test_refused_heads.py::test_heads_beyond_their_limits_cost_an_answer_and_no_memory[18]",),
    ),
    Bug(
        "answers overtake", "what aiohttp answers may leave before the clicks in front of it",
        (Edit("tracker/web/fastlane.py", "            if self._unanswered:\n                return self._hold(data[start:])",
              "            if False:\n                return self._hold(data[start:])"),),
        ("tests/integration/test_lane_connections.py::test_ten_thousand_pipelined_requests_are_answered_in_order",
         "tests/faults/test_bounded_connections.py::test_ten_thousand_pipelined_requests_are_answered_in_order[18]"),
    ),
    Bug(
        "silence alone is slow", "an unfinished head has ten seconds from its last byte, not from its first",
        (Edit("tracker/web/fastlane.py", "return tick - self._since > DEADLINE_SECONDS",
              "return tick - self._active > DEADLINE_SECONDS"),),
        ("tests/integration/test_lane_connections.py::test_a_head_has_ten_seconds_however_many_bytes_come",), "timed out",
    ),
    Bug(
        "chunks are requests", "a chunked body is framed as if there were none: what it holds is the next request",
        (Edit("tracker/web/framing.py", 'frozenset((b"transfer-encoding", b"upgrade"', 'frozenset((b"upgrade"'),),
        ("tests/integration/test_lanes.py::test_both_lanes_answer_and_store_alike[chunked, then clicks]",
         "tests/integration/test_lanes.py::test_a_request_is_answered_as_the_corpus_says[chunked, then clicks]"),
        "assert|timed out",
    ),
    Bug(
        "looking ahead is buying", "a page that a browser only fetched beforehand reports its sale",
        (Edit("tracker/web/postback.py", "raise Refused(Reason.PREFETCH)", "pass"),),
        ("tests/integration/test_postback_http.py::test_a_prefetch_never_converts",),
    ),
    Bug(
        "labels of anybody's making", "a label's value that is none of ours is counted all the same",
        (Edit("tracker/metrics.py", "family.values.index(value) if value else 0",
              "family.values.index(value) if value in family.values else 0"),),
        ("tests/unit/test_metrics.py::test_no_input_can_make_a_new_series",), "DID NOT RAISE",
    ),
    Bug(
        "half a character in a log", "a line of the log holds what strict parsers refuse",
        (Edit("tracker/logs.py", 'str(value).encode(errors="backslashreplace").decode()', "str(value)"),),
        ("tests/unit/test_logs.py::test_any_text_makes_one_line_that_every_parser_reads",), "Error", quick=True,
    ),
    Bug(
        "connections without a limit", "strangers may take every descriptor there is",
        (Edit("tracker/app/edge.py", "connection_limit=min(CONNECTION_LIMIT, descriptors - KEPT_DESCRIPTORS)",
              "connection_limit=1 << 30"),),
        ("tests/faults/test_scarce_machine.py::test_strangers_may_take_every_connection_and_no_descriptor_of_the_spool[18]",),
    ),
    # One stranger and all others
    Bug(
        "two hands on one tap", "aiohttp reads on though the lane has stopped reading",
        (Edit("tracker/web/http_side.py", "        self.lane.http_reads(True)\n",
              "        self.lane.http_reads(True)\n        self.transport.resume_reading()\n"),),
        ("tests/integration/test_lane_connections.py::test_a_flood_of_bodies_behind_a_waiting_request_is_not_read_on_by_mistake",),
        "read all the time",
    ),
)
