"""Stripe's form encoding: brackets nest, `[]` appends, `[0]` numbers."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import parse_qsl

from tallygate_local_stripe.errors import StripeError

PAIRS_MAX = 1000
DEPTH_MAX = 12
_KEY = re.compile(r"[^\[\]]+|\[[^\[\]]*\]")


def parse(encoded: str) -> dict[str, Any]:
    """Return nested dicts of strings; lists are dicts with numbers as keys, until a shape says they are lists.

    Raises:
        StripeError: a key is malformed, or the body is larger than any request of ours.

    """
    try:
        pairs = parse_qsl(encoded, keep_blank_values=True, max_num_fields=PAIRS_MAX)
    except ValueError as error:
        raise StripeError("Invalid request: too many parameters.") from error
    tree: dict[str, Any] = {}
    for key, value in pairs:
        parts = [part.strip("[]") if part.startswith("[") else part for part in _KEY.findall(key)]
        if not parts or len(parts) > DEPTH_MAX:
            raise StripeError(f"Invalid parameter name: {key}", param=key)
        _put(tree, parts, value)
    return tree


def _put(tree: dict[str, Any], parts: list[str], value: str) -> None:
    for position, part in enumerate(parts):
        name = part or str(len(tree))
        if position == len(parts) - 1:
            tree[name] = value
            return
        below = tree.setdefault(name, {})
        if not isinstance(below, dict):
            raise StripeError(f"Invalid parameter: {parts[0]} is both a value and an object.", param=parts[0])
        tree = below
