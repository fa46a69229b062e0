"""Shops that sell without a pause, whatever is changed meanwhile: a click at one worker, its sale at another, the next click."""

from __future__ import annotations

import re
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import count, cycle

from visitor import Answer, one_connection_per_worker

_CLICK_ID = re.compile(r"cid=([0-9a-v]{32})&")


def click_id_of(answer: Answer) -> str:
    """The click id in the Location, whichever key signed it."""
    [token] = _CLICK_ID.findall(answer.location)
    return str(token)


class Buyers:
    """What they were told: `answers` by (status, word), and the ids of all clicks they sold. `tokens` may be changed."""

    def __init__(self, port: int, tokens: tuple[str, ...]) -> None:
        self.tokens = tokens
        self.answers: Counter[tuple[int, str]] = Counter()
        self.click_ids: list[str] = []
        self._port = port
        self._numbers = count()
        self._heard = threading.Condition()
        self._stopping = False
        self._threads = [threading.Thread(target=self._buy) for _ in range(4)]
        for thread in self._threads:
            thread.start()

    def wait_for_sales(self, more: int) -> None:
        """Until so many more have been answered, with the tokens as they are now."""
        with self._heard:
            goal = self.answers.total() + more + len(self._threads)      # those under way may carry an earlier token
            assert self._heard.wait_for(lambda: self.answers.total() >= goal or self._stopping, 30), self.answers

    def stop(self) -> None:
        self._stopping = True
        for thread in self._threads:
            thread.join()

    def _buy(self) -> None:
        try:
            with ExitStack() as stack:
                workers = [stack.enter_context(one) for one in one_connection_per_worker(self._port, 2).values()]
                for turn in cycle((0, 1)):
                    if self._stopping:
                        return
                    click_id = click_id_of(workers[turn].click("l2", "sub1=buyer"))
                    sale = {"click_id": click_id, "txid": f"sale-{next(self._numbers)}", "amount": "10"}
                    answer = workers[1 - turn].postback(**sale, token=self.tokens[turn % len(self.tokens)])
                    with self._heard:
                        self.click_ids.append(click_id)
                        self.answers[answer.status, answer.said.get("code", "kept")] += 1
                        self._heard.notify_all()
        finally:
            self._stopping = True


@contextmanager
def buyers(port: int, *tokens: str) -> Iterator[Buyers]:
    started = Buyers(port, tokens)
    try:
        yield started
    finally:
        started.stop()
