"""Generate the Python code of the public contract, offline and reproducibly.

    python protos/generate.py                 write generated/
    python protos/generate.py --check         exit 1 when generated/ is not what the protos give
    python protos/generate.py --image FILE    write a FileDescriptorSet with comments, for buf and docs

Imports that are not ours (`buf/validate`, `google/rpc`, `google/protobuf`) are taken as descriptors from the
installed wheels, so nothing is vendored and nothing is downloaded. Works from any directory.
"""

from __future__ import annotations

import argparse
import difflib
import importlib
import importlib.resources
import os
import subprocess
import sys
import tempfile
from pathlib import Path

try:
    from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet
except ModuleNotFoundError:
    sys.exit(f"{sys.executable} has no protobuf; run this with the Python of the project's virtual environment")

ROOT = Path(__file__).resolve().parent.parent
PROTOS = ROOT / "protos"
GENERATED = ROOT / "generated"

VALIDATE_PROTO = "buf/validate/validate.proto"

#: Modules of installed wheels whose descriptors our protos import, dependencies first.
FOREIGN_MODULES = (
    "google.protobuf.any_pb2",
    "google.protobuf.descriptor_pb2",
    "google.protobuf.duration_pb2",
    "google.protobuf.field_mask_pb2",
    "google.protobuf.struct_pb2",
    "google.protobuf.timestamp_pb2",
    "google.rpc.status_pb2",
)


class GenerationError(Exception):
    """Say in one sentence why the code could not be generated."""


def proto_files() -> list[str]:
    """Return the paths of our protos below protos/, sorted, with forward slashes."""
    return sorted(path.relative_to(PROTOS).as_posix() for path in PROTOS.rglob("*.proto"))


def foreign_descriptors() -> FileDescriptorSet:
    """Return the descriptors of everything our protos import and do not own."""
    descriptors = FileDescriptorSet()
    for module_name in FOREIGN_MODULES:
        module = importlib.import_module(module_name)
        module.DESCRIPTOR.CopyToProto(descriptors.file.add())
    descriptors.file.append(_validate_descriptor())
    return descriptors


def _validate_descriptor() -> FileDescriptorProto:
    """Return the descriptor of buf/validate/validate.proto as the installed protovalidate carries it."""
    module = importlib.import_module("protovalidate._gen.buf.validate.validate_pb")
    return FileDescriptorProto.FromString(module.desc().proto.to_binary())


def write_image(target: Path, *, comments: bool = True) -> None:
    """Write our files and their imports, with or without comments, as one FileDescriptorSet to `target`."""
    target = target.resolve()
    with tempfile.TemporaryDirectory() as scratch:
        foreign = _write_foreign(Path(scratch))
        _protoc(
            f"--descriptor_set_in={foreign}",
            f"--descriptor_set_out={target}",
            "--include_imports",
            *(["--include_source_info"] if comments else []),
            f"--proto_path={PROTOS}",
            *proto_files(),
        )


def generate(target: Path) -> None:
    """Write all generated files below `target`.

    Two passes, so that files without a service get no empty `_pb2_grpc.py`.
    """
    target = target.resolve()
    target.mkdir(parents=True, exist_ok=True)
    files = proto_files()
    services = [name for name in files if name.endswith("_service.proto")]
    with tempfile.TemporaryDirectory() as scratch:
        foreign = _write_foreign(Path(scratch))
        _protoc(
            f"--descriptor_set_in={foreign}",
            f"--python_out={target}",
            f"--pyi_out={target}",
            f"--proto_path={PROTOS}",
            VALIDATE_PROTO,
            *files,
        )
        if services:
            _protoc(
                f"--descriptor_set_in={foreign}",
                f"--plugin=protoc-gen-mypy_grpc={program_beside_python('protoc-gen-mypy_grpc')}",
                f"--grpc_python_out={target}",
                f"--mypy_grpc_out=quiet:{target}",
                f"--proto_path={PROTOS}",
                *services,
            )


