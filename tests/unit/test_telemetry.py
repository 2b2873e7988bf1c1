"""Metrics are counted cheaply and shown completely; logs show only what was allowed."""

from __future__ import annotations

import ast
import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import structlog
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from tallygate_server import telemetry
from tallygate_server.domain.call import CheckAnswer, IncrementAnswer
from tallygate_server.domain.catalog import FeatureKind
from tallygate_server.domain.entitlement import Reason
from tallygate_server.errors import CountersUnavailable, TallygateError
from tallygate_server.telemetry import COMMIT_ROWS, Counts, Distribution, Level, Metrics

SOURCE_DIR = Path(telemetry.__file__).parent


def samples_of(metrics: Metrics) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in metrics.collect()
        for sample in family.samples
    }


def test_a_check_is_counted_by_kind_decision_and_reason() -> None:
    metrics = Metrics()

    metrics.check(CheckAnswer(Reason.OK, feature_kind=FeatureKind.COUNTER))
    metrics.check(CheckAnswer(Reason.UNKNOWN_FEATURE))

    assert metrics.checks.value("counter", "allowed", "ok") == 1
    assert metrics.checks.value("unknown", "denied", "unknown_feature") == 1


@pytest.mark.parametrize(
    ("outcome", "result"),
    [
        (IncrementAnswer(Reason.OK), "ok"),
        (IncrementAnswer(Reason.EXHAUSTED), "exhausted"),
        (IncrementAnswer(Reason.OK, replayed=True), "replayed"),
        (CountersUnavailable("no answer"), f"error_{CountersUnavailable.reason.lower()}"),
    ],
)
def test_an_increment_is_counted_by_its_result(outcome: IncrementAnswer | TallygateError, result: str) -> None:
    metrics = Metrics()

    metrics.increment(outcome)

    assert metrics.increments.value(result) == 1


def test_a_call_is_split_into_the_labels_that_dashboards_know() -> None:
    metrics = Metrics()
    metrics.declare_streaming(["/tallygate.v1.EntitlementService/WatchEntitlements"])

    metrics.call("/tallygate.v1.UsageService/Increment", "OK", 0.002)
    metrics.call("/tallygate.v1.EntitlementService/WatchEntitlements", "CANCELLED", 3.0)

    assert metrics.calls_handled.value("unary", "tallygate.v1.UsageService", "Increment", "OK") == 1
    assert (
        metrics.calls_handled.value(
            "server_stream", "tallygate.v1.EntitlementService", "WatchEntitlements", "CANCELLED"
        )
        == 1
    )


def test_a_distribution_counts_a_value_at_its_bound_and_beyond_the_last() -> None:
    rows = Distribution("rows", "Rows.", "path", bounds=COMMIT_ROWS)

    for value in (1, 2, COMMIT_ROWS[-1], COMMIT_ROWS[-1] + 1):
        rows.observe(value, "fast")

    samples = {(sample.name, sample.labels.get("le")): sample.value for sample in rows.family().samples}
    assert samples["rows_bucket", "1.0"] == 1
    assert samples["rows_bucket", "2.0"] == 2
    assert samples["rows_bucket", "1024.0"] == 3
    assert samples["rows_bucket", "+Inf"] == 4
    assert samples["rows_count", None] == 4
    assert samples["rows_sum", None] == 1 + 2 + 1024 + 1025


def test_a_level_is_read_at_the_scrape_and_absent_before_anyone_can_read_it() -> None:
    depth = Level("depth", "Depth.")
    assert depth.family().samples == []

    depth.read_with(lambda: 7)

    assert [sample.value for sample in depth.family().samples] == [7]


def test_a_counter_without_labels_is_shown_from_zero() -> None:
    assert [sample.value for sample in Counts("things", "Things.").family().samples] == [0]


def test_the_exposition_is_openmetrics_and_holds_every_metric() -> None:
    text = telemetry.render_metrics().decode()

    families = {family.name for family in text_string_to_metric_families(text)}  # type: ignore[no-untyped-call]
    defined = {definition.name for definition in telemetry.metrics.definitions()}
    assert defined <= families
    assert "process_resident_memory_bytes" in families


def test_the_metrics_table_has_a_row_per_metric() -> None:
    table = telemetry.render_metrics_table()

    assert len(table.splitlines()) == 2 + len(list(telemetry.metrics.definitions()))
    assert "`tallygate_increment_total`" in table


@pytest.fixture
def log_lines(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Callable[[], str]]:
    """Undo the set-up of logging afterwards; call the fixture to take what was written so far."""
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", [])
    monkeypatch.setattr(root, "level", root.level)
    yield lambda: capsys.readouterr().err
    structlog.reset_defaults()


def test_text_under_a_key_that_nobody_allowed_is_withheld(log_lines: Callable[[], str]) -> None:
    telemetry.configure_logging(level="info", log_format="json")

    structlog.get_logger().info("paid", card_holder="Ada", rows=3)

    line = json.loads(log_lines())
    assert line["event"] == "paid"
    assert line["card_holder"] == telemetry.WITHHELD
    assert line["rows"] == 3


def test_an_account_id_is_logged_as_a_pseudonym(log_lines: Callable[[], str]) -> None:
    telemetry.configure_logging(level="info", log_format="json")

    structlog.get_logger().info("seen", account_id="ada@example.org")

    line = log_lines()
    assert "ada" not in line
    assert len(json.loads(line)["account_id"]) == 12


@pytest.mark.parametrize(
    "secret",
    ["postgresql://tallygate:hunter2@/db", "sk_live_hunter2", "rk_test_hunter2", "whsec_hunter2", "Bearer hunter2"],
)
def test_a_secret_in_a_message_or_a_traceback_is_masked(log_lines: Callable[[], str], secret: str) -> None:
    telemetry.configure_logging(level="info", log_format="json")

    try:
        int(f"cannot use {secret}")
    except ValueError as error:
        structlog.get_logger().exception("failed", error=str(error))
    logging.getLogger("library").warning("lost %s", secret)

    lines = log_lines()
    assert "hunter2" not in lines
    assert len(lines.splitlines()) == 2


def test_the_level_bounds_what_is_written(log_lines: Callable[[], str]) -> None:
    telemetry.configure_logging(level="warning", log_format="console")

    structlog.get_logger().info("quiet")
    structlog.get_logger().warning("loud")

    lines = log_lines()
    assert "quiet" not in lines
    assert "loud" in lines


def test_every_key_that_the_code_logs_is_allowed() -> None:
    """A key that is missing in LOGGED_KEYS would be withheld: allow it there after a look at what it may hold."""
    used = {
        (keyword.arg, path.name)
        for path in SOURCE_DIR.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and isinstance(node.func.value, ast.Name)
        and node.func.value.id in {"log", "logger"}
        for keyword in node.keywords
        if keyword.arg is not None and not keyword.arg.endswith(("_ms", "_bytes", "_info"))
    }

    assert {(key, file) for key, file in used if key not in telemetry.LOGGED_KEYS} == set()
