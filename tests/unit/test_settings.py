"""Settings: every mistake at once, none let through, no secret ever shown."""

import base64
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import example, given
from hypothesis import strategies as st

from tracker.cli.config import config
from tracker.settings import Role, Setting, Settings, SettingsError, settings_table, shown

URL = "postgresql://tracker:hush-hush@db/tracker"
KEY = base64.b64encode(bytes(range(32))).decode()
OTHER_KEY = base64.b64encode(bytes(range(32, 64))).decode()
GOOD = {"TRACKER_DATABASE_URL": URL, "TRACKER_SECRET_KEYS": f"3:{KEY}"}
ROLES: tuple[Role, ...] = ("edge", "control", "serve", "config", "tool")

ROWS = settings_table()
NAMES = [row.name for row in ROWS]
SECRETS = [row.name for row in ROWS if row.secret]


def mistakes(environ: dict[str, str], role: Role = "serve") -> dict[str, str]:
    """What is wrong, by variable; empty: nothing."""
    try:
        Settings.read(environ, role=role)
    except SettingsError as exc:
        return {mistake.name: mistake.why for mistake in exc.mistakes} or {"": "SettingsError without a mistake"}
    return {}


def with_good(name: str, value: str) -> Settings:
    return Settings.read({**GOOD, name: value}, role="serve")


# ── Any environment ──────────────────────────────────────────────────────────────────────────────────────────────────

plausible = st.sampled_from([
    "", " ", "on", "off", "8080", "0", "-1", "tcp://10.0.0.1:80", "50ms", "always", "10GiB", "10.0.0.0/8", "10.0.0.1/8",
    "::/0", "[::1]", "::1%eth0", f"1:{KEY}", f"1:{KEY},1:{OTHER_KEY}", f"99:{KEY}", "1:====", URL, "postgres://[",
    "/dev/zero", "/", "/etc/hostname", "/proc/self/mem", "a" * 5000, "٣", "1" * 5000, ",", "a=b", "\0", "\udcff",
    "line\nbreak", "10.0.0.0/" + "9" * 5000,
])
names = st.one_of(
    st.sampled_from(NAMES), st.sampled_from(SECRETS).map(lambda name: f"{name}_FILE"),
    st.text(max_size=20).map(lambda tail: f"TRACKER_{tail}"),
)
anything = st.text(st.characters(), max_size=80)


@given(st.dictionaries(names, st.one_of(plausible, anything), max_size=12), st.sampled_from(ROLES))
@example({"TRACKER_DATABASE_URL_FILE": "/" + "x" * 5000}, "serve")
@example({"TRACKER_SPOOL_DIR": "a\0b", "TRACKER_GEOIP_DB": "a\0b"}, "tool")
def test_any_environment_gives_settings_or_a_list_of_one_line_mistakes(environ: dict[str, str], role: Role) -> None:
    """A traceback at start tells an operator nothing; a message with a line break forges the next one."""
    for name, why in mistakes(environ, role).items():
        assert name.startswith("TRACKER_")
        assert why.isprintable()
        assert len(why) < 1_000
        (name + why).encode()
    for _, text in shown(environ):
        assert text.isprintable()


@given(
    st.sampled_from(SECRETS), st.text(st.sampled_from("QXZqxz7+/=:,@ \n\0é"), min_size=6, max_size=60),
    st.sampled_from(ROLES),
)
def test_no_message_no_repr_and_no_list_shows_any_part_of_a_secret(name: str, secret: str, role: Role) -> None:
    """Start-up messages go to log systems that many people read."""
    environ = {**GOOD, name: secret}
    try:
        out = repr(Settings.read(environ, role=role))
    except SettingsError as exc:
        out = str(exc) + repr(exc)
    out += "".join(text for _, text in shown(environ))
    for start in range(len(secret) - 5):
        piece = secret[start : start + 6]
        assert piece.isspace() or not piece.isprintable() or piece not in out
    assert "hush-hush" not in out
    assert KEY not in out


def test_good_settings_hide_their_secrets_in_repr() -> None:
    out = repr(Settings.read({**GOOD, "TRACKER_ADMIN_TOKEN": "t" * 32}, role="serve"))
    assert "hush-hush" not in out
    assert "ttt" not in out
    assert repr(bytes(range(32))) not in out


# ── All together ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_all_mistakes_are_reported_at_once() -> None:
    """One mistake per restart of a deployment costs minutes each."""
    found = mistakes({
        "TRACKER_PORT": "http", "TRACKER_ADMIN_PORT": "8080", "TRACKER_SYNC": "fast",
        "TRACKER_TRUSTED_PROXIES": "10.1.2.3/8", "TRACKER_IP_MODE": "hash", "TRACKER_WORKRES": "4",
    })
    expected = {
        "TRACKER_DATABASE_URL", "TRACKER_SECRET_KEYS", "TRACKER_PORT", "TRACKER_ADMIN_PORT", "TRACKER_SYNC",
        "TRACKER_TRUSTED_PROXIES", "TRACKER_IP_MODE", "TRACKER_WORKRES",
    }
    assert expected == set(found)
    assert "did you mean TRACKER_WORKERS?" in found["TRACKER_WORKRES"]
    assert "did you mean 10.0.0.0/8?" in found["TRACKER_TRUSTED_PROXIES"]
    assert "0 to 65535" in found["TRACKER_PORT"]
    assert "truncate, full, drop" in found["TRACKER_IP_MODE"]


