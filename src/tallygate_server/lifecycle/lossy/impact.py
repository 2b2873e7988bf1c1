"""What a compression would lose, measured: errors of every column, and a small model's accuracy before and afterwards.

The model predicts the target from the time of day and week, from the other columns, and from what all columns were one
and two records before. It is fitted twice on the first part of the records: on the original ones, and on what would be
left of them. Both are tested on the same original records of the last part, which neither has seen. Of two models, a
linear one and gradient boosted trees, the one is taken that does better on the end of the original training part.

This module imports scikit-learn, where it is needed: it runs in a model process only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tallygate_server.domain.lifecycle import SEGMENT_ROWS_MAX, CompressionForm, CompressionSettings
from tallygate_server.lifecycle import columnar
from tallygate_server.lifecycle.lossy.codec import ColumnLoss, decode, encode
from tallygate_server.lifecycle.lossy.documents import as_columns
from tallygate_server.lifecycle.lossy.failures import LossySettingsInvalid
from tallygate_server.lifecycle.lossy.records import Column, Floats, columns_of, sorted_records, times_of
from tallygate_server.lifecycle.lossy.settings import lossy_settings
from tallygate_server.lifecycle.model_process.messages import ModelJobRefused

RECORDS_MAX: Final = 1_000_000
RECORDS_MIN: Final = 40
"""For a model; with fewer there is nothing to learn from."""
TRAINING_SHARE: Final = 0.7
VALIDATION_SHARE: Final = 0.25
"""Of the training part: decides between the models."""
FITTED_ROWS_MAX: Final = 50_000
"""Of a part; of more, a random choice is taken."""
CLASSES_MAX: Final = 50
LAGS: Final = (1, 2)
TREES: Final = 60
_DAY: Final = 86_400_000_000
_MONDAY: Final = 4 * _DAY

Labels = npt.NDArray[Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Accuracy:
    """How well a model does on records that it has not seen."""

    metric: str
    value: float
    model: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Impact:
    """What a compression would lose."""

    columns: tuple[ColumnLoss, ...]
    original_bytes: int
    compressed_bytes: int
    value_retained: float
    record_count: int
    accuracy_before: Accuracy | None = None
    accuracy_after: Accuracy | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Left:
    """Records of one dataset in the order of time, as columns, and what would be left of them row by row."""

    times: npt.NDArray[np.int64]
    columns: list[Column]
    left: dict[str, Column]


def evaluate_impact(tables: Sequence[pa.Table], settings: CompressionSettings, target_column: str, seed: int) -> Impact:
    """Encode the records of each dataset, decode them, and measure what is lost; the same seed gives the same answer.

    The models are fitted on the largest dataset that has the target. Raises ModelJobRefused.
    """
    losses: list[tuple[int, ColumnLoss]] = []
    kept: list[_Left] = []
    original_bytes = compressed_bytes = record_count = 0
    retained = 0.0
    for table in tables:
        pieces: list[_Left] = []
        records = sorted_records(table)
        for offset in range(0, records.num_rows, SEGMENT_ROWS_MAX):
            piece = records.slice(offset, SEGMENT_ROWS_MAX)
            original_bytes += columnar.plain_bytes(piece)
            record_count += piece.num_rows
            size, share, found, left = _compressed(piece, settings)
            compressed_bytes += size
            retained += share * piece.num_rows
            losses += [(piece.num_rows, loss) for loss in found]
            pieces.append(left)
        if pieces:
            kept.append(_joined(pieces))
    before, after = _accuracies(kept, target_column, seed) if target_column else (None, None)
    return Impact(
        columns=_by_column(losses),
        original_bytes=original_bytes,
        compressed_bytes=compressed_bytes,
        value_retained=retained / record_count if record_count else 1.0,
        record_count=record_count,
        accuracy_before=before,
        accuracy_after=after,
    )


def run_job(parameters: Mapping[str, Any], tables: Sequence[pa.Table]) -> dict[str, Any]:
    """Do the job `evaluate_impact` of a model process: `settings` (a document), `target_column`, `seed`."""
    settings = CompressionSettings.from_document(parameters["settings"])
    return asdict(evaluate_impact(tables, settings, parameters["target_column"], parameters["seed"]))


def _compressed(piece: pa.Table, settings: CompressionSettings) -> tuple[int, float, Sequence[ColumnLoss], _Left]:
    flat = as_columns(piece)
    columns = columns_of(flat)
    times = times_of(flat)
    if settings.form in (CompressionForm.NONE, CompressionForm.LOSSLESS):
        lossless = columnar.encode(piece, level=settings.level)
        exact = [
            ColumnLoss(
                column=name,
                codec=codec,
                original_bytes=int(piece.column(name).nbytes),
                compressed_bytes=lossless.column_bytes[name],
                max_error=0.0,
                root_mean_square_error=0.0,
            )
            for name, codec in lossless.codecs.items()
        ]
        left = {column.name: column for column in columns}
        return len(lossless.payload), 1.0, exact, _Left(times=times, columns=columns, left=left)
    try:
        result = encode(piece, lossy_settings(settings))
    except LossySettingsInvalid as error:
        raise ModelJobRefused(f"settings.{error.field}", error.description) from error
    estimated = decode(result.payload).estimate(times, columns)
    return len(result.payload), result.value_retained, result.columns, _Left(
        times=times, columns=columns, left=_flat(estimated, times)
    )  # fmt: skip


def _flat(estimated: dict[str, Column], times: npt.NDArray[np.int64]) -> dict[str, Column]:
    # Curves give documents back as they were: their fields are what a model learns from.
    table = pa.table({"time": pa.array(times)} | {name: column.array for name, column in estimated.items()})
    return {column.name: column for column in columns_of(as_columns(table))}


def _joined(pieces: Sequence[_Left]) -> _Left:
    if len(pieces) == 1:
        return pieces[0]
    names = [column.name for column in pieces[0].columns]

    def joined(columns: Sequence[Column | None]) -> Column | None:
        present = [column for column in columns if column is not None]
        # Where one segment knows nothing of a column, or has another type, all count as not knowing it.
        if len(present) < len(columns) or len({column.kind for column in present}) > 1:
            return None
        return Column(present[0].name, present[0].kind, pa.concat_arrays([column.array for column in present]))

    by_name = [{column.name: column for column in piece.columns} for piece in pieces]
    originals = [joined([columns.get(name) for columns in by_name]) for name in names]
    lefts = {name: joined([piece.left.get(name) for piece in pieces]) for name in names}
    return _Left(
        times=np.concatenate([piece.times for piece in pieces]),
        columns=[column for column in originals if column is not None],
        left={name: column for name, column in lefts.items() if column is not None},
    )


def _by_column(losses: Sequence[tuple[int, ColumnLoss]]) -> tuple[ColumnLoss, ...]:
    """Combine the losses of segments: the largest error, the root of the mean squared one over all records."""
    found: dict[str, list[tuple[int, ColumnLoss]]] = {}
    for count, loss in losses:
        found.setdefault(loss.column, []).append((count, loss))
    return tuple(
        ColumnLoss(
            column=name,
            codec=", ".join(sorted({loss.codec for _, loss in each})),
            original_bytes=sum(loss.original_bytes for _, loss in each),
            compressed_bytes=sum(loss.compressed_bytes for _, loss in each),
            max_error=max(loss.max_error for _, loss in each),
            root_mean_square_error=float(
                np.sqrt(
                    sum(count * loss.root_mean_square_error**2 for count, loss in each)
                    / max(sum(count for count, _ in each), 1)
                )
            ),
        )
        for name, each in found.items()
    )


def _accuracies(kept: Sequence[_Left], target: str, seed: int) -> tuple[Accuracy, Accuracy]:
    having = [left for left in kept if any(column.name == target for column in left.columns)]
    if not having:
        raise ModelJobRefused("target_column", f"no record has a column {target!r}")
    data = max(having, key=lambda left: len(left.times))
    column = next(column for column in data.columns if column.name == target)
    labels, known = _labels(column)
    if int(known.sum()) < RECORDS_MIN:
        raise ModelJobRefused("target_column", f"fewer than {RECORDS_MIN} records have a value of it")
    classes = None if column.kind.numeric else sorted(set(labels[known].tolist()))
    if classes is not None and not 2 <= len(classes) <= CLASSES_MAX:  # noqa: PLR2004 - one class is no choice
        raise ModelJobRefused("target_column", f"has {len(classes)} values; a model tells 2 to {CLASSES_MAX} apart")
    left_column = data.left.get(target)
    left_labels, left_known = (
        _labels(left_column) if left_column is not None else (labels, np.zeros(len(labels), dtype=np.bool_))
    )
    vocabulary = _vocabulary(data.columns)
    features = _features(data.times, data.columns, target, vocabulary)
    left_features = _features(data.times, list(data.left.values()), target, vocabulary, of=data.columns)

    rows = np.flatnonzero(known)
    split = rows[int(len(rows) * TRAINING_SHARE)]
    numbers = np.random.default_rng(seed)
    training = _chosen(rows[rows < split], numbers)
    tested = _chosen(rows[rows >= split], numbers)
    left_rows = _chosen(np.flatnonzero(left_known[:split]), numbers)

    border = int(len(training) * (1 - VALIDATION_SHARE))
    first, last = training[:border], training[border:]
    scores = {
        name: _score(name, (features[first], labels[first]), (features[last], labels[last]), classes, seed)
        for name in ("ridge", "gradient_boosting")
    }
    model = max(scores, key=lambda name: scores[name])
    metric = "r2" if classes is None else "accuracy"
    test = (features[tested], labels[tested])
    before = _score(model, (features[training], labels[training]), test, classes, seed)
    after = _score(model, (left_features[left_rows], left_labels[left_rows]), test, classes, seed)
    return (
        Accuracy(metric=metric, value=before, model=model),
        Accuracy(metric=metric, value=after, model=model),
    )


def _labels(column: Column) -> tuple[Labels, npt.NDArray[np.bool_]]:
    if column.kind.numeric:
        return column.floats()
    texts = column.array.cast(pa.string()).fill_null("")
    return np.array(texts.to_pylist(), dtype=object), column.valid


def _chosen(rows: npt.NDArray[np.int64], numbers: np.random.Generator) -> npt.NDArray[np.int64]:
    if len(rows) <= FITTED_ROWS_MAX:
        return rows
    return np.sort(numbers.choice(rows, FITTED_ROWS_MAX, replace=False))


VALUES_PER_TEXT_MAX: Final = 10


def _vocabulary(columns: Sequence[Column]) -> dict[str, list[str]]:
    """Return the commonest values of each column that holds no numbers."""
    found: dict[str, list[str]] = {}
    for column in columns:
        if not column.kind.numeric:
            values, known = _labels(column)
            texts, counts = np.unique(values[known].astype(str), return_counts=True)
            found[column.name] = [str(texts[place]) for place in np.argsort(-counts, kind="stable")]
            del found[column.name][VALUES_PER_TEXT_MAX:]
    return found


def _features(
    times: npt.NDArray[np.int64],
    columns: Sequence[Column],
    target: str,
    vocabulary: Mapping[str, Sequence[str]],
    *,
    of: Sequence[Column] | None = None,
) -> Floats:
    """Return what a model may know of each record; not-a-number where it is not known.

    `of` are the columns that the features are laid out for, when those given may be fewer.
    """
    given = {column.name: column for column in columns}
    day = (times - _MONDAY) % _DAY / _DAY * 2 * np.pi
    week = (times - _MONDAY) % (7 * _DAY) / (7 * _DAY) * 2 * np.pi
    found = [np.sin(day), np.cos(day), np.sin(week), np.cos(week)]
    for column in of if of is not None else columns:
        known = given.get(column.name)
        signals: list[Floats] = []
        if column.kind.numeric:
            if known is None:
                signals = [np.full(len(times), np.nan)]
            else:
                values, finite = known.floats()
                signals = [np.where(finite, values, np.nan)]
        else:
            texts = _labels(known)[0] if known is not None else np.full(len(times), "", dtype=object)
            signals = [(texts == value).astype(np.float64) for value in vocabulary[column.name]]
        if column.name != target:
            found += signals
        found += [_earlier(signal, lag) for signal in signals for lag in LAGS]
    return np.column_stack(found)


def _earlier(values: Floats, lag: int) -> Floats:
    return np.concatenate([np.full(min(lag, len(values)), np.nan), values[:-lag]])[: len(values)]


_Part = tuple[Floats, Labels]


def _score(model: str, training: _Part, tested: _Part, classes: Sequence[str] | None, seed: int) -> float:
    """Fit a model and return its R squared, or its share of right answers, on the test records."""
    # Imported here, so that this module can be read where scikit-learn must not be.
    from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor  # noqa: PLC0415
    from sklearn.impute import SimpleImputer  # noqa: PLC0415
    from sklearn.linear_model import Ridge, RidgeClassifier  # noqa: PLC0415
    from sklearn.metrics import accuracy_score, r2_score  # noqa: PLC0415
    from sklearn.pipeline import make_pipeline  # noqa: PLC0415
    from sklearn.preprocessing import StandardScaler  # noqa: PLC0415

    features, labels = training
    test_features, test_labels = tested
    predicted: Labels
    if not len(labels):
        # Nothing is left to learn from: the model can only guess one thing.
        predicted = np.full(len(test_labels), 0.0) if classes is None else np.full(len(test_labels), "", dtype=object)
    elif classes is not None and len(set(labels.tolist())) == 1:
        predicted = np.full(len(test_labels), labels[0], dtype=object)
    else:
        trees = HistGradientBoostingRegressor if classes is None else HistGradientBoostingClassifier
        linear = Ridge if classes is None else RidgeClassifier
        fitted: Any = (
            make_pipeline(SimpleImputer(keep_empty_features=True), StandardScaler(), linear())
            if model == "ridge"
            else trees(max_iter=TREES, early_stopping=False, random_state=seed)
        )
        fitted.fit(features, labels)
        predicted = fitted.predict(test_features)
    score = r2_score if classes is None else accuracy_score
    return float(score(test_labels, predicted))
