"""Choosing records that stand for others: cover as much as possible first, then what lies farthest away.

Distances are those of standardised features, as root of the mean square over the features: 1 is one standard deviation
in every one of them.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from tallygate_server.lifecycle.value.seasons import Floats, Integers

COVERAGE_RADIUS: Final = 0.5
"""Standard deviations within which a record counts as close to another."""
CENTERS_MAX: Final = 4_000
"""Records that are tried as covering ones; of more, an even choice of each stratum is taken."""
WATCHED_MAX: Final = 20_000
"""Records that tell how much others cover; of more, an even choice is taken."""
CANDIDATES_MAX: Final = 20_000
"""Records of a stratum of which the farthest are looked for; of more, an even choice is taken."""
_BLOCK: Final = 512


def distances(first: Floats, second: Floats) -> Floats:
    """Return the distance of each of the first to each of the second."""
    squares = (first**2).sum(axis=1)[:, None] + (second**2).sum(axis=1)[None, :] - 2.0 * (first @ second.T)
    found: Floats = np.sqrt(np.maximum(squares, 0.0) / max(first.shape[1], 1))
    return found


def nearest(points: Floats, chosen: Floats) -> tuple[Integers, Floats]:
    """Return for each point the place of the nearest chosen one, the first where several are, and its distance."""
    places = np.zeros(len(points), dtype=np.int64)
    far = np.full(len(points), np.inf)
    for offset in range(0, len(points), _BLOCK):
        block = slice(offset, offset + _BLOCK)
        found = distances(points[block], chosen)
        places[block] = found.argmin(axis=1)
        far[block] = found[np.arange(len(found)), places[block]]
    return places, far


def spread(
    points: Floats, weights: Floats, strata: Integers, counts: Integers, numbers: np.random.Generator
) -> Integers:
    """Choose `counts` records of each stratum that together cover as much weight of all as possible.

    Each choice is the best that is left and that its stratum has room for (greedy: at least half of what the best such
    set covers). Where nothing is left to cover, a stratum gets what lies farthest from what it has. Of records that are
    as good as each other the generator decides. Returns places, ascending.
    """
    chosen = _covering(points, weights, strata, counts, numbers)
    taken = np.bincount(strata[chosen], minlength=len(counts)) if chosen else np.zeros(len(counts), dtype=np.int64)
    found = [np.array(chosen, dtype=np.int64)]
    order = np.argsort(strata, kind="stable")
    borders = np.searchsorted(strata[order], np.arange(len(counts) + 1))
    for stratum in np.flatnonzero(taken < counts):
        members = order[borders[stratum] : borders[stratum + 1]]
        own = np.isin(members, found[0])
        found.append(members[_farthest(points[members], own, int(counts[stratum] - taken[stratum]), numbers)])
    return np.sort(np.concatenate(found))


def _covering(
    points: Floats, weights: Floats, strata: Integers, counts: Integers, numbers: np.random.Generator
) -> list[int]:
    watched = _even(len(points), WATCHED_MAX, numbers)
    seen, worth = points[watched], weights[watched]
    centers = _centers(strata, counts, numbers)
    covers = np.empty((len(centers), len(seen)), dtype=np.bool_)
    for offset in range(0, len(centers), _BLOCK):
        covers[offset : offset + _BLOCK] = distances(points[centers[offset : offset + _BLOCK]], seen) <= COVERAGE_RADIUS
    gains = covers @ worth
    uncovered = np.ones(len(seen), dtype=np.bool_)
    room = counts.astype(np.int64)
    chosen: list[int] = []
    nothing = float(worth.min()) / 2.0
    while len(centers):
        best = int(gains.argmax())
        # What is left below the smallest weight is a rounding error.
        if gains[best] < nothing:
            break
        new = covers[best] & uncovered
        uncovered &= ~new
        gains -= covers[:, new] @ worth[new]
        gains[best] = -1.0
        chosen.append(int(centers[best]))
        stratum = strata[centers[best]]
        room[stratum] -= 1
        if not room[stratum]:
            gains[strata[centers] == stratum] = -1.0
    return chosen


def _centers(strata: Integers, counts: Integers, numbers: np.random.Generator) -> Integers:
    """Return places that are tried as covering ones: some of each stratum that gets any, in random order."""
    open_ = np.flatnonzero(counts[strata] > 0)
    if len(open_) <= CENTERS_MAX:
        return numbers.permutation(open_)
    each_max = max(1, CENTERS_MAX // max(1, int(np.count_nonzero(counts))))
    found: list[Integers] = []
    for stratum in np.flatnonzero(counts):
        members = open_[strata[open_] == stratum]
        found.append(members[_even(len(members), each_max, numbers)])
    return numbers.permutation(np.concatenate(found))


def _farthest(points: Floats, taken: npt.NDArray[np.bool_], count: int, numbers: np.random.Generator) -> Integers:
    """Return points, one after the other, each the farthest from all before it and from those that are taken."""
    if count + np.count_nonzero(taken) >= len(points):
        left: Integers = np.flatnonzero(~taken)
        return left
    pool = np.flatnonzero(~taken)
    pool = pool[_even(len(pool), max(CANDIDATES_MAX, count), numbers)]
    candidates = points[pool]
    far = nearest(candidates, points[taken])[1] if taken.any() else np.full(len(pool), np.inf)
    picked: list[int] = []
    for _ in range(count):
        place = int(far.argmax())
        picked.append(place)
        far = np.minimum(far, distances(candidates[place : place + 1], candidates)[0])
        far[picked] = -1.0
    found: Integers = pool[picked]
    return found


def _even(count: int, count_max: int, numbers: np.random.Generator) -> Integers:
    """Return places, all or evenly distant ones from a random first on."""
    if count <= count_max:
        return np.arange(count, dtype=np.int64)
    start = numbers.random() * count / count_max
    found = np.floor(start + np.arange(count_max) * (count / count_max)).astype(np.int64)
    within: Integers = np.minimum(found, count - 1)
    return within
