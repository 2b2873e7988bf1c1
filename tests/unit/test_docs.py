"""The documentation is true: generated parts are current, links lead somewhere, examples are valid requests."""

from __future__ import annotations

import importlib
import importlib.util
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import ModuleType

import protovalidate
import pytest
from google.protobuf import json_format
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message_factory import GetMessageClass

from tallygate_server.catalog_files import parse_catalog
from tallygate_server.config import FILE_SUFFIX, PREFIX, Settings, is_secret, variable_name
from tallygate_server.telemetry import Counts, Distribution, metrics

ROOT = Path(__file__).resolve().parents[2]

PAGES = sorted(
    page
    for page in (*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("src/**/*.md"))
    if ".venv" not in page.parts
)

NOT_SETTINGS = {"TALLYGATE_TARGET"}
"""Variables that only the command line reads."""

_LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)")
_CALL = re.compile(r"grpcurl(?: -plaintext)? -d '(\{.*?\})'\s*(?:\\\n)?\s*127\.0\.0\.1:50051 ([\w.]+)/(\w+)", re.DOTALL)
_PATH = re.compile(r"`((?:src|tests|docs|protos|examples)/[\w./-]+\.\w+)(?:::(\w+))?`")


def _load(path: Path) -> ModuleType:
    """Import a script that is in no package."""
    spec = importlib.util.spec_from_file_location(f"docs_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@cache
def _text(page: Path) -> str:
    return page.read_text("utf-8")


def _anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    found = set()
    for heading in re.findall(r"^#+ (.+)$", _without_code(_text(page)), re.MULTILINE):
        plain = re.sub(r"[`*]|\]\([^)]*\)|\[", "", heading).strip().lower()
        found.add(re.sub(r"[^\w\- ]", "", plain).replace(" ", "-"))
    return found


def _without_code(text: str) -> str:
    return re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)


def _calls() -> Iterator[tuple[str, str, str, str]]:
    """Go through every grpcurl call with data: page, JSON, service, method."""
    for page in PAGES:
        for data, service, method in _CALL.findall(_text(page)):
            # A loop of the shell puts its counter in.
            yield page.name, data.replace("'$i'", "1"), service, method


def _method(service: str, method: str) -> MethodDescriptor:
    package, _, name = service.rpartition(".")
    module = re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()
    descriptor = importlib.import_module(f"{package}.{module}_pb2").DESCRIPTOR.services_by_name[name]
    found: MethodDescriptor = descriptor.methods_by_name[method]
    return found


def test_generated_parts_are_what_the_code_says() -> None:
    """Settings, metrics, errors and the state of each RPC come from the code: `make docs` refreshes them."""
    result = subprocess.run(
        [sys.executable, str(ROOT / "docs/generate.py"), "--check"], capture_output=True, text=True, check=False
    )

    assert result.returncode == 0, result.stderr


def test_status_page_names_every_rpc_of_the_contract() -> None:
    page = _text(ROOT / "docs/status.md")

    for service in _load(ROOT / "docs/generate.py").service_descriptors():
        section = page.split(f"### {service.name}\n")[1].split("###")[0]
        listed = re.findall(r"^\| `(\w+)` \| (?:built|not yet) \|", section, re.MULTILINE)
        assert listed == [method.name for method in service.methods]


def test_status_page_gives_no_remark_on_what_an_rpc_lacks_when_it_is_not_built() -> None:
    generate = _load(ROOT / "docs/generate.py")

    assert set(generate.LIMITED) <= generate.built_methods()


def test_nothing_is_announced_for_later_that_is_built() -> None:
    generate = _load(ROOT / "docs/generate.py")

    assert not {key for key in generate.LATER if "." in key} & generate.built_methods()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for target in _LINK.findall(_without_code(_text(page))):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        linked = (page.parent / path).resolve() if path else page
        assert linked.exists(), target
        if anchor:
            assert anchor in _anchors(linked), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_files_and_tests_that_are_named_exist(page: Path) -> None:
    for path, test in _PATH.findall(_text(page)):
        assert (ROOT / path).exists(), path
        if test:
            assert f"def {test}(" in _text(ROOT / path), f"{path}::{test}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_settings_that_are_named_exist(page: Path) -> None:
    fields = Settings.model_fields.items()
    known = {variable_name(name) for name, _ in fields} | NOT_SETTINGS
    known |= {variable_name(name) + FILE_SUFFIX for name, field in fields if is_secret(field)}

    assert set(re.findall(rf"\b{PREFIX}[A-Z_]*[A-Z]\b", _text(page))) <= known


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_metrics_that_are_named_exist(page: Path) -> None:
    known = {each.name + ("_total" if isinstance(each, Counts) else "") for each in metrics.definitions()}
    histograms = {each.name for each in metrics.definitions() if isinstance(each, Distribution)}
    known |= {f"{name}_{suffix}" for name in histograms for suffix in ("bucket", "count", "sum")}
    # Roles of the database, packages and what providers keep for us begin in the same way.
    others = {"tallygate_app", "tallygate_meter", "tallygate_intake", "tallygate_outbox", "tallygate_reader"}
    others |= {"tallygate_lifecycle", "tallygate_server", "tallygate_local_stripe", "tallygate_tenant_id"}

    assert set(re.findall(r"(?<![\w/.])tallygate_[a-z_]+\b", _text(page))) <= known | others


