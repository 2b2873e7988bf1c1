"""What somebody did: counts, sessions, transitions and the profile of the day of actions, instead of single actions.

A session is a run of actions with no silence longer than the gap between two of them. Transitions are counted between
consecutive actions of one session. The profile counts actions by hour of the day and day of the week in UTC, Monday
first. Records without an action are counted as missing, and interrupt nothing. Beyond `ACTIONS_MAX` actions the rarest
are counted together as `*`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tallygate_server.lifecycle.lossy.documents import field_texts, holds_documents
from tallygate_server.lifecycle.lossy.failures import LossyPayloadDamaged, LossySettingsInvalid
from tallygate_server.lifecycle.lossy.payload import PayloadReader, PayloadWriter
from tallygate_server.lifecycle.lossy.records import Column, ColumnKind, Integers, columns_of, single, times_of
from tallygate_server.lifecycle.lossy.settings import LossySettings

ACTIONS_MAX: Final = 256
ACTION_LENGTH_MAX: Final = 200
OTHER_ACTIONS: Final = "*"
HOURS_OF_DAY: Final = 24
DAYS_OF_WEEK: Final = 7
HOURS_OF_WEEK: Final = HOURS_OF_DAY * DAYS_OF_WEEK
LIMITATION: Final = (
    "Single actions and all other columns are gone; sessions, counts, transitions and the profile of the week are"
    " exact."
)
_HOUR: Final = 3_600_000_000
# 1970 began on a Thursday; weeks of the profile begin on Mondays.
_TO_MONDAY: Final = 3 * HOURS_OF_DAY


@dataclass(frozen=True, slots=True, kw_only=True)
class Behavior:
    """What the actions of some records come to."""

    actions: tuple[str, ...]
    """By their names."""
    counts: Integers
    """Of each action."""
    missing_count: int
    """Records without one."""
    merged_count: int
    """Records whose action is counted with others as `*`: which one it was is gone."""
    session_gap: timedelta
    session_starts: Integers
    """Microseconds since 1970."""
    session_ends: Integers
    """When the last action of the session happened, in microseconds since 1970."""
    session_cells: Integers
    """Which session and action, as session x number of actions + action, ascending."""
    session_counts: Integers
    """How often that action was taken in that session."""
    transitions: npt.NDArray[np.int64]
    """From x to."""
    profile: npt.NDArray[np.int64]
    """Actions x hours of the week."""

    def profile_document(self) -> dict[str, Any]:
        """Return counts, transitions and the profile of the week, ready for JSON."""
        lengths = (self.session_ends - self.session_starts) / 1e6
        some = len(lengths) > 0
        return {
            "actions": {action: int(count) for action, count in zip(self.actions, self.counts, strict=True)},
            "missing": self.missing_count,
            "merged": self.merged_count,
            "transitions": {
                action: {self.actions[to]: int(row[to]) for to in np.flatnonzero(row)}
                for action, row in zip(self.actions, self.transitions, strict=True)
                if row.any()
            },
            "hours": {
                action: row.reshape(DAYS_OF_WEEK, HOURS_OF_DAY).tolist()
                for action, row in zip(self.actions, self.profile, strict=True)
            },
            "session_gap_seconds": self.session_gap.total_seconds(),
            "session_count": len(lengths),
            "session_seconds_mean": float(lengths.mean()) if some else 0.0,
            "session_seconds_median": float(np.median(lengths)) if some else 0.0,
            "session_actions_mean": float(self.counts.sum()) / len(lengths) if some else 0.0,
        }

    def session_documents(self) -> list[dict[str, Any]]:
        """Return each session, ready for JSON, in the order of time."""
        taken: list[dict[str, int]] = [{} for _ in self.session_starts]
        for cell, count in zip(self.session_cells.tolist(), self.session_counts.tolist(), strict=True):
            session, action = divmod(cell, len(self.actions))
            taken[session][self.actions[action]] = count
        return [
            {
                "start_time": iso_time(start),
                "end_time": iso_time(end),
                "length_seconds": (end - start) / 1e6,
                "action_count": sum(actions.values()),
                "actions": actions,
            }
            for start, end, actions in zip(self.session_starts.tolist(), self.session_ends.tolist(), taken, strict=True)
        ]


def behavior_of(table: pa.Table, settings: LossySettings) -> Behavior:
    """Return what the actions of sorted records come to.

    Raises LossySettingsInvalid when the settings name no action, and the records have more than one column of texts.
    """
    found = actions_of(table, settings.action_column)
    encoded = found.dictionary_encode()
    names = [name[:ACTION_LENGTH_MAX] for name in encoded.dictionary.to_pylist()]
    valid = np.asarray(found.is_valid())
    codes = np.asarray(encoded.indices.fill_null(0)).astype(np.int64)[valid]
    frequency = np.bincount(codes, minlength=len(names))
    ranked = sorted(range(len(names)), key=lambda code: (-int(frequency[code]), names[code]))
    kept = ranked if len(ranked) <= ACTIONS_MAX else ranked[: ACTIONS_MAX - 1]
    actions = sorted({names[code] for code in kept} | ({OTHER_ACTIONS} if len(kept) < len(ranked) else set()))
    places = {name: place for place, name in enumerate(actions)}
    # What is not kept is told as the other actions; cut names may have become the same.
    kept_codes = set(kept)
    to_place = np.array(
        [places[names[code] if code in kept_codes else OTHER_ACTIONS] for code in range(len(names))], dtype=np.int64
    )
    merged = sum(int(frequency[code]) for code in ranked[len(kept) :])
    codes = to_place[codes] if names else codes
    behavior = _counted(times_of(table)[valid], codes, actions, settings.session_gap)
    return replace(behavior, missing_count=int((~valid).sum()), merged_count=merged)


def _counted(times: Integers, codes: Integers, actions: Sequence[str], gap: timedelta) -> Behavior:
    size = len(actions)
    breaks = np.diff(times) > gap // timedelta(microseconds=1)
    session = np.concatenate([np.zeros(min(len(times), 1), dtype=np.int64), np.cumsum(breaks)])
    sessions = int(session[-1]) + 1 if len(session) else 0
    begins = np.searchsorted(session, np.arange(sessions), side="left")
    ends = np.searchsorted(session, np.arange(sessions), side="right") - 1
    within = ~breaks
    pairs = codes[:-1][within] * size + codes[1:][within]
    hours = (times // _HOUR + _TO_MONDAY) % HOURS_OF_WEEK
    cells, counts = np.unique(session * size + codes, return_counts=True)
    return Behavior(
        actions=tuple(actions),
        counts=np.bincount(codes, minlength=size).astype(np.int64),
        missing_count=0,
        merged_count=0,
        session_gap=gap,
        session_starts=times[begins],
        session_ends=times[ends],
        session_cells=cells,
        session_counts=counts.astype(np.int64),
        transitions=_table(pairs, size, size),
        profile=_table(codes * HOURS_OF_WEEK + hours, size, HOURS_OF_WEEK),
    )


def _table(cells: Integers, rows: int, columns: int) -> npt.NDArray[np.int64]:
    return np.bincount(cells, minlength=rows * columns).astype(np.int64).reshape(rows, columns)


def actions_of(table: pa.Table, action_column: str) -> pa.Array:
    """Return the action of each record as text, missing where there is none."""
    if holds_documents(table):
        if not action_column:
            raise LossySettingsInvalid("action_column", "must name the field of the documents that holds the action")
        return pa.array(field_texts(table, action_column), type=pa.string())
    chosen = action_column or only_text(columns_of(table))
    if chosen not in table.column_names:
        raise LossySettingsInvalid("action_column", f"there is no column {chosen!r}", column=chosen)
    return single(table.column(chosen)).cast(pa.string())


def only_text(columns: Sequence[Column]) -> str:
    """Return the name of the only column of texts. Raises LossySettingsInvalid when there is another number of them."""
    texts = [column.name for column in columns if column.kind is ColumnKind.STRING]
    if len(texts) != 1:
        raise LossySettingsInvalid("action_column", "must name the column that holds the action")
    return texts[0]


def explained_share(behavior: Behavior) -> float:
    """Return how much of what happens next the kept counts tell: 0 nothing, 1 all.

    The larger of two shares of the actions' entropy: what the action before in the session tells (or that there was
    none), and what the hour of the week tells; times the share of records whose action is known by its name.
    """
    total = int(behavior.counts.sum())
    if not total:
        return 0.0
    named = 1.0 - behavior.merged_count / total
    whole = _entropy(behavior.counts)
    if not whole:
        return named
    firsts = behavior.counts - behavior.transitions.sum(axis=0)
    before = np.vstack([behavior.transitions, firsts])
    unexplained = min(_conditional(before), _conditional(behavior.profile.T)) / whole
    return max(0.0, 1.0 - unexplained) * named


def _conditional(rows: npt.NDArray[np.int64]) -> float:
    """Return the entropy of the actions that is left when their row is known, in bits."""
    return sum(_entropy(row) * int(row.sum()) for row in rows) / max(int(rows.sum()), 1)


def _entropy(counts: Integers) -> float:
    present = counts[counts > 0]
    if len(present) < 2:  # noqa: PLR2004 - what is always the same tells nothing
        return 0.0
    shares = present / present.sum()
    return -float((shares * np.log2(shares)).sum())


def likely_actions(behavior: Behavior, times: Integers) -> pa.Array:
    """Return for each time the action that is commonest in its hour of the week, or of all where that hour has none."""
    if not behavior.actions:
        return pa.nulls(len(times), pa.string())
    best = np.where(behavior.profile.any(axis=0), behavior.profile.argmax(axis=0), behavior.counts.argmax())
    hours = (times // _HOUR + _TO_MONDAY) % HOURS_OF_WEEK
    return pa.array(behavior.actions, type=pa.string()).take(pa.array(best[hours]))


def add_behavior(writer: PayloadWriter, behavior: Behavior) -> tuple[dict[str, Any], int]:
    """Store behaviour; return what the reader must know, and the bytes it takes."""
    stored = writer.add_array("sessions.places", behavior.session_cells)
    stored += writer.add_array("sessions.counts", behavior.session_counts)
    for name, cells in (("transitions", behavior.transitions), ("profile", behavior.profile)):
        # Most cells are empty: their places and counts are far smaller than the table.
        flat = cells.ravel()
        places = np.flatnonzero(flat)
        stored += writer.add_array(f"{name}.places", places) + writer.add_array(f"{name}.counts", flat[places])
    stored += writer.add_array("starts", behavior.session_starts)
    stored += writer.add_array("lengths", behavior.session_ends - behavior.session_starts)
    told = {
        "actions": list(behavior.actions),
        "missing": behavior.missing_count,
        "merged": behavior.merged_count,
        "gap": behavior.session_gap // timedelta(microseconds=1),
    }
    return told, stored


def read_behavior(reader: PayloadReader, header: Mapping[str, Any]) -> Behavior:
    """Return what `add_behavior` has stored."""
    actions = tuple(header["actions"])
    size = len(actions)
    starts: Integers = reader.array("starts", np.int64)
    lengths: Integers = reader.array("lengths", np.int64)
    if len(starts) != len(lengths):
        raise LossyPayloadDamaged("the sessions have the wrong count")
    shapes = {"transitions": (size, size), "profile": (size, HOURS_OF_WEEK)}
    tables: dict[str, npt.NDArray[np.int64]] = {}
    for name, (rows, columns) in shapes.items():
        flat = np.zeros(rows * columns, dtype=np.int64)
        flat[reader.array(f"{name}.places", np.int64)] = reader.array(f"{name}.counts", np.int64)
        tables[name] = flat.reshape(rows, columns)
    return Behavior(
        actions=actions,
        counts=tables["profile"].sum(axis=1),
        missing_count=int(header["missing"]),
        merged_count=int(header["merged"]),
        session_gap=timedelta(microseconds=int(header["gap"])),
        session_starts=starts,
        session_ends=starts + lengths,
        session_cells=reader.array("sessions.places", np.int64),
        session_counts=reader.array("sessions.counts", np.int64),
        transitions=tables["transitions"],
        profile=tables["profile"],
    )


def iso_time(micros: int) -> str:
    """Return microseconds since 1970 as people write times."""
    return (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=micros)).isoformat().replace("+00:00", "Z")
