"""The table of endpoints, and what a handler is given."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

from tallygate_local_stripe.errors import StripeError
from tallygate_local_stripe.objects import JsonObject, listing
from tallygate_local_stripe.store import LIST_LIMIT_DEFAULT, LIST_LIMIT_MAX
from tallygate_local_stripe.world import World

_LIST_PARAMETERS = frozenset({"limit", "starting_after", "ending_before", "expand"})
_COMPARISONS: dict[str, Callable[[int, int], bool]] = {
    "gt": lambda value, bound: value > bound,
    "gte": lambda value, bound: value >= bound,
    "lt": lambda value, bound: value < bound,
    "lte": lambda value, bound: value <= bound,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One request: the names in its path and its checked parameters."""

    world: World
    path: str
    names: dict[str, str]
    params: JsonObject

    @property
    def id(self) -> str:
        """Return the id in the path."""
        return self.names["id"]

    def get(self, name: str, default: Any = None) -> Any:
        """Return a parameter."""
        return self.params.get(name, default)

    def page(self, entries: list[JsonObject], *, ignoring: frozenset[str] = frozenset()) -> JsonObject:
        """Return one page of a list, newest first, filtered by the remaining parameters.

        Raises:
            StripeError: the limit or a cursor is not possible.

        """
        for name, wanted in self.params.items():
            if name not in _LIST_PARAMETERS | ignoring:
                entries = [entry for entry in entries if _matches(entry.get(name), wanted)]
        newest_first = list(reversed(entries))
        limit = self.get("limit", LIST_LIMIT_DEFAULT)
        if not 1 <= limit <= LIST_LIMIT_MAX:
            raise StripeError(f"Invalid limit: must be between 1 and {LIST_LIMIT_MAX}.", param="limit")
        ids = [entry["id"] for entry in newest_first]
        if "ending_before" in self.params:
            end = _cursor(ids, self.get("ending_before"), "ending_before")
            start = max(0, end - limit)
            return listing(self.path, newest_first[start:end], has_more=start > 0)
        start = _cursor(ids, self.get("starting_after"), "starting_after") + 1 if "starting_after" in self.params else 0
        return listing(self.path, newest_first[start : start + limit], has_more=start + limit < len(ids))


def _cursor(ids: list[str], wanted: str, param: str) -> int:
    if wanted not in ids:
        raise StripeError(f"No such object: '{wanted}'", code="resource_missing", param=param)
    return ids.index(wanted)


def _matches(value: Any, wanted: Any) -> bool:
    if isinstance(wanted, dict):
        return value is not None and all(_COMPARISONS[name](value, bound) for name, bound in wanted.items())
    return bool(value == wanted)


Handler = Callable[[Call], JsonObject]


@cache
def _pattern(template: str) -> re.Pattern[str]:
    return re.compile(re.sub(r"\{(\w+)\}", r"(?P<\1>[^/]+)", template))


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """One endpoint; `shape` is the SDK's parameter type, None for an endpoint without parameters."""

    method: str
    template: str
    shape: type | None
    handler: Handler

    def match(self, method: str, path: str) -> dict[str, str] | None:
        """Return the names in the path, if this is the endpoint."""
        found = _pattern(self.template).fullmatch(path) if method == self.method else None
        return found.groupdict() if found else None


class Routes:
    """Collect the endpoints of one resource family, by decorator."""

    def __init__(self) -> None:
        self.routes: list[Route] = []

    def __call__(self, method: str, template: str, shape: type | None = None) -> Callable[[Handler], Handler]:
        """Register the decorated handler."""

        def register(handler: Handler) -> Handler:
            self.routes.append(Route(method=method, template=template, shape=shape, handler=handler))
            return handler

        return register
