"""What is found out on the records themselves: coverage, critical data, samples, training sets.

These functions run in a model process: they import scikit-learn where they need it, and the server never calls them.
All take one table with a row for each record that was read, by dataset and time. Columns: `time` (microseconds since
1970), `dataset` and `segment` (places in lists that the caller keeps), `weight` (records that the row stands for), and
the records' own columns as `n:name` (numbers and truth values) and `t:name` (texts).
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise
from typing import Any, Final

import numpy as np
import pyarrow as pa

from tallygate_server.lifecycle.model_process.messages import ModelJobRefused
from tallygate_server.lifecycle.value.seasons import Floats, Integers, SeasonKind, allocate, strata_of
from tallygate_server.lifecycle.value.selection import COVERAGE_RADIUS, nearest, spread

FEATURES_MAX: Final = 16
"""Of more, the principal components are taken."""
TEXTS_MAX: Final = 8
"""Values of a text column that are told apart; the commonest."""
OUTLIER: Final = 5.0
"""Standard deviations that count as no more than this: one wrong value must not outweigh everything."""
MODEL_ROWS_MAX: Final = 10_000
MODEL_ROWS_MIN: Final = 40
CLASSES_MAX: Final = 50
TEST_SHARE: Final = 0.3
"""The last part of every segment, in the order of time, that no model is trained on."""
ACCURACY_RATIO_DEFAULT: Final = 0.95
VALIDATION_SHARE: Final = 0.25
"""Of the training part: decides between the models."""
FITS_MAX: Final = {"ridge": 300, "gradient_boosting": 100}
"""Models that are fitted to find critical segments: every set of them is tried where that is enough, else each next to
those chosen, else they are taken by their worth."""
BLOCKS_MAX: Final = 2_000
"""Parts that a training set is chosen from, and with the one that is cut in two its spans."""
RECORDS_PER_BLOCK_MIN: Final = 4
COVERING_SHARE: Final = 0.5
"""Of a training set: is spread over everything before the rest goes to what is worth most."""
REGIMES_MAX: Final = 16
"""Clusters that tell how common a record is."""
CLEARLY_BETTER: Final = 0.1
"""Share of the linear model's error that trees must save to be taken."""
_TREES: Final = 40
_DAY: Final = 86_400_000_000


@dataclass(frozen=True, slots=True)
class _Rows:
    """The records that were read."""

    times: Integers
    datasets: Integers
    segments: Integers
    weights: Floats
    columns: Mapping[str, pa.ChunkedArray]

    @classmethod
    def of(cls, table: pa.Table) -> _Rows:
        def numbers(name: str, kind: Any = np.int64) -> Any:
            return table.column(name).to_numpy().astype(kind)

        named = {name: table.column(name) for name in table.column_names if name[1:2] == ":"}
        return cls(
            numbers("time"),
            numbers("dataset"),
            numbers("segment"),
            numbers("weight", np.float64),
            dict(sorted(named.items())),
        )


def select_samples(parameters: Mapping[str, Any], tables: Sequence[pa.Table]) -> dict[str, Any]:
    """Choose `sample_count` rows that represent all; `seasons` (numbers), `seed`.

    Returns `rows`, and of each its `strata` and `weights`; `coverage`; `counts` by stratum.
    """
    rows = _Rows.of(tables[0])
    numbers = np.random.default_rng(parameters["seed"])
    features = _features(rows, parameters["seed"])
    strata, names = strata_of(rows.times, [SeasonKind(kind) for kind in parameters["seasons"]])
    sizes = np.bincount(strata, minlength=len(names))
    shares: Floats = np.bincount(strata, weights=rows.weights, minlength=len(names)).astype(np.float64)
    counts = allocate(shares, parameters["sample_count"], sizes)
    samples = spread(features, rows.weights, strata, counts, numbers)
    samples = samples[np.argsort(rows.times[samples], kind="stable")]
    stands_for = np.zeros(len(rows.times), dtype=np.int64)
    for stratum in range(len(names)):
        members = np.flatnonzero(strata == stratum)
        own = np.flatnonzero(strata[samples] == stratum)
        # A stratum that got none is represented by whatever is closest to its records.
        own = own if len(own) else np.arange(len(samples))
        stands_for[members] = own[nearest(features[members], features[samples[own]])[0]]
    weights = np.bincount(stands_for, weights=rows.weights, minlength=len(samples)) / rows.weights.sum()
    return {
        "rows": samples.tolist(),
        "strata": [names[stratum] for stratum in strata[samples]],
        "weights": weights.tolist(),
        "coverage": _coverage(features, rows.weights, samples),
        "counts": {names[stratum]: int(count) for stratum, count in enumerate(counts)},
    }


