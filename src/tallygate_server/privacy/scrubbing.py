"""Takes what is about one account out of documents that are about many, such as the reports of jobs."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

_SEGMENT_FIELDS: Final = ("segment_id", "original_segment_id")
_STATISTICS: Final = "summary_metrics"


@dataclass(frozen=True, slots=True, kw_only=True)
class Scrubbing:
    """What is to be taken out."""

    names: Collection[str]
    """Texts that stand for the account, its datasets and its segments."""
    living_segments: Collection[str] = ()
    """Those of others: statistics of a segment that is gone may be the account's, and go too."""

    def of(self, document: Any) -> Any:
        """Return a document without what is about the account."""
        if isinstance(document, Mapping):
            return self._object(document)
        if isinstance(document, list):
            return [self.of(each) for each in document if not self._is_about(each)]
        return "" if isinstance(document, str) and document in self.names else document

    def _object(self, document: Mapping[str, Any]) -> dict[str, Any]:
        kept = {name: each for name, each in document.items() if name not in self.names}
        if _STATISTICS in kept and not self._lives(kept):
            del kept[_STATISTICS]
        return {name: self.of(each) for name, each in kept.items()}

    def _is_about(self, each: Any) -> bool:
        """Tell whether an item of a list is about the account: it says one of its names itself."""
        if isinstance(each, Mapping):
            return any(isinstance(value, str) and value in self.names for value in each.values())
        return isinstance(each, str) and each in self.names

    def _lives(self, document: Mapping[str, Any]) -> bool:
        return any(document.get(name) in self.living_segments for name in _SEGMENT_FIELDS)


def segments_with_statistics(document: Any) -> Iterator[str]:
    """Yield the ids of the segments of whose values a document tells."""
    if isinstance(document, Mapping):
        if _STATISTICS in document:
            yield from (document[name] for name in _SEGMENT_FIELDS if document.get(name))
        for each in document.values():
            yield from segments_with_statistics(each)
    elif isinstance(document, list):
        for each in document:
            yield from segments_with_statistics(each)
