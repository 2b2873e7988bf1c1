"""Messages from files: what people write, and where it does not fit."""

from __future__ import annotations

from pathlib import Path

import pytest

from tallygate.v1 import data_lifecycle_pb2
from tallygate_server.cli.explanations import CommandError
from tallygate_server.cli.message_files import FILE_BYTES_MAX, read_message_file


def read(tmp_path: Path, text: str) -> data_lifecycle_pb2.RetentionPolicy:
    file = tmp_path / "policy.yaml"
    file.write_text(text)
    return read_message_file(file, data_lifecycle_pb2.RetentionPolicy())


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("15m", 900), ("2h", 7_200), ("1d", 86_400), ("1.5", 1.5), ("30", 30)]
)
def test_a_length_of_time_is_a_text_or_seconds(tmp_path: Path, text: str, seconds: float) -> None:
    window = read(tmp_path, f"compression: {{window: {text}}}").compression.window

    assert window.ToTimedelta().total_seconds() == seconds


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2026-01-02", "2026-01-02T00:00:00Z"),
        ("2026-01-02T03:04", "2026-01-02T03:04:00Z"),
        ("2026-01-02T03:04:00+02:00", "2026-01-02T01:04:00Z"),
        ("'2026-01-02'", "2026-01-02T00:00:00Z"),
    ],
)
def test_an_instant_is_in_utc_unless_it_says_otherwise(tmp_path: Path, text: str, expected: str) -> None:
    policy = read(tmp_path, f"exceptions: [{{expire_time: {text}, retention_days: 1}}]")

    assert policy.exceptions[0].expire_time.ToJsonString() == expected


def test_json_is_read_as_well_and_what_is_absent_is_absent(tmp_path: Path) -> None:
    policy = read(tmp_path, '{"data_type": "ride", "hot_days": 0, "importance_rules": [{"importance": "critical"}]}')

    assert policy.HasField("hot_days")
    assert not policy.HasField("warm_days")
    assert policy.importance_rules[0].importance == data_lifecycle_pb2.DATA_IMPORTANCE_CRITICAL


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("- ride", "the file: must be fields with values"),
        ("data_type: 7", "data_type: 7: must be a text"),
        ("hot_days: true", "hot_days: True: must be a whole number"),
        ("hot_days: 1.5", "hot_days: 1.5: must be a whole number"),
        ("ai_value_threshold: .nan", "ai_value_threshold: nan: must be a number"),
        ("compression: {seasonal: 1}", "compression.seasonal: 1: must be true or false"),
        ("compression: {zones: [1]}", "compression.zones: must be names with values"),
        ("compression: {zones: {speed: [a]}}", "compression.zones[speed].values[0]: 'a': must be a number"),
        ("exceptions: {}", "exceptions: must be a list"),
        ("colour: red", "colour: there is no such field; there are tenant_id, data_type"),
        ("hot_days: 99999999999", "hot_days"),
        ("a: [", "while parsing"),
    ],
)
def test_what_does_not_fit_is_told_by_its_field(tmp_path: Path, text: str, problem: str) -> None:
    with pytest.raises(CommandError) as caught:
        read(tmp_path, text)

    assert problem in str(caught.value)
    assert "policy.yaml" in str(caught.value)


def test_a_file_has_its_largest_size(tmp_path: Path) -> None:
    text = "data_type: ride\n#"

    assert read(tmp_path, text + "x" * (FILE_BYTES_MAX - len(text))).data_type == "ride"
    with pytest.raises(CommandError):
        read(tmp_path, text + "x" * (FILE_BYTES_MAX + 1 - len(text)))
