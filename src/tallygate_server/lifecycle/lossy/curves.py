"""Curves through points that miss none by more than a tolerance, in one pass.

All work on offsets from the smallest value, and return levels: whole multiples of a grid, so that they can be stored
in few bits. The grid's rounding is part of the tolerance: no point is missed by more than that plus what floating
point adds, which the caller measures on what he has stored.
"""

from __future__ import annotations

import math

import numpy as np

from tallygate_server.lifecycle.lossy.records import Floats, Integers

GRID_SHARE: float = 0.5
"""Of the tolerance: the distance of levels. Finer ones fit longer pieces and take more bits."""


def fit_lines(x: Floats, y: Floats, tolerance: float, *, pieces_max: int) -> tuple[Integers, Integers] | None:
    """Return positions and levels of the knots of one connected line, or None when it needs too many.

    A swing filter: from the last knot all slopes are kept that pass every point so far within the tolerance; when none
    is left, a knot is set before. x ascends strictly.
    """
    grid = tolerance * GRID_SHARE
    room = tolerance - grid / 2
    count = len(x)
    xs, ys = x.tolist(), y.tolist()
    level = round(ys[0] / grid)
    positions, levels = [0], [level]
    origin_x, origin_y = xs[0], level * grid
    low, high = -math.inf, math.inf
    for index in range(1, count):
        run = xs[index] - origin_x
        rise = ys[index] - origin_y
        # No min() and max(): calls would double the time of this loop.
        slope_low = (rise - room) / run
        slope_high = (rise + room) / run
        if slope_low < low:  # noqa: PLR1730
            slope_low = low
        if slope_high > high:  # noqa: PLR1730
            slope_high = high
        if slope_low <= slope_high:
            low, high = slope_low, slope_high
            continue
        last_x = xs[index - 1]
        level = round((origin_y + (low + high) / 2 * (last_x - origin_x)) / grid)
        positions.append(index - 1)
        levels.append(level)
        if len(positions) > pieces_max:
            return None
        origin_x, origin_y = last_x, level * grid
        run = xs[index] - origin_x
        rise = ys[index] - origin_y
        low, high = (rise - room) / run, (rise + room) / run
    if count > 1:
        positions.append(count - 1)
        levels.append(round((origin_y + (low + high) / 2 * (xs[-1] - origin_x)) / grid))
    return np.array(positions, dtype=np.int64), np.array(levels, dtype=np.int64)


def along_lines(x: Floats, positions: Integers, levels: Integers, grid: float) -> Floats:
    """Return the values of a line at every point."""
    return np.interp(x, x[positions], levels.astype(np.float64)) * grid


def fit_steps(y: Floats, tolerance: float, *, pieces_max: int) -> tuple[Integers, Integers] | None:
    """Return lengths and levels of the longest runs that one level fits, or None when there are too many."""
    grid = tolerance * GRID_SHARE
    spread = 2 * tolerance - grid
    lengths: list[int] = []
    levels: list[int] = []
    ys = y.tolist()
    low = high = ys[0]
    start = 0
    for index, value in enumerate(ys):
        if low <= value <= high:
            continue
        new_low, new_high = (value, high) if value < low else (low, value)
        if new_high - new_low <= spread:
            low, high = new_low, new_high
            continue
        levels.append(round((low + high) / 2 / grid))
        lengths.append(index - start)
        if len(levels) > pieces_max:
            return None
        start, low, high = index, value, value
    levels.append(round((low + high) / 2 / grid))
    lengths.append(len(ys) - start)
    return np.array(lengths, dtype=np.int64), np.array(levels, dtype=np.int64)


def along_steps(lengths: Integers, levels: Integers, grid: float) -> Floats:
    """Return the values of runs at every point."""
    return np.repeat(levels.astype(np.float64) * grid, lengths)