def identify_critical(parameters: Mapping[str, Any], tables: Sequence[pa.Table]) -> dict[str, Any]:
    """Find the fewest segments that keep a model's accuracy: `target`, `min_accuracy_ratio`, `worths`, `seed`.

    Worths are by segment. Returns `segments` (places, most critical first), `accuracy_full`, `accuracy_critical`,
    `metric`, `model`, `method`; no segments and `learned` false where no model beats the mean.
    """
    rows = _Rows.of(tables[0])
    task = _Task.of(rows, parameters["target"], parameters["seed"])
    everything = sorted(set(rows.segments.tolist()))
    full = task.accuracy(everything)
    told = {"accuracy_full": full, "metric": task.metric, "model": task.model}
    if full <= 0:
        return told | {"segments": [], "accuracy_critical": 0.0, "learned": False, "method": ""}
    wanted = full * parameters["min_accuracy_ratio"]
    worths = parameters["worths"]
    by_worth = sorted(everything, key=lambda segment: (-worths[segment], segment))
    count, fits = len(everything), FITS_MAX[task.model]
    if 2**count <= fits:
        found, method = _smallest(task, by_worth, wanted), "every set was tried"
    elif count * (count + 1) // 2 <= fits:
        found, method = _greedy(task, by_worth, wanted), "the segment that helped most was added, one after the other"
    else:
        found, method = (
            _prefix(task, by_worth, wanted),
            "segments were added by their worth, and those needless left out",
        )
    found = _pruned(task, found, wanted, fits=fits)
    return told | {
        "segments": found,
        "accuracy_critical": task.accuracy(found),
        "learned": True,
        "method": method,
    }


