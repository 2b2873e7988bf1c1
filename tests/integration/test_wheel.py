"""The wheel holds all that a server needs, not only what Python imports by itself."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

DATA_SUFFIXES = {".lua", ".sql", ".mako", ".typed", ".md"}


@pytest.fixture(scope="module")
def wheel_names(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    directory = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(directory)],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    (wheel,) = directory.glob("tallygate-*.whl")
    return set(zipfile.ZipFile(wheel).namelist())


def files_below(directory: Path, suffixes: set[str]) -> set[str]:
    return {
        str(path.relative_to(directory))
        for path in directory.rglob("*")
        if path.suffix in suffixes and "__pycache__" not in path.parts
    }


def test_the_wheel_holds_every_module_and_data_file(wheel_names: set[str]) -> None:
    expected = files_below(ROOT / "src", {".py", *DATA_SUFFIXES})

    assert expected - wheel_names == set()
    assert any(name.endswith(".lua") for name in expected)
    assert any(name.endswith(".sql") for name in expected)


def test_the_wheel_holds_the_generated_code_and_its_types(wheel_names: set[str]) -> None:
    expected = files_below(ROOT / "generated", {".py", ".pyi"})

    assert expected - wheel_names == set()
    assert "tallygate/v1/usage_service_pb2.py" in wheel_names
    assert "buf/validate/validate_pb2.py" in wheel_names
    assert {"tallygate/py.typed", "tallygate_server/py.typed"} <= wheel_names
