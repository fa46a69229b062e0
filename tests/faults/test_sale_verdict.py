"""The judge of sales can accuse: every lie that a database could tell a shop is found, and the truth is left alone."""

from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest
from trade import Sale, sale_accusations

SALE = Sale("order 1", 200, {"status": "queued", "conversion_id": "c-1"}, 0.1)
ROW: dict[str, Any] = {
    "txid": "order 1", "conversion_id": "c-1", "conversions": 1, "status": "approved", "amount": Decimal(10), "partner_id": 13,
    "ledger": [Decimal(1)],
}


def test_the_truth_is_left_alone() -> None:
    """Whatever was answered, with or without naming the conversion."""
    unnamed = replace(SALE, said={"status": "pending_click", "conversion_id": None})
    assert [] == sale_accusations([SALE], [ROW]) == sale_accusations([unnamed], [ROW])


@pytest.mark.parametrize(
    ("sale", "rows", "says"),
    [
        (SALE, [], "there is no conversion"),
        (SALE, [ROW | {"conversions": 2}], "is {"),
        (SALE, [ROW | {"conversions": 0}], "is {"),
        (SALE, [ROW | {"status": "pending"}], "is {"),
        (SALE, [ROW | {"amount": Decimal(11)}], "is {"),
        (SALE, [ROW | {"partner_id": None}], "is {"),
        (SALE, [ROW | {"ledger": None}], "is {"),
        (SALE, [ROW | {"ledger": [Decimal(1), Decimal(1)]}], "is {"),
        (SALE, [ROW | {"conversion_id": "c-2"}], "was told c-1, but is c-2"),
        (SALE, [ROW, ROW | {"txid": "order 2"}], "order 2 was never sold"),
        (replace(SALE, seconds=1.6), [ROW], "after 1.60 s"),
        (replace(SALE, status=503), [ROW], "was answered 503"),
        (replace(SALE, said={"status": "duplicate", "conversion_id": "c-1"}), [ROW], "was answered 200"),
    ],
)
def test_each_lie_is_found(sale: Sale, rows: list[dict[str, Any]], says: str) -> None:
    """Money that is missing, doubled, changed or somebody else's, and answers that were late or none."""
    [accusation] = sale_accusations([sale], rows)
    assert says in accusation
