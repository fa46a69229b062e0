"""An endpoint: a partner's URL that is told of his conversions, and which of them it wants to hear of.

The URL is a template of the kind that links have (link.py), with macros of its own. Host and port are fixed when it is
saved; what is known to be unreachable is refused then. Addresses that names stand for are judged when they are sent to.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, NamedTuple
from urllib.parse import urlsplit

from tracker.domain.addresses import PORTS, Network, literal, may_reach
from tracker.domain.link import BadTemplate, Template, parse_template
from tracker.domain.values import valueclass

CLICK_MACROS: Final = frozenset({"ext", *(f"sub{number}" for number in range(1, 11))})   # of the click's row
MACROS: Final = CLICK_MACROS | {
    "click_id", "conversion_id", "event", "txid", "status", "amount", "currency", "commission", "commission_currency",
    "program", "partner", "link",
}  # fmt: skip

# A tracker that is not told the status would count a reversal as one more sale. Pending is left out where it can be told
# apart, too: it is no news that anybody can act on, and everything decided later is sent.
DECIDED: Final = ("approved", "rejected", "reversed")
UNTOLD: Final = ("approved",)


@valueclass(frozen=True, slots=True)
class Endpoint:
    """What decides whether it hears of a conversion. `program_id` None: of all programs; `events` empty: of all."""

    endpoint_id: int
    program_id: int | None
    statuses: frozenset[str]
    events: frozenset[str]

    def wants(self, program_id: int, event: str, status: str) -> bool:
        return (
            self.program_id in (None, program_id) and status in self.statuses and (not self.events or event in self.events)
        )


class Authority(NamedTuple):
    """`host` as it is written, in lower case, an IPv6 address in its brackets."""

    host: str
    port: int


def authority_of(url: str) -> Authority:
    """Where a URL that `parse_endpoint_url` took leads."""
    parts = urlsplit(url)
    host, colon, port = parts.netloc.lower().rpartition(":")
    if colon and port.isdecimal():
        return Authority(host, int(port))
    return Authority(parts.netloc.lower(), 443 if parts.scheme.lower() == "https" else 80)


def parse_endpoint_url(text: str) -> Template:
    """Parse and compile. Raises BadTemplate."""
    template = parse_template(text, field="url", known=MACROS.__contains__)
    if "#" in text:
        raise BadTemplate(text.index("#"), "what follows a # is never sent", "url")
    return template


def check_address(text: str, *, allowed: Iterable[Network] = ()) -> None:
    """Refuse now a URL that can never be reached. `allowed`: networks that may be, though private. Raises BadTemplate."""
    start = text.index("//") + 2
    host, port = authority_of(text)
    try:
        address = literal(host)
    except ValueError:
        raise BadTemplate(start, "an address has to be written like 192.0.2.1 or [2001:db8::1]", "url") from None
    allowed = tuple(allowed)
    if port not in PORTS and not allowed:
        raise BadTemplate(start, "the port must be 80 or 443", "url")
    if address is not None and not may_reach(address, port, allowed):
        raise BadTemplate(start, "this address is not public, and TRACKER_OUTBOX_NETWORKS does not allow it", "url")


def tells_status(method: str, template: Template) -> bool:
    """Whether the receiver can tell a reversal from a sale."""
    return method == "POST" or "status" in template.slots


def tells_click(method: str, template: Template) -> bool:
    """Whether it is told anything of the click's row, so that this must have come."""
    return method == "POST" or not CLICK_MACROS.isdisjoint(template.slots)


def default_statuses(method: str, template: Template) -> tuple[str, ...]:
    """What is sent when nobody said."""
    return DECIDED if tells_status(method, template) else UNTOLD
