"""README's walk, taken: its commands are run as they stand there, against a real `tracker dev`."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import missing
from tracker_process import free_port, until

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
BIN = Path(sys.executable).parent
CLICK_ID, CONVERSION_ID = r"1k8[0-9a-v]{29}", r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"


class Dev:
    """`tracker dev` on ports of its own, and a shell beside it."""

    def __init__(self, data: Path) -> None:
        self.data, self.port, self.admin_port = data, free_port(), free_port()
        self.log = data.parent / "dev.log"
        environ = {name: value for name, value in os.environ.items() if not name.startswith(("TRACKER_", "PG"))}
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [BIN / "tracker", "dev", "--data", data, "--port", str(self.port), "--admin-port", str(self.admin_port)],
                stdout=log, stderr=subprocess.STDOUT, env=environ, cwd=data.parent,
            )
        until(lambda: "a link to click" in self.log.read_text(), "tracker dev to be ready")
        welcome = self.log.read_text()
        self.environ = {
            **environ, "PATH": f"{BIN}:{os.environ['PATH']}", "NO_COLOR": "1",
            "TOKEN": re.findall(r"token=([0-9a-f]+)", welcome)[0], "ADMIN_TOKEN": re.findall(r"Bearer ([0-9a-f]+)", welcome)[0],
        }

    def run(self, command: str) -> str:
        """A command of the README, on this one's ports and data."""
        here = command.replace("localhost:8080", f"localhost:{self.port}").replace("localhost:8081", f"localhost:{self.admin_port}")
        here = here.replace("--data .tracker", f"--data {self.data}")
        done = subprocess.run(
            ["bash", "-c", here], capture_output=True, text=True, env=self.environ, cwd=self.data.parent, timeout=60, check=False
        )
        assert 0 == done.returncode, f"{here}\n{done.stdout}{done.stderr}"
        return done.stdout


@pytest.fixture(scope="module")
def dev(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dev]:
    started = Dev(tmp_path_factory.mktemp("readme") / ".tracker")
    yield started
    started.process.terminate()
    assert 0 == started.process.wait(60)


def test_send_a_click_post_a_conversion_see_it(dev: Dev) -> None:
    if shutil.which("curl") is None:
        missing("no curl (Debian: curl)")
    walk = re.findall(r"```console\n(.*?)```", README, re.DOTALL)[0]
    click, recorded, duplicate, shown, verify = re.findall(r"^\$ (.+)$", walk, re.MULTILINE)

    answer = dev.run(click)
    assert "HTTP/1.1 302 Found" == answer.splitlines()[0]
    token = re.findall(r"click_id=([0-9a-v]{32})&sub1=newsletter", answer)[0]
    ours = [line.split(":")[0] for line in walk.splitlines()[2:8]]
    assert ours == [line.split(":")[0] for line in answer.splitlines()[1:7]], "the headers stand in the README as they come"

    first = dev.run(re.sub(CLICK_ID, token, recorded))
    assert re.search(r'"status":"(recorded|pending_click)"', first)
    conversion_id = re.findall(CONVERSION_ID, first)[0]
    until(lambda: '"duplicate"' in dev.run(re.sub(CLICK_ID, token, duplicate)), "the same again to be a duplicate")
    assert conversion_id in dev.run(re.sub(CLICK_ID, token, duplicate))

    seen = dev.run(re.sub(CONVERSION_ID, conversion_id, shown))
    told = r'^    ("(?:event|txid|status|amount|currency|partner|credit|commission_owed)": .*)$'
    for line in re.findall(told, walk, re.MULTILINE):
        assert line in seen
    assert '"amount": "4.990000"' in seen
    assert " ok" in dev.run(verify)


def test_make_your_own(dev: Dev) -> None:
    block = next(text for text in re.findall(r"```sh\n(.*?)\n```", README, re.DOTALL) if "program add" in text)
    for command in block.splitlines():
        dev.run(command)
    assert "shop.example" in dev.run("tracker link list --data .tracker")
