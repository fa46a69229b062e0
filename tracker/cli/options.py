"""From options to fields of the store: what is not given is left out, what is given empty is taken away."""

from __future__ import annotations

from typing import Any

EMPTIED = "; an empty value takes it away"

_CAN_BE_EMPTIED = frozenset({"fallback", "channel", "expires_at", "valid_to"})
_LISTS = frozenset({"statuses", "events"})     # approved,reversed on the command line; empty: none


def given(options: dict[str, Any]) -> dict[str, Any]:
    """Fields of tracker/domain/fields.py."""
    fields: dict[str, Any] = {}
    for name, value in options.items():
        if value is None or value == ():
            continue
        if name in _LISTS:
            fields[name] = [one.strip() for one in value.split(",") if one.strip()]
            continue
        fields[name] = None if value == "" and name in _CAN_BE_EMPTIED else value
    return fields
