"""Whatever is compared with a secret is compared by hmac.compare_digest, and with nothing else.

No clock can show this in a test that is always right, so the comparison itself is watched: each place where a stranger's bytes
meet ours has to come by it, with exactly these bytes.
"""

import hmac
import json
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from aiohttp.test_utils import TestClient, TestServer

from tracker.domain.click_id import BadClickId, Keyring
from tracker.domain.program import Credential, Program
from tracker.domain.refusal import Refused
from tracker.storage.catalog.memory import CatalogMemory
from tracker.storage.entities.store import Store
from tracker.web.admin import AdminApi
from tracker.web.postback_auth import Proof, Signature, authenticate, sign


class Watch(list[bytes]):
    """Everything that was compared in constant time."""

    def __call__(self, ours: Any, theirs: Any, compare: Any = hmac.compare_digest) -> bool:
        self.extend(one if isinstance(one, bytes) else one.encode() for one in (ours, theirs))
        return bool(compare(ours, theirs))


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Watch:
    watching = Watch()
    monkeypatch.setattr(hmac, "compare_digest", watching)
    return watching


@pytest.mark.fault(25)
def test_the_mac_of_a_click_id(watch: Watch) -> None:
    """Danger: `==` ends at the first byte that differs; forty bits would be found byte by byte."""
    vectors = Path(__file__).parent.parent / "vectors" / "click_ids.json"
    vector = json.loads(vectors.read_text())["vectors"][1]
    keyring = Keyring(((vector["key_number"], bytes.fromhex(vector["secret_hex"])),))
    token = vector["token"]
    keyring.verify(token)
    [ours, theirs] = watch
    assert ours == theirs and 5 == len(ours)
    watch.clear()
    with pytest.raises(BadClickId):
        keyring.verify(token[:-1] + ("0" if token[-1] != "0" else "1"))
    assert ours == watch[0] != watch[1]


@pytest.mark.fault(25)
@pytest.mark.parametrize("known", [True, False], ids=["a program with secrets", "a program without"])
def test_the_signature_of_a_postback(watch: Watch, known: bool) -> None:
    """Also where there is nothing to compare with: time must not tell which programs exist."""
    secret = b"a secret of 16 and more"
    credentials = (Credential(credential_id=5, kind="hmac", program_ids=frozenset({7}), hmac_secret=secret),) if known else ()
    catalog = cast("CatalogMemory", SimpleNamespace(hmac_credentials=lambda _: credentials))
    program = cast("Program", SimpleNamespace(auth_mode="hmac", program_id=7, currency="EUR"))
    shown = "0" * 64
    with pytest.raises(Refused):
        authenticate(catalog, program, Proof("::1", signature=Signature("1", shown, b"x")), has_click=True, now_ms=1000)
    assert [sign(secret if known else bytes(32), "1", b"x").encode(), shown.encode()] == watch


@pytest.mark.fault(25)
@pytest.mark.parametrize("known", [True, False])
def test_the_token_of_a_postback(watch: Watch, known: bool) -> None:
    """Found by its hash, of which nobody can choose the first bytes; an unknown one costs the same comparison."""
    catalog = CatalogMemory()
    if known:
        row = [5, "token", [7], sha256(b"right").hexdigest(), None, False]
        catalog.put("credentials", row)
    assert known == (catalog.credential_of_token(b"right") is not None)
    assert [sha256(b"right").digest() if known else bytes(32), sha256(b"right").digest()] == watch


@pytest.mark.fault(25)
async def test_the_admin_token(watch: Watch) -> None:
    """The one token that may do everything."""
    nothing: Any = None
    api = AdminApi(Store(nothing), admin_token="right", decide=nothing)
    async with TestClient(TestServer(api.application())) as client:
        answer = await client.get("/programs", headers={"Authorization": "Bearer wrong"})
    assert 401 == answer.status
    assert [b"wrong", b"right"] == watch