@pytest.mark.parametrize(("role", "needed"), [
    ("serve", {"TRACKER_DATABASE_URL", "TRACKER_SECRET_KEYS"}),
    ("edge", {"TRACKER_DATABASE_URL", "TRACKER_SECRET_KEYS"}),
    ("control", {"TRACKER_DATABASE_URL"}),
    ("config", set()),
    ("tool", set()),
])
def test_each_role_needs_what_it_cannot_work_without(role: Role, needed: set[str]) -> None:
    assert needed == set(mistakes({}, role))


WORDS = {"", "none", "all IPv4 and IPv6", "the number of cores"}  # defaults that cannot be written as a value


@pytest.mark.parametrize("row", [row for row in ROWS if row.default not in WORDS], ids=lambda row: row.name)
def test_the_default_in_words_is_the_default_in_effect(row: Setting) -> None:
    """The README's table is made from the words; the program runs with the value."""
    assert Settings.read(GOOD, role="serve") == with_good(row.name, row.default)


def test_the_defaults_are_those_of_the_contract() -> None:
    expected = {
        "TRACKER_PORT": "8080", "TRACKER_ADMIN_PORT": "8081", "TRACKER_WORKERS": "the number of cores",
        "TRACKER_HOST": "all IPv4 and IPv6", "TRACKER_SPOOL_DIR": "./spool", "TRACKER_SYNC": "50ms",
        "TRACKER_COMMIT": "on", "TRACKER_IP_MODE": "truncate",
    }
    assert expected == {row.name: row.default for row in ROWS if row.name in expected}


def test_an_empty_value_counts_as_not_given() -> None:
    """Deployments template optional settings as empty strings."""
    blank = {name: "  " for name in NAMES if name not in GOOD}
    assert Settings.read(GOOD, role="serve") == Settings.read({**GOOD, **blank}, role="serve")
    assert set(GOOD) == set(mistakes(dict.fromkeys(NAMES, "")))


def test_the_public_and_the_admin_port_are_never_one() -> None:
    """The admin API would be open to every visitor."""
    assert {"TRACKER_ADMIN_PORT"} == set(mistakes({**GOOD, "TRACKER_PORT": "8081"}))
    any_free = Settings.read({**GOOD, "TRACKER_PORT": "0", "TRACKER_ADMIN_PORT": "0"}, role="serve")
    assert 0 == any_free.port == any_free.admin_port


# ── Names we do not know ─────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("role", ["control", "serve", "config"])
def test_an_unknown_name_is_refused(role: Role) -> None:
    """A misspelt TRACKER_SYNC=always would silently run with less safety than its owner believes."""
    expected = {"TRACKER_SYNCH": "no such setting; did you mean TRACKER_SYNC?"}
    assert expected == mistakes({**GOOD, "TRACKER_SYNCH": "always"}, role)


@pytest.mark.parametrize("role", ["edge", "tool"])
def test_an_unknown_name_is_only_warned_of_by_an_edge(role: Role) -> None:
    """After a rollback the environment still carries the newer version's settings, and redirects must start."""
    settings = Settings.read({**GOOD, "TRACKER_FROM_THE_FUTURE": "1"}, role=role)
    expected = ["TRACKER_FROM_THE_FUTURE"]
    assert expected == [warning.name for warning in settings.warnings]


def test_a_setting_that_is_no_secret_has_no_file_form() -> None:
    assert {"TRACKER_PORT_FILE"} == set(mistakes({**GOOD, "TRACKER_PORT_FILE": "/etc/port"}))


def test_names_for_tests_are_never_looked_at() -> None:
    assert not mistakes({**GOOD, "TRACKER_TEST_DSN": "\0", "TRACKER_TEST_": "x"})


SERVICE_LINKS = {
    "TRACKER_PORT": "tcp://10.96.0.7:8080",
    "TRACKER_SERVICE_HOST": "10.96.0.7",
    "TRACKER_SERVICE_PORT": "8080",
    "TRACKER_SERVICE_PORT_HTTP": "8080",
    "TRACKER_PORT_8080_TCP": "tcp://10.96.0.7:8080",
    "TRACKER_PORT_8080_TCP_PROTO": "tcp",
    "TRACKER_PORT_8080_TCP_PORT": "8080",
    "TRACKER_PORT_8080_TCP_ADDR": "10.96.0.7",
    "TRACKER_PORT_53_UDP": "udp://10.96.0.7:53",
    "TRACKER_ADMIN_PORT": "tcp://10.96.0.8:8081",  # a Service named tracker-admin: our own name again
    "TRACKER_ADMIN_SERVICE_HOST": "10.96.0.8",
    "TRACKER_ADMIN_PORT_8081_TCP": "tcp://10.96.0.8:8081",
}


