"""What is declared, locked, documented and installed is the same set of packages."""

from __future__ import annotations

import importlib.metadata
import re
import tomllib
from pathlib import Path

import pytest
from packaging.markers import Marker

ROOT = Path(__file__).parents[2]

SPELLINGS = {
    "Apache License 2.0": "Apache-2.0",
    "Apache Software License": "Apache-2.0",
    "MIT License": "MIT",
    "BSD 2-Clause License": "BSD-2-Clause",
    "3-Clause BSD License": "BSD-3-Clause",
}
"""How packages spell licences without an SPDX expression."""

COPYLEFT = re.compile(r"\bA?GPL|GNU (Affero )?General Public", re.IGNORECASE)


def normalized(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def declared() -> list[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    requirements = [*project["project"]["dependencies"], *project["dependency-groups"]["dev"]]
    return [re.match(r"[\w.-]+", requirement)[0] for requirement in requirements]  # type: ignore[index]


def pins() -> list[tuple[str, str, str]]:
    """Return name, version and marker of every pin; the marker is empty where the pin is for all."""
    text = (ROOT / "requirements.txt").read_text()
    found = re.finditer(r"^([\w.-]+)==(\S+)(?: ; (.+?))?(?: \\)?$", text, re.MULTILINE)
    return [(normalized(match[1]), match[2], match[3] or "") for match in found]


def locked() -> dict[str, str]:
    """Return the version of each package; where Pythons get different ones, that of this Python."""
    here_last = sorted(pins(), key=lambda pin: not pin[2] or Marker(pin[2]).evaluate())
    return {name: version for name, version, _ in here_last}


def documented() -> dict[str, str]:
    rows = re.findall(
        r"^\| ([\w.-]+) \| ([^|]+) \| [^|]+ \|$", (ROOT / "docs" / "dependencies.md").read_text(), re.MULTILINE
    )
    return {name: licence for name, licence in rows if name != "package"}


def licences_of(name: str) -> set[str]:
    """Return what a package's metadata says, in our spelling."""
    metadata = importlib.metadata.metadata(name)
    stated = next(iter(metadata.get_all("License-Expression") or metadata.get_all("License") or [""]))
    classifiers = metadata.get_all("Classifier") or []
    named = [line.rpartition("::")[2].strip() for line in classifiers if line.startswith("License")]
    return {SPELLINGS.get(text, text) for text in (stated.partition("\n")[0], *named) if text}


def test_every_declared_package_is_documented_and_no_other() -> None:
    assert sorted(documented()) == sorted(declared())


def test_every_declared_package_is_locked() -> None:
    assert {normalized(name) for name in declared()} <= set(locked())


def test_every_pin_has_hashes_and_no_registry_is_named() -> None:
    text = (ROOT / "requirements.txt").read_text()
    entries = re.split(r"^(?=\w)", text, flags=re.MULTILINE)[1:]

    assert len(entries) == len(pins())
    assert all("--hash=sha256:" in entry for entry in entries)
    assert re.search(r"https?://|--(extra-)?index-url|--find-links", text) is None


@pytest.mark.parametrize("name", declared())
def test_a_package_is_installed_as_locked_and_licensed_as_documented(name: str) -> None:
    assert importlib.metadata.version(name) == locked()[normalized(name)]

    licence = documented()[name]
    parts = set(re.split(r" (?:OR|AND) ", licence))
    assert licence in licences_of(name) or parts == licences_of(name)


def test_nothing_that_is_installed_with_us_forbids_our_licence() -> None:
    for name in locked():
        try:
            licences = licences_of(name)
        except importlib.metadata.PackageNotFoundError:
            continue  # Locked for another platform.
        assert not any(COPYLEFT.search(licence) for licence in licences), name


def test_the_generator_is_pinned_exactly() -> None:
    text = (ROOT / "pyproject.toml").read_text()

    assert f'"grpcio-tools=={locked()["grpcio-tools"]}"' in text
    assert locked()["grpcio-tools"] == locked()["grpcio"]
