"""What an edge knows: rows in, indexes out."""

import asyncio
import os
from pathlib import Path
from typing import Any, cast

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracker.domain.program import coupon_key
from tracker.storage.catalog import links as catalog_links
from tracker.storage.catalog import snapshot as catalog_snapshot
from tracker.storage.catalog.memory import CatalogMemory

PROGRAM: list[Any] = [1, "shop", "Shop", "EUR", "token", ["203.0.113.0/24"], False, 1000]
PARTNER: list[Any] = [2, "anna", "Anna"]


def link_row(number: int, slug: str, destination: str = "https://shop.example/?cid={click_id}") -> list[Any]:
    return [number, slug, 1, 2, "shop", "anna", 1, destination, None, None, False, "origin", False, "active", None]


def test_a_row_that_is_known_is_no_news() -> None:
    memory = CatalogMemory()
    assert memory.put("links", link_row(1, "one"))
    compiled = memory.links.get(b"one")
    assert compiled is not None
    assert not memory.put("links", tuple(link_row(1, "one")))
    assert compiled is memory.links.get(b"one")


def test_the_dictionaries_the_hot_path_holds_are_never_replaced() -> None:
    memory = CatalogMemory()
    links = memory.links
    memory.put("links", link_row(1, "one"))
    memory.drop("links", 1)
    memory.put("links", link_row(2, "two"))
    assert links.get(b"one") is None
    assert links.get(b"two") is memory.links.numbered(2) is links[b"two"]


@pytest.mark.parametrize(
    ("kind", "row"),
    [
        ("links", [1, None, *link_row(1, "one")[2:]]),
        ("links", [1]),
        ("programs", [1, "shop", "Shop", "EUR", "token", ["not a network"], False, 1000]),
        ("credentials", [1, "token", [1], "not hex", None, False]),
        ("coupons", [1, 1, 2, None, 0, None]),
    ],
)
def test_a_row_that_makes_no_sense_is_left_out_and_remembered(kind: Any, row: list[Any]) -> None:
    memory = CatalogMemory()
    assert not memory.put(kind, row)
    assert {(kind, 1)} == memory.bad_rows
    assert {} == memory.rows[kind]


@pytest.mark.parametrize("row", [link_row(1, "one", "https://{sub1}.example/"), link_row(1, "one")[:-1]])
def test_a_link_that_does_not_compile_is_none_from_the_first_time_it_is_asked_for(
    row: list[Any], caplog: pytest.LogCaptureFixture
) -> None:
    memory = CatalogMemory()
    memory.put("links", row)
    for _ in range(2):
        assert memory.links.get(b"one") is memory.links.numbered(1) is None
        memory.put("links", row)
    assert {("links", 1)} == memory.bad_rows
    assert 1 == caplog.text.count("row 1 of links is left out")
    memory.put("links", link_row(1, "one"))
    assert set() == memory.bad_rows
    assert memory.links.get(b"one") is not None


def test_a_link_in_use_that_is_changed_to_nonsense_stays_what_it_was() -> None:
    memory = CatalogMemory()
    memory.put("links", link_row(1, "one"))
    assert not memory.put("links", link_row(1, "two", "https://{sub1}.example/"))
    assert {("links", 1)} == memory.bad_rows
    assert memory.links.get(b"two") is None
    assert memory.links.get(b"one") is memory.links.numbered(1) is not None


def test_the_oldest_compiled_links_are_forgotten_and_compiled_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalog_links, "COMPILED_LIMIT", 2)
    memory = CatalogMemory()
    for number in (1, 2, 3):
        memory.put("links", link_row(number, f"l{number}"))
    first = memory.links.get(b"l1")
    for number in (2, 3):
        assert memory.links.numbered(number) is memory.links[b"l%d" % number]
    assert {b"l2", b"l3"} == set(memory.links)
    again = memory.links.get(b"l1")
    assert first == again
    assert first is not again
    assert {b"l3", b"l1"} == set(memory.links)


def test_a_revoked_credential_opens_nothing() -> None:
    memory = CatalogMemory()
    digest = "2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b"   # SHA-256 of "secret"
    memory.put("credentials", [5, "token", [1], digest, None, False])
    assert memory.credential_of_token(b"secret") is not None
    memory.put("credentials", [5, "token", [1], digest, None, True])
    assert memory.credential_of_token(b"secret") is None
    memory.put("credentials", [6, "hmac", [1, 3], None, "00" * 32, False])
    memory.put("credentials", [7, "hmac", [1], None, "11" * 32, False])
    assert [6, 7] == [one.credential_id for one in memory.hmac_credentials(1)]
    memory.put("credentials", [6, "hmac", [3], None, "00" * 32, False])
    assert [7] == [one.credential_id for one in memory.hmac_credentials(1)]
    assert [6] == [one.credential_id for one in memory.hmac_credentials(3)]