def test_every_fallback_that_is_counted_is_explained() -> None:
    """The label is written where it is counted; operators look it up in the table."""
    sources = "\n".join(_text(path) for path in (ROOT / "src").rglob("*.py"))
    table = _text(ROOT / "docs/operations.md").split("Paths of `tallygate_fallback_total`")[1].split("### ")[0]
    listed = {path for row in re.findall(r"^\| (`.+?) \|", table, re.MULTILINE) for path in re.findall(r"`(\w+)`", row)}

    assert listed - {"path"} == set(re.findall(r"metrics\.fallback\(\s*\"(\w+)\"", sources))


def test_every_metric_of_the_table_is_fed() -> None:
    """A metric that nobody counts is a false promise to whoever builds a dashboard on it."""
    sources = {path: _text(path) for path in (ROOT / "src/tallygate_server").rglob("*.py")}
    telemetry = sources.pop(ROOT / "src/tallygate_server/telemetry.py")
    feeders = {
        name: re.findall(rf"def (\w+)\(self[^)]*\)[^:]*:\n(?:(?!    def ).*\n)*?.*self\.{name}\.", telemetry)
        for name, value in vars(metrics).items()
        if hasattr(value, "description")
    }

    for name, methods in feeders.items():
        names = [rf"metrics\.{method}\b" for method in methods] + [rf"metrics\.{name}\."]
        assert any(re.search("|".join(names), text) for text in sources.values()), name


def test_every_job_that_runs_is_explained() -> None:
    jobs = set(re.findall(r"Job\(\s*name=\"(\w+)\"", _text(ROOT / "src/tallygate_server/app.py")))

    assert jobs
    assert jobs == set(re.findall(r"^\| `(\w+)` \| \d+ \w+ \|", _text(ROOT / "docs/operations.md"), re.MULTILINE))


def test_the_readme_shows_requests_at_all() -> None:
    assert {method for page, _, _, method in _calls() if page == "README.md"} >= {
        "IdentifyAccount",
        "CheckAccess",
        "Increment",
        "GetQuota",
        "CreateSubscription",
    }


def test_the_catalog_change_that_the_readme_shows_is_one() -> None:
    shown = re.search(r"^sed 's/(.+?)/(.+?)/' (\S+) \|$", _text(ROOT / "README.md"), re.MULTILINE)
    assert shown is not None
    before, after, path = shown.groups()
    text = _text(ROOT / path)

    assert text.count(before) == 1
    assert parse_catalog(text.replace(before, after)) != parse_catalog(text)


@pytest.mark.parametrize(("page", "data", "service", "method"), list(_calls()))
def test_requests_that_are_shown_are_valid(page: str, data: str, service: str, method: str) -> None:
    request = GetMessageClass(_method(service, method).input_type)()

    json_format.Parse(data, request)

    protovalidate.validate(request)


def test_answers_that_are_shown_are_answers() -> None:
    """Every JSON answer of the README is one of the two hot ones, with no field that does not exist."""
    check = GetMessageClass(_method("tallygate.v1.EntitlementService", "CheckAccess").output_type)
    increment = GetMessageClass(_method("tallygate.v1.UsageService", "Increment").output_type)
    answers = re.findall(r"^```json\n(.*?)^```", _text(ROOT / "README.md"), re.MULTILINE | re.DOTALL)

    assert len(answers) == 3
    for answer in answers:
        message = check if "feature_kind" in answer else increment
        json_format.ParseDict(json.loads(answer), message())


def test_the_list_of_decisions_has_them_all() -> None:
    index = _text(ROOT / "docs/adr/README.md")
    decisions = sorted(page.name for page in (ROOT / "docs/adr").glob("[0-9]*.md"))

    assert re.findall(r"^\| \[\d+\]\(([^)]+)\)", index, re.MULTILINE) == decisions
    for number, name in enumerate(decisions, start=1):
        title = _text(ROOT / "docs/adr" / name).splitlines()[0]
        assert name.startswith(f"{number:04}-")
        assert title.startswith(f"# {number}. ")
        assert f"| {title.removeprefix(f'# {number}. ')} |" in index
