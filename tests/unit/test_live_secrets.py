"""Secrets taken anew from their files: only whole ones, only usable ones, and ids stay unique."""

import base64
from pathlib import Path

import pytest

from tracker.app.live_secrets import LiveKeys, SecretFile
from tracker.domain.click_id import BadClickId, Keyring, uuid_time_ms
from tracker.settings import Settings

SECRETS = {number: bytes([number]) * 32 for number in (1, 2, 3)}


def keys(*numbers: int) -> str:
    return ",".join(f"{number}:{base64.b64encode(SECRETS[number]).decode()}" for number in numbers)


def settings_of(file: Path) -> Settings:
    return Settings.read({"TRACKER_SECRET_KEYS_FILE": str(file)}, role="tool")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    made = tmp_path / "keys"
    made.write_text(keys(1))
    return made


def test_what_is_being_written_is_not_taken(file: Path) -> None:
    """The first half of a list of keys is a list of keys: with it, every id under the others would be refused."""
    file.write_text(keys(1, 2))
    watched = SecretFile(settings_of(file), "secret_keys")
    file.write_text(keys(1))
    assert None is watched.changed()
    file.write_text(keys(1, 2, 3))
    assert None is watched.changed()
    assert ((1, SECRETS[1]), (2, SECRETS[2]), (3, SECRETS[3])) == watched.changed()
    assert None is watched.changed()


@pytest.mark.parametrize("text", ["", "1:short", "nonsense", None])
def test_what_cannot_be_used_is_told_once_and_changes_nothing(
    file: Path, text: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    """A slip in an editor must not end a service that works."""
    watched = SecretFile(settings_of(file), "secret_keys")
    if text is None:
        file.unlink()
    else:
        file.write_text(text)
    assert [None] * 3 == [watched.changed() for _ in range(3)]
    assert 1 == len(caplog.records)
    file.write_text(keys(2))
    assert [None, ((2, SECRETS[2]),)] == [watched.changed() for _ in range(2)]


def test_a_secret_of_the_environment_never_changes() -> None:
    watched = SecretFile(Settings.read({"TRACKER_SECRET_KEYS": keys(1)}, role="tool"), "secret_keys")
    assert [None] * 3 == [watched.changed() for _ in range(3)]


async def test_another_secret_under_a_number_in_use_is_refused(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It looks like a rotation and is the loss of a key: every id under it would be a forgery."""
    taken: list[int] = []
    live = LiveKeys(settings_of(file), taken=lambda: taken.append(1))
    maker = live.id_maker(worker=1, random_counter=lambda: 0)
    _, token = maker.make(10**12, 5)
    file.write_text("1:" + base64.b64encode(SECRETS[2]).decode())
    for _ in range(3):
        await live.look()
    assert 5 == live.ring.verify(token).link
    assert [] == taken
    assert "needs a new number" in caplog.text


async def test_ids_stay_unique_when_keys_change_within_a_millisecond_and_back(file: Path) -> None:
    """Random counters hide it: with the worst of them, a key taken up again would make its ids of this millisecond once more."""
    live = LiveKeys(settings_of(file), taken=lambda: None)
    maker = live.id_maker(worker=1, random_counter=lambda: 0)
    made = [maker.make(10**12, 5) for _ in range(3)]
    for numbers in ((1, 2), (2, 1), (1, 2)):
        file.write_text(keys(*numbers))
        await live.look()
        await live.look()
        made += [maker.make(10**12, 5) for _ in range(3)]
    assert 12 == len({uuid for uuid, _ in made})
    times = [uuid_time_ms(uuid) for uuid, _ in made]
    assert sorted(times) == times
    everything = Keyring(((1, SECRETS[1]), (2, SECRETS[2])))
    assert {5} == {everything.verify(token).link for _, token in made}
    file.write_text(keys(1))
    await live.look()
    await live.look()
    with pytest.raises(BadClickId, match="unknown_key"):
        live.ring.verify(made[6][1])
