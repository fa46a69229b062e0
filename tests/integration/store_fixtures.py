"""A store over a fresh database, for the tests of it and of what it keeps."""

from collections.abc import AsyncIterator
from typing import Any

import pytest

from tracker.storage.entities.store import Store
from tracker.storage.postgres import create_pool


@pytest.fixture
async def pool(dsn: str) -> AsyncIterator[Any]:
    made = await create_pool(dsn, max_size=8)
    yield made
    await made.close()


@pytest.fixture
async def store(pool: Any) -> Store:
    return Store(pool)


@pytest.fixture
async def shop(store: Store) -> Store:
    """A program `shop`, a partner `anna`."""
    await store.programs.create({"slug": "shop", "currency": "EUR", "commission": "10%"})
    await store.partners.create({"slug": "anna", "name": "Anna"})
    return store


LINK = {"program": "shop", "partner": "anna", "destination": "https://shop.example/?cid={click_id}"}
