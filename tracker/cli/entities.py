"""The groups of commands about what people manage; each is a file of its own."""

from __future__ import annotations

from tracker.cli.coupon import coupon
from tracker.cli.link import link
from tracker.cli.partner import partner
from tracker.cli.program import program

__all__ = ["coupon", "link", "partner", "program"]
