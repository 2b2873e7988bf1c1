"""Check the public contract with buf, offline: lint, format and breaking changes.

    python protos/lint.py            exit 1 when a rule is broken, a file unformatted or a client would break
    python protos/lint.py --fix      format the files first
    python protos/lint.py --release  make the present contract the baseline that later changes must not break

Rules stand in buf.yaml. buf reads descriptors that protoc made, so it has no import to resolve and asks no
registry. Works from any directory, and finds buf beside the interpreter when it is not on PATH.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from generate import PROTOS, ROOT, GenerationError, program_beside_python, write_image

RULES = str(ROOT / "buf.yaml")
BASELINE = PROTOS / "baseline.binpb"

#: Only our own files are judged; imports are other people's.
OURS = ("--path", "tallygate/v1")


def lint(image: Path) -> str:
    """Return what breaks the lint rules of buf.yaml, one finding a line; empty when nothing does."""
    return _buf("lint", str(image), "--config", RULES, *OURS)


def format_differences() -> str:
    """Return how the files differ from their canonical format; empty when they do not."""
    return _buf("format", str(PROTOS), "--diff", "--exit-code")


def breaking_changes(image: Path, baseline: Path = BASELINE) -> str:
    """Return what would break a client that was built against the baseline; empty when nothing would."""
    against = ("--against", str(baseline), "--against-config", RULES)
    return _buf("breaking", str(image), "--config", RULES, *against, *OURS)


def write_baseline(target: Path = BASELINE) -> None:
    """Make the present contract the baseline. Comments are left out: they break nobody."""
    write_image(target, comments=False)


def _buf(*arguments: str) -> str:
    """Run buf and return its findings; raise when it could not do its work."""
    with tempfile.TemporaryDirectory() as cache:
        finished = subprocess.run(
            [str(program_beside_python("buf")), *arguments],
            cwd=ROOT,
            env={**os.environ, "BUF_CACHE_DIR": cache},
            capture_output=True,
            text=True,
            check=False,
        )
    findings = (finished.stdout + finished.stderr).strip()
    # buf says 100 for "I found something"; everything else but 0 means that it could not look.
    if finished.returncode not in (0, 100) or "Failure:" in finished.stderr:
        message = f"buf {arguments[0]} could not run: {findings}"
        raise GenerationError(message)
    return findings


def _report(title: str, findings: str, remedy: str) -> bool:
    """Print findings, if any, with the way out; return whether there were none."""
    if findings:
        print(f"{title}:\n{findings}\n{remedy}\n", file=sys.stderr)
    return not findings


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return the exit status."""
    parser = argparse.ArgumentParser(description="Check the public contract with buf, offline.")
    parser.add_argument("--fix", action="store_true", help="format the files first")
    parser.add_argument("--release", action="store_true", help="make the present contract the new baseline")
    options = parser.parse_args(arguments)
    try:
        if options.fix:
            _buf("format", str(PROTOS), "--write")
        with tempfile.TemporaryDirectory() as scratch:
            image = Path(scratch) / "contract.binpb"
            write_image(image)
            clean = _report("buf lint", lint(image), "The rules stand in buf.yaml.")
            clean &= _report("buf format", format_differences(), "Run `python protos/lint.py --fix`.")
            if options.release:
                write_baseline()
            elif BASELINE.exists():
                clean &= _report(
                    "buf breaking",
                    breaking_changes(image),
                    "Clients rely on this: add beside it instead, or reserve the old number and name.",
                )
    except GenerationError as error:
        print(error, file=sys.stderr)
        return 1
    return 0 if clean else 1


if __name__ == "__main__":
    sys.exit(main())
