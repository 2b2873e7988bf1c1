"""Documents as columns: the fields on their top level that hold single values."""

from __future__ import annotations

import json
from typing import Any, Final

import pyarrow as pa

from tallygate_server.lifecycle.lossy.records import DOCUMENT, RESERVED, TIME

FIELDS_MAX: Final = 100
"""Of one dataset; the commonest are taken."""
_INT64: Final = range(-(2**63), 2**63)


def holds_documents(table: pa.Table) -> bool:
    """Tell whether the records are documents."""
    return [name for name in table.column_names if name not in (TIME, *RESERVED)] == [DOCUMENT]


def as_columns(table: pa.Table) -> pa.Table:
    """Return the same records with the documents' fields as columns; rows that have columns stay as they are.

    Numbers become doubles, or whole numbers when all are; a field of several sorts of values becomes text.
    """
    if not holds_documents(table):
        return table
    documents = parsed(table)
    counts: dict[str, int] = {}
    for document in documents:
        for key, value in document.items():
            if not isinstance(value, dict | list) and key not in (TIME, *RESERVED):
                counts[key] = counts.get(key, 0) + 1
    chosen = sorted(counts, key=lambda key: (-counts[key], key))[:FIELDS_MAX]
    told = {name: table.column(name) for name in table.column_names if name != DOCUMENT}
    for key in sorted(chosen):
        told[key] = _column([document.get(key) for document in documents])
    return pa.table(told)


def field_texts(table: pa.Table, field: str) -> list[str | None]:
    """Return one field of every document as text: by its name, or by a path with dots. None where there is none."""
    return [_text(_found(document, field)) for document in parsed(table)]


def parsed(table: pa.Table) -> list[dict[str, Any]]:
    """Return the documents; what is no JSON object counts as an empty one."""
    return [_parsed(text) for text in table.column(DOCUMENT).to_pylist()]


def _parsed(text: str | None) -> dict[str, Any]:
    if text is None:
        return {}
    try:
        value = json.loads(text)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _found(document: dict[str, Any], field: str) -> Any:
    if field in document:
        return document[field]
    value: Any = document
    for part in field.split("."):
        if not isinstance(value, dict):
            return None
        value = value.get(part)
    return value


def _text(value: Any) -> str | None:
    if value is None or isinstance(value, dict | list):
        return None
    return value if isinstance(value, str) else json.dumps(value)


def _column(values: list[Any]) -> pa.Array:
    values = [None if isinstance(value, dict | list) else value for value in values]
    present = [value for value in values if value is not None]
    if all(isinstance(value, bool) for value in present):
        return pa.array(values, type=pa.bool_())
    if all(isinstance(value, int | float) and not isinstance(value, bool) for value in present):
        if all(isinstance(value, int) and value in _INT64 for value in present):
            return pa.array(values, type=pa.int64())
        return pa.array([None if value is None else float(value) for value in values], type=pa.float64())
    return pa.array([_text(value) for value in values], type=pa.string())
