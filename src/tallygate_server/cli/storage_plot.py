"""Draws growth and tiers into a file."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tallygate_server.cli.explanations import CommandError
from tallygate_server.cli.output import bytes_text

if TYPE_CHECKING:
    from tallygate.v1 import data_lifecycle_service_pb2

SUFFIXES: Final = (".png", ".svg")
SIZE_INCHES: Final = (10.0, 5.0)
DOTS_PER_INCH: Final = 144
TICKS_MAX: Final = 8
_TIERS: Final = (("cold", "#3b6ea8"), ("warm", "#e3a33b"), ("hot", "#c44536"))
"""From below to above: what is cheap and stays lies at the bottom."""


def check_suffix(file: Path) -> None:
    """Raise CommandError for a file of a form that is not drawn."""
    if file.suffix.lower() not in SUFFIXES:
        raise CommandError(f"--plot {file}: name a file that ends in {' or '.join(SUFFIXES)}")


def draw_storage(metrics: data_lifecycle_service_pb2.GetStorageMetricsResponse, file: Path, *, title: str) -> None:
    """Draw what was stored on each day, and what is projected, stacked by tier. Raises CommandError, OSError."""
    if not metrics.history:
        raise CommandError("--plot: no day is known yet of which anything could be drawn")
    # No window and no state of the process: any machine can draw so.
    from matplotlib import dates
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import FixedLocator, FuncFormatter

    figure = Figure(figsize=SIZE_INCHES, dpi=DOTS_PER_INCH, layout="constrained")
    FigureCanvasAgg(figure)
    axes: Any = figure.add_subplot()
    past, future = list(metrics.history), [metrics.history[-1], *metrics.projection]
    colors = [color for _, color in _TIERS]
    days, stacks = _days(past), _stacks(past)
    if len(past) == 1:
        # An area over one instant has no width: it is drawn over its day.
        days, stacks = [days[0], days[0] + timedelta(days=1)], [stack * 2 for stack in stacks]
    axes.stackplot(days, *stacks, labels=[tier for tier, _ in _TIERS], colors=colors, linewidth=0, alpha=0.9)
    if metrics.projection:
        axes.stackplot(_days(future), *_stacks(future), colors=colors, linewidth=0, alpha=0.35)
        axes.axvline(_days(past)[-1], color="#444444", linewidth=1, linestyle="--")
        axes.annotate(
            "projected",
            (_days(past)[-1], 1),
            xycoords=("data", "axes fraction"),
            xytext=(4, -4),
            textcoords="offset points",
            verticalalignment="top",
            color="#444444",
        )
    axes.set_title(title, loc="left")
    axes.set_ylabel("stored")
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_locator(FixedLocator(round_sizes(round(axes.get_ylim()[1]))))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _position: bytes_text(round(value))))
    untyped: Any = dates
    locator = untyped.AutoDateLocator()
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(untyped.ConciseDateFormatter(locator))
    handles, labels = axes.get_legend_handles_labels()
    axes.legend(handles[::-1], labels[::-1], loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    # Without the time of drawing, the same data gives the same file.
    when: dict[str, Any] = {"Date": None} if file.suffix.lower() == ".svg" else {"Software": None}
    figure.savefig(file, metadata=when)


def round_sizes(top: int) -> list[int]:
    """Return up to eight sizes from nothing to a top that are round in binary units."""
    step = 1
    while step * TICKS_MAX < top:
        step *= 2
    return list(range(0, top + 1, step))


def _days(points: list[Any]) -> list[Any]:
    from datetime import UTC

    return [point.day_time.ToDatetime(UTC) for point in points]


def _stacks(points: list[Any]) -> list[list[int]]:
    return [[getattr(point, f"{tier}_bytes") for point in points] for tier, _ in _TIERS]