changes = st.lists(
    st.one_of(
        st.tuples(st.just("links"), st.builds(link_row, st.integers(1, 4), st.sampled_from("abcd"))),
        st.tuples(st.just("coupons"), st.tuples(st.integers(1, 4), st.just(1), st.just(2), st.sampled_from("aAbB"),
                                                st.integers(0, 3), st.none()).map(list)),
        st.tuples(st.just("credentials"), st.tuples(st.integers(1, 3), st.just("hmac"), st.lists(st.integers(1, 3)),
                                                    st.none(), st.just("00" * 16), st.booleans()).map(list)),
        st.tuples(st.just("click"), st.sampled_from([b"a", b"b", b"c", b"d"])),
        st.tuples(st.just("sale"), st.integers(1, 4)),
        st.tuples(st.just("drop"), st.tuples(st.sampled_from(["links", "coupons", "credentials"]), st.integers(1, 4))),
    ),
    max_size=30,
)  # fmt: skip


@given(changes)
def test_indexes_agree_with_the_rows_after_any_changes(made: list[tuple[str, Any]]) -> None:
    """A stale entry would redirect to what was, or let a revoked sender in."""
    memory = CatalogMemory()
    for kind, what in made:
        if kind == "drop":
            memory.drop(*what)
        elif kind == "click":
            memory.links.get(what)
        elif kind == "sale":
            memory.links.numbered(what)
        else:
            memory.put(cast("Any", kind), what)
    by_slug = {slug: link for slug in (b"a", b"b", b"c", b"d") if (link := memory.links.get(slug)) is not None}
    assert by_slug == memory.links       # a stale entry there is what the compiled clerk would redirect by
    for slug, link in by_slug.items():
        assert slug == link.slug.encode()
        assert link is memory.links.numbered(link.link_id)
    for number in range(1, 5):
        found = memory.links.numbered(number)
        assert (number in memory.rows["links"]) is (found is not None)
        if found is not None:
            assert (number, found.slug) == tuple(orjson.loads(memory.rows["links"][number])[:2])
    for (program_id, key), coupon in memory.coupons.items():
        assert (program_id, key) == (coupon.program_id, coupon_key(coupon.code))
        assert coupon.coupon_id in memory.rows["coupons"]
    for program_id in (1, 2, 3):
        expected = {number for number, one in memory.credentials.items() if program_id in one.program_ids}
        assert expected == {one.credential_id for one in memory.hmac_credentials(program_id)}


@given(st.binary(max_size=200), st.integers(0, 10**6))
def test_no_harm_to_a_snapshot_is_believed(tmp_path_factory: pytest.TempPathFactory, junk: bytes, at: int) -> None:
    """Whatever a disk makes of the file, it is read whole or not at all."""
    folder: Path = tmp_path_factory.mktemp("snapshot")
    memory = CatalogMemory()
    memory.put("programs", PROGRAM)
    memory.put("partners", PARTNER)
    for number in range(1, 20):
        memory.put("links", link_row(number, f"l{number}"))
    asyncio.run(catalog_snapshot.write(folder, memory))
    place = folder / catalog_snapshot.NAME
    whole = place.read_bytes()
    harmed = whole[: at % len(whole)] + junk + whole[at % len(whole) + len(junk) :]
    place.write_bytes(harmed)
    again = CatalogMemory()
    try:
        asyncio.run(catalog_snapshot.read(folder, again))
    except catalog_snapshot.BadSnapshotError:
        assert {} == again.rows["links"]
    else:
        assert harmed == whole
        assert memory.rows == again.rows


def test_what_killed_writers_left_is_removed_and_what_living_ones_write_is_not(tmp_path: Path) -> None:
    old = tmp_path / f"{catalog_snapshot.NAME}.0.tmp"
    young = tmp_path / f"{catalog_snapshot.NAME}.1.tmp"
    for place in (old, young):
        place.touch()
    os.utime(old, (0, 0))
    asyncio.run(catalog_snapshot.write(tmp_path, CatalogMemory()))
    assert {catalog_snapshot.NAME, young.name} == {place.name for place in tmp_path.iterdir()}