def differences(expected: Path, actual: Path) -> list[str]:
    """Return one sentence for every file that is missing, stray or different in `actual`."""
    wanted = _contents(expected)
    found = _contents(actual)
    sentences = [f"missing: generated/{name}" for name in sorted(wanted.keys() - found.keys())]
    sentences += [f"stray, no proto produces it: generated/{name}" for name in sorted(found.keys() - wanted.keys())]
    for name in sorted(wanted.keys() & found.keys()):
        if wanted[name] != found[name]:
            sentences.append(f"out of date: generated/{name}{_first_change(found[name], wanted[name])}")
    return sentences


def program_beside_python(program: str) -> Path:
    """Return the path of a program of this interpreter's environment, whether that is on PATH or not."""
    path = Path(sys.executable).parent / program
    if not path.exists():
        message = f"{path} is missing; install the development requirements into this environment"
        raise GenerationError(message)
    return path


def _contents(directory: Path) -> dict[str, bytes]:
    """Return the bytes of every file below `directory`, by relative path, without Python's own caches."""
    return {
        path.relative_to(directory).as_posix(): path.read_bytes()
        for path in directory.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


def _first_change(before: bytes, after: bytes) -> str:
    """Return a short hint at the first changed line of two texts."""
    lines = difflib.unified_diff(before.decode().splitlines(), after.decode().splitlines(), lineterm="", n=0)
    changed = [line for line in lines if line[:1] in "+-" and line[:3] not in ("+++", "---")]
    return f" (first change: {changed[0][:100]})" if changed else ""


def _write_foreign(directory: Path) -> Path:
    """Write the foreign descriptors into `directory` and return the file."""
    target = directory / "foreign.binpb"
    target.write_bytes(foreign_descriptors().SerializeToString(deterministic=True))
    return target


def _protoc(*arguments: str) -> None:
    """Run the bundled protoc, or raise with its own words."""
    finished = subprocess.run(
        [sys.executable, "-m", "grpc_tools.protoc", *arguments],
        cwd=PROTOS,
        env={**os.environ, "PYTHONHASHSEED": "0"},
        capture_output=True,
        text=True,
        check=False,
    )
    if finished.returncode != 0 or "warning:" in finished.stderr:
        message = f"protoc refused the protos:\n{finished.stderr.strip() or finished.stdout.strip()}"
        raise GenerationError(message)


def _replace(target: Path) -> None:
    """Generate into a scratch directory, then make `target` the same, removing what no proto produces."""
    with tempfile.TemporaryDirectory() as scratch:
        fresh = Path(scratch) / "generated"
        generate(fresh)
        wanted = _contents(fresh)
        found = _contents(target)
        for name in found.keys() - wanted.keys():
            (target / name).unlink()
        for name, content in wanted.items():
            if found.get(name) != content:
                (target / name).parent.mkdir(parents=True, exist_ok=True)
                (target / name).write_bytes(content)


def _check(target: Path) -> int:
    """Compare `target` with a fresh generation; print the differences and return the exit status."""
    with tempfile.TemporaryDirectory() as scratch:
        fresh = Path(scratch) / "generated"
        generate(fresh)
        sentences = differences(fresh, target)
    if not sentences:
        return 0
    print("generated/ is not what the protos give:", file=sys.stderr)
    for sentence in sentences:
        print(f"  {sentence}", file=sys.stderr)
    print("Run `python protos/generate.py` and commit the result.", file=sys.stderr)
    return 1


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return the exit status."""
    parser = argparse.ArgumentParser(description="Generate the Python code of the public contract, offline.")
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--check", action="store_true", help="compare only; exit 1 when generated/ differs")
    mode.add_argument("--image", type=Path, metavar="FILE", help="write a FileDescriptorSet with comments")
    options = parser.parse_args(arguments)
    try:
        if options.check:
            return _check(GENERATED)
        if options.image is not None:
            write_image(options.image)
        else:
            _replace(GENERATED)
    except GenerationError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