def choose_training_set(parameters: Mapping[str, Any], tables: Sequence[pa.Table]) -> dict[str, Any]:
    """Choose spans of `target_record_count` records: `scores` by segment, `target` (may be empty), `seed`.

    Returns `spans` (dataset, start and end in microseconds, stride, records, score, novelty, weight), `record_count`,
    `coverage`, `value_retained`, `accuracy_full`, `accuracy_chosen`.
    """
    rows = _Rows.of(tables[0])
    features = _features(rows, parameters["seed"])
    scores = np.asarray(parameters["scores"], dtype=np.float64)[rows.segments]
    novelty = _novelty(features, rows.weights, parameters["seed"])
    blocks = _blocks(rows, scores, novelty, int(parameters["target_record_count"]))
    parts = _strides(rows, blocks, int(parameters["target_record_count"]))
    spans: list[dict[str, Any]] = []
    chosen = np.zeros(len(rows.times), dtype=np.bool_)
    total = 0
    for block, first, last, stride in parts:
        members = np.arange(first, last)
        ordinals = np.cumsum(rows.weights[members]) - rows.weights[members]
        records = int(rows.weights[members].sum())
        count = -(-records // stride)
        # A row stands for the records from it to the next one: it is in the set where one of these is.
        chosen[members] = np.floor((ordinals + rows.weights[members] - 1) / stride) >= np.ceil(ordinals / stride)
        total += count
        spans.append(
            {
                "dataset": int(rows.datasets[first]),
                "start": int(rows.times[first]),
                "end": int(rows.times[last - 1]) + 1,
                "stride": int(stride),
                "records": count,
                "weight": records / count,
                "score": block.score,
                "novelty": block.novelty,
            }
        )
    samples = np.flatnonzero(chosen)
    worth = scores * rows.weights
    kept = sum(span["records"] * span["score"] for span in spans)
    target = parameters["target"]
    full = optimized = 0.0
    if target:
        task = _Task.of(rows, target, parameters["seed"])
        full, optimized = task.accuracy_of(task.training), task.accuracy_of(task.training & chosen)
    return {
        "spans": spans,
        "record_count": total,
        "coverage": _coverage(features, rows.weights, samples),
        "value_retained": min(1.0, float(kept / worth.sum())) if worth.sum() > 0 else 1.0,
        "accuracy_full": full,
        "accuracy_chosen": optimized,
    }


# Features


def _features(rows: _Rows, seed: int, *, without: str = "") -> Floats:
    """Return standardised features of each row; what is missing counts as usual."""
    from sklearn.decomposition import PCA  # noqa: PLC0415 - the module is read where scikit-learn must not be
    from sklearn.preprocessing import OneHotEncoder, StandardScaler  # noqa: PLC0415

    found: list[Floats] = []
    for name, column in rows.columns.items():
        if name[2:] == without:
            continue
        if name.startswith("n:"):
            values = _floats(column)
            if np.isfinite(values).sum() > 0:
                found.append(StandardScaler().fit_transform(values[:, None]))
        else:
            texts = np.array(column.fill_null("").to_pylist(), dtype=object)[:, None]
            coded = OneHotEncoder(max_categories=TEXTS_MAX, sparse_output=False).fit_transform(texts)
            found.append(StandardScaler().fit_transform(coded))
    if not found:
        found = [StandardScaler().fit_transform(rows.times[:, None].astype(np.float64))]
    features = np.nan_to_num(np.hstack(found), nan=0.0).clip(-OUTLIER, OUTLIER)
    varying = features[:, features.std(axis=0) > 0]
    if varying.shape[1] > FEATURES_MAX:
        varying = PCA(FEATURES_MAX, svd_solver="full", random_state=seed).fit_transform(varying)
    result: Floats = varying if varying.shape[1] else np.zeros((len(rows.times), 1))
    return np.ascontiguousarray(result, dtype=np.float64)


def _floats(column: pa.ChunkedArray) -> Floats:
    values = column.cast(pa.float64()).to_numpy().astype(np.float64)
    return np.where(np.isfinite(values), values, np.nan)


def _seasonal(times: Integers) -> Floats:
    day = times % _DAY / _DAY * 2 * np.pi
    week = times % (7 * _DAY) / (7 * _DAY) * 2 * np.pi
    return np.column_stack(
        [wave(turn * angle) for angle in (day, week) for turn in (1, 2, 3) for wave in (np.sin, np.cos)]
    )


def _coverage(features: Floats, weights: Floats, chosen: Integers) -> float:
    if not len(chosen):
        return 0.0
    from sklearn.neighbors import NearestNeighbors  # noqa: PLC0415

    scale = np.sqrt(features.shape[1])
    # Equal points would only make the tree deep.
    found = NearestNeighbors(n_neighbors=1).fit(np.unique(features[chosen], axis=0))
    far = found.kneighbors(features)[0][:, 0] / scale
    return min(1.0, float(weights[far <= COVERAGE_RADIUS].sum() / weights.sum()))


def _novelty(features: Floats, weights: Floats, seed: int) -> Floats:
    """Return how uncommon each row is, 0 to 1: one less the share of the records in its regime."""
    from sklearn.cluster import MiniBatchKMeans  # noqa: PLC0415

    count = min(REGIMES_MAX, len(np.unique(features, axis=0)))
    if count <= 1:
        return np.zeros(len(features))
    regimes = MiniBatchKMeans(count, random_state=seed, n_init=3).fit_predict(features, sample_weight=weights)
    shares = np.bincount(regimes, weights=weights, minlength=count) / weights.sum()
    found: Floats = 1.0 - shares[regimes]
    return found


# Models


@dataclass(slots=True)
class _Task:
    """Predicting a column: what is known, what is to be told, and which rows are for training."""

    features: Floats
    labels: Any
    segments: Integers
    training: Any
    test: Integers
    metric: str
    model: str
    seed: int
    known: dict[tuple[int, ...], float]

    @classmethod
    def of(cls, rows: _Rows, target: str, seed: int) -> _Task:
        numeric, text = rows.columns.get(f"n:{target}"), rows.columns.get(f"t:{target}")
        if numeric is None and text is None:
            raise ModelJobRefused("target_column", f"no record has a column {target!r}")
        labels: Any
        if numeric is not None:
            labels = _floats(numeric)
            usable = np.isfinite(labels)
        else:
            assert text is not None
            labels = np.array(text.fill_null("").to_pylist(), dtype=object)
            usable = text.is_valid().to_numpy().astype(np.bool_)
            classes = len(set(labels[usable].tolist()))
            if not 2 <= classes <= CLASSES_MAX:  # noqa: PLR2004 - one class is no choice
                raise ModelJobRefused("target_column", f"has {classes} values; a model tells 2 to {CLASSES_MAX} apart")
        if int(usable.sum()) < MODEL_ROWS_MIN:
            raise ModelJobRefused("target_column", f"fewer than {MODEL_ROWS_MIN} records have a value of it")
        keep = np.flatnonzero(usable)
        if len(keep) > MODEL_ROWS_MAX:
            keep = keep[np.linspace(0, len(keep) - 1, MODEL_ROWS_MAX).astype(np.int64)]
        usable = np.zeros(len(labels), dtype=np.bool_)
        usable[keep] = True
        test = _last_part(rows, usable, TEST_SHARE)
        task = cls(
            features=np.hstack([_features(rows, seed, without=target), _seasonal(rows.times)]),
            labels=labels,
            segments=rows.segments,
            training=usable & ~test,
            test=np.flatnonzero(test),
            metric="r2" if numeric is not None else "accuracy",
            model="ridge",
            seed=seed,
            known={},
        )
        if not len(task.test) or not task.training.any():
            raise ModelJobRefused("target_column", "too few records of each segment have a value of it")
        validation = _last_part(rows, task.training, VALIDATION_SHARE)
        if validation.any() and (task.training & ~validation).any():
            tried = {}
            for task.model in ("gradient_boosting", "ridge"):
                tried[task.model] = task._fitted(task.training & ~validation, np.flatnonzero(validation))
            # Trees take a hundred times as long: only where they are clearly better.
            if tried["gradient_boosting"] > tried["ridge"] + (1.0 - tried["ridge"]) * CLEARLY_BETTER:
                task.model = "gradient_boosting"
        return task

    def accuracy(self, segments: Sequence[int]) -> float:
        """Return how well a model does that has seen these segments' training parts only."""
        key = tuple(sorted(segments))
        if key not in self.known:
            self.known[key] = self.accuracy_of(self.training & np.isin(self.segments, key))
        return self.known[key]

    def accuracy_of(self, rows: Any) -> float:
        """Return how well a model does that has seen these rows only: 0 to 1."""
        return max(0.0, self._fitted(rows, self.test))

    def _fitted(self, rows: Any, tested: Integers) -> float:
        from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor  # noqa: PLC0415
        from sklearn.linear_model import Ridge, RidgeClassifier  # noqa: PLC0415
        from sklearn.metrics import accuracy_score, r2_score  # noqa: PLC0415

        places = np.flatnonzero(rows)
        truth = self.labels[tested]
        if not len(places):
            return 0.0
        regression = self.metric == "r2"
        if not regression and len(set(self.labels[places].tolist())) == 1:
            return float(np.mean(truth == self.labels[places[0]]))
        linear, trees = (
            (Ridge, HistGradientBoostingRegressor) if regression else (RidgeClassifier, HistGradientBoostingClassifier)
        )
        fitted: Any = (
            linear() if self.model == "ridge" else trees(max_iter=_TREES, early_stopping=False, random_state=self.seed)
        )
        fitted.fit(self.features[places], self.labels[places])
        predicted = fitted.predict(self.features[tested])
        return float((r2_score if regression else accuracy_score)(truth, predicted))


def _smallest(task: _Task, segments: Sequence[int], wanted: float) -> list[int]:
    """Return the smallest set that is good enough, and of those the best."""
    for size in range(1, len(segments) + 1):
        tried = [(task.accuracy(each), each) for each in combinations(segments, size)]
        accuracy, best = max(tried, key=lambda pair: pair[0])
        if accuracy >= wanted:
            return _by_loss(task, best)
    return list(segments)


def _greedy(task: _Task, segments: Sequence[int], wanted: float) -> list[int]:
    chosen: list[int] = []
    while len(chosen) < len(segments):
        left = [segment for segment in segments if segment not in chosen]
        chosen.append(max(left, key=lambda segment: task.accuracy([*chosen, segment])))
        if task.accuracy(chosen) >= wanted:
            break
    return chosen


def _prefix(task: _Task, segments: Sequence[int], wanted: float) -> list[int]:
    """Return the first segments that are good enough together; doubling, then halving the step."""
    low, high = 0, 1
    while high < len(segments) and task.accuracy(segments[:high]) < wanted:
        low, high = high, min(2 * high, len(segments))
    while high - low > 1:
        middle = (low + high) // 2
        if task.accuracy(segments[:middle]) >= wanted:
            high = middle
        else:
            low = middle
    return list(segments[:high])


def _pruned(task: _Task, segments: Sequence[int], wanted: float, *, fits: int) -> list[int]:
    """Leave out segments that are not needed, from the last one on, as far as the models that are left to fit reach."""
    kept = list(segments)
    for segment in reversed(segments):
        left = [each for each in kept if each != segment]
        if left and len(task.known) < fits and task.accuracy(left) >= wanted:
            kept = left
    return kept


def _by_loss(task: _Task, segments: Sequence[int]) -> list[int]:
    """Return segments in the order of what the model loses without them."""
    return sorted(
        segments, key=lambda segment: (task.accuracy([each for each in segments if each != segment]), segment)
    )


def _last_part(rows: _Rows, usable: Any, share: float) -> Any:
    """Return which rows are the last of each segment's usable ones, in the order of time."""
    found = np.zeros(len(rows.times), dtype=np.bool_)
    for segment in np.unique(rows.segments[usable]):
        members = np.flatnonzero((rows.segments == segment) & usable)
        members = members[np.argsort(rows.times[members], kind="stable")]
        found[members[len(members) - int(len(members) * share) :]] = True
    return found


# Training sets


@dataclass(frozen=True, slots=True)
class _Block:
    """Rows of one dataset that follow each other."""

    first: int
    last: int
    records: int
    score: float
    novelty: float


def _blocks(rows: _Rows, scores: Floats, novelty: Floats, target: int) -> list[_Block]:
    """Cut each dataset into blocks of about as many records, at changes of the time."""
    wanted = max(1, min(BLOCKS_MAX, target // RECORDS_PER_BLOCK_MIN))
    # One border at least stands at every end of a dataset; these count too.
    count_max = max(1, wanted - len(np.unique(rows.datasets)))
    # Where nothing is left out, a block for each dataset says it all.
    size = max(1.0, rows.weights.sum() / count_max) if rows.weights.sum() > target else np.inf
    ordinals = np.cumsum(rows.weights)
    numbers = np.floor((ordinals - rows.weights) / size)
    borders = [0]
    for place in range(1, len(rows.times)):
        full = numbers[place] != numbers[borders[-1]] and rows.times[place] != rows.times[place - 1]
        if full or rows.datasets[place] != rows.datasets[place - 1]:
            borders.append(place)
    borders.append(len(rows.times))
    return [
        _Block(
            first,
            last,
            int(rows.weights[first:last].sum()),
            float(np.average(scores[first:last], weights=rows.weights[first:last])),
            float(np.average(novelty[first:last], weights=rows.weights[first:last])),
        )
        for first, last in pairwise(borders)
    ]


def _strides(rows: _Rows, blocks: Sequence[_Block], target: int) -> list[tuple[_Block, int, int, int]]:
    """Return blocks, or parts of them, with first and last row and stride: the target together, or all records."""
    if sum(block.records for block in blocks) <= target:
        return [(block, block.first, block.last, 1) for block in blocks]
    stride, largest = 1, max(block.records for block in blocks)
    while stride < largest and sum(-(-block.records // stride) for block in blocks) > target * COVERING_SHARE:
        stride *= 2
    # Fewer records than blocks: those with the most to tell get one each.
    best = sorted(range(len(blocks)), key=lambda place: (-_gain(blocks[place], stride), place))[:target]
    strides = dict.fromkeys(sorted(best), stride)
    left = target - sum(-(-blocks[place].records // stride) for place in strides)
    borders: dict[int, int] = {}
    waiting = [(-_gain(blocks[place], stride), place) for place in strides if stride > 1]
    heapq.heapify(waiting)
    while waiting and left > 0:
        _, place = heapq.heappop(waiting)
        block, now = blocks[place], strides[place]
        added = -(-block.records // (now // 2)) - -(-block.records // now)
        if added > left:
            borders[place], added = _border(rows, block, now, left)
            left -= added
            continue
        strides[place], left = now // 2, left - added
        if strides[place] > 1:
            heapq.heappush(waiting, (-_gain(block, strides[place]), place))
    parts: list[tuple[_Block, int, int, int]] = []
    for place, each in strides.items():
        block, border = blocks[place], borders.get(place, blocks[place].first)
        if border > block.first:
            parts.append((block, block.first, border, each // 2))
        parts.append((block, border, block.last, each))
    return parts


def _border(rows: _Rows, block: _Block, stride: int, room: int) -> tuple[int, int]:
    """Return the row before which half the stride may be taken, and how many records that adds: at most `room`."""
    weights = rows.weights[block.first : block.last]
    before = np.cumsum(weights) - weights
    added = np.ceil(before / (stride // 2)) + np.ceil((block.records - before) / stride) - -(-block.records // stride)
    times = rows.times[block.first : block.last]
    allowed = (added <= room) & np.concatenate([[True], times[1:] != times[:-1]])
    place = int(np.where(allowed, added, -1).argmax())
    return block.first + place, int(added[place])


def _gain(block: _Block, stride: int) -> float:
    """Return what another record of the block gives: its worth, and what the stride has missed of the uncommon."""
    return block.score + block.novelty * (1.0 - 1.0 / stride)
