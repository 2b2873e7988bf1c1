"""All objects, by kind and id, in the order of their creation."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tallygate_local_stripe.errors import missing
from tallygate_local_stripe.objects import JsonObject, build, kind_of

LIST_LIMIT_MAX = 100
LIST_LIMIT_DEFAULT = 10


class Store:
    """Keep objects in memory; a file, if there is one, is read at the start and written by whoever owns the process."""

    def __init__(self) -> None:
        self.tables: dict[str, dict[str, JsonObject]] = {}
        self.revision = 0

    def add(self, kind: str, **fields: Any) -> JsonObject:
        """Build an object and keep it."""
        built = build(kind, fields)
        self.keep(built)
        return built

    def keep(self, built: JsonObject) -> None:
        """Keep an object that is built already."""
        self.tables.setdefault(built["object"], {})[built["id"]] = built
        self.revision += 1

    def get(self, kind: str, object_id: str, *, param: str = "id") -> JsonObject:
        """Return one object.

        Raises:
            StripeError: there is none with this id.

        """
        found = self.tables.get(kind, {}).get(object_id)
        if found is None:
            raise missing(kind, object_id, param=param)
        return found

    def find(self, object_id: str) -> JsonObject | None:
        """Return the object with this id, whatever its kind."""
        kind = kind_of(object_id)
        if kind is not None:
            return self.tables.get(kind, {}).get(object_id)
        return self.tables.get("coupon", {}).get(object_id)

    def all(self, kind: str, where: Callable[[JsonObject], bool] = lambda _: True) -> Iterator[JsonObject]:
        """Yield the objects of a kind, oldest first."""
        return (entry for entry in list(self.tables.get(kind, {}).values()) if where(entry))

    def remove(self, kind: str, object_id: str) -> None:
        """Forget an object."""
        self.get(kind, object_id)
        del self.tables[kind][object_id]
        self.revision += 1

    def counts(self) -> dict[str, int]:
        """Return how many objects of each kind there are."""
        return {kind: len(table) for kind, table in sorted(self.tables.items()) if table}

    def clear(self) -> None:
        """Forget everything."""
        self.tables.clear()
        self.revision += 1


def write_file(path: Path, state: JsonObject) -> None:
    """Replace the file as a whole, so that a crash leaves the old or the new state."""
    fresh = path.with_suffix(".new")
    fresh.write_text(json.dumps(state, default=str))
    fresh.replace(path)


def read_file(path: Path) -> JsonObject | None:
    """Return the state in the file, if there is one."""
    if not path.exists():
        return None
    state: JsonObject = json.loads(path.read_text())
    return state