@pytest.mark.parametrize("role", ROLES)
def test_what_kubernetes_injects_for_services_of_our_name_is_ignored(role: Role) -> None:
    """A Service named tracker turns TRACKER_PORT into tcp://…, in every pod that leaves service links on."""
    assert Settings.read(GOOD, role=role) == Settings.read({**GOOD, **SERVICE_LINKS}, role=role)


# ── Secrets from files ───────────────────────────────────────────────────────────────────────────────────────────────


def test_each_secret_may_be_given_as_a_file(tmp_path: Path) -> None:
    values = {**GOOD, "TRACKER_ADMIN_TOKEN": "t" * 32}
    assert set(SECRETS) == set(values)
    files = {}
    for name, value in values.items():
        (tmp_path / name).write_text(f"{value}\n")
        files[f"{name}_FILE"] = str(tmp_path / name)
    assert Settings.read(values, role="serve") == Settings.read(files, role="serve")


@pytest.mark.parametrize("content", [b"", b" \n", b"\xff\xfe", b"x" * 70_000], ids=["empty", "blank", "binary", "huge"])
def test_a_file_that_holds_no_secret_is_a_mistake_that_names_it(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "url"
    file.write_bytes(content)
    found = mistakes({"TRACKER_SECRET_KEYS": f"1:{KEY}", "TRACKER_DATABASE_URL_FILE": str(file)})
    assert {"TRACKER_DATABASE_URL"} == set(found)
    assert "TRACKER_DATABASE_URL_FILE" in found["TRACKER_DATABASE_URL"]


@pytest.mark.parametrize("file", ["/nowhere/url", "/", "/dev/zero"])
def test_what_is_no_ordinary_file_is_a_mistake_and_no_wait(file: str) -> None:
    """A start that waits for a pipe's writer, or reads a device for ever, never becomes ready and never says why."""
    found = mistakes({"TRACKER_SECRET_KEYS": f"1:{KEY}", "TRACKER_DATABASE_URL_FILE": file})
    assert f"TRACKER_DATABASE_URL_FILE {file} is not there, or not an ordinary file" == found["TRACKER_DATABASE_URL"]


def test_a_secret_given_twice_is_a_mistake(tmp_path: Path) -> None:
    """Which of the two would hold is a guess; after a rotation it is the wrong one."""
    (tmp_path / "url").write_text(URL)
    found = mistakes({**GOOD, "TRACKER_DATABASE_URL_FILE": str(tmp_path / "url")})
    assert "given twice" in found["TRACKER_DATABASE_URL"]


# ── The table and the command ────────────────────────────────────────────────────────────────────────────────────────


def test_every_row_of_the_table_can_be_read_by_a_person() -> None:
    assert len(set(NAMES)) == len(ROWS)
    for row in ROWS:
        assert row.name.startswith("TRACKER_")
        assert row.meaning
        assert row.values
        assert row.default or row.needed_by, f"{row.name} has neither a default nor anyone who needs it"


def run(arguments: list[str], environ: dict[str, str]) -> tuple[int, str]:
    cleared: dict[str, str | None] = {**dict.fromkeys(NAMES), **environ}
    result = CliRunner().invoke(config, arguments, env=cleared)
    return result.exit_code, result.output


def test_config_check_says_one_line_per_mistake_and_exits_2() -> None:
    wrong = {"TRACKER_PROT": "80", "TRACKER_SYNC": "fast", "TRACKER_SECRET_KEYS": "bad-secret"}
    code, output = run(["check"], {**GOOD, **wrong})
    expected = ["TRACKER_SYNC", "TRACKER_SECRET_KEYS", "TRACKER_PROT"]
    assert expected == [line.partition(":")[0] for line in output.splitlines()]
    assert "bad-secret" not in output
    assert code == 2


def test_config_check_is_strict_even_for_an_edge() -> None:
    """It is where a misspelt name is found before the edge would only warn of it."""
    code, output = run(["check", "--role", "edge"], {**GOOD, "TRACKER_PROT": "80"})
    assert code == 2
    assert "did you mean TRACKER_PORT?" in output
    code, output = run(["check", "--role", "edge"], GOOD)
    assert code == 0
    assert "good for tracker edge" in output


def test_config_show_masks_secrets_and_marks_defaults() -> None:
    given_too = {"TRACKER_PORT": "8000", "TRACKER_ADMIN_TOKEN_FILE": "/run/secrets/token"}
    code, output = run(["show"], {**GOOD, **given_too})
    lines = dict(line.split(maxsplit=1) for line in output.splitlines())
    expected = {
        "TRACKER_PORT": "8000", "TRACKER_SYNC": "50ms (default)", "TRACKER_SECRET_KEYS": "***",
        "TRACKER_DATABASE_URL": "***", "TRACKER_ADMIN_TOKEN": "*** (from /run/secrets/token)",
    }
    assert expected == {name: text for name, text in lines.items() if name in expected}
    assert set(NAMES) == set(lines)
    assert code == 0
