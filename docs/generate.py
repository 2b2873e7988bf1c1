"""Write the parts of the documentation that follow from the code: settings, metrics, errors and what is built.

    python docs/generate.py            write them into docs/*.md
    python docs/generate.py --check    exit 1 when a page is not what the code says

A part stands between two comments of a page, `<!-- generated: NAME -->` and `<!-- end: NAME -->`; the rest of the page
is written by hand. Works from any directory.
"""

from __future__ import annotations

import argparse
import importlib
import pkgutil
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent
# An installed package needs neither; a fresh clone is not installed yet.
sys.path[:0] = [str(ROOT / "src"), str(ROOT / "generated")]

from google.protobuf.descriptor import ServiceDescriptor  # noqa: E402

from tallygate_server import config, errors, telemetry, transport  # noqa: E402
from tallygate_server.transport.status import CODE_BY_ERROR  # noqa: E402

SERVICES: Final = (
    "EntitlementService",
    "UsageService",
    "SubscriptionService",
    "CatalogService",
    "AccountService",
    "EventService",
    "DataLifecycleService",
    "AdminService",
)
"""In the order of the page."""

SUBSCRIPTIONS: Final = "subscriptions and Stripe"
LIFECYCLE: Final = "data lifecycle"
RUNNING: Final = "running it"

LATER: Final[Mapping[str, str]] = {
    "SubscriptionService": SUBSCRIPTIONS,
    "DataLifecycleService": LIFECYCLE,
    "AdminService": RUNNING,
}
"""The later work that brings what is not built yet, by RPC, else by service."""

LIMITED: Final[Mapping[str, str]] = {
    "SubscriptionService.CreateSubscription": "Not with a start in the future.",
    "CatalogService.ApplyCatalog": "`migrate_subscriptions` is not built.",
}
"""What a built RPC does not do yet."""


class DocumentationError(Exception):
    """Say in one sentence what is missing."""


def service_descriptors() -> Iterator[ServiceDescriptor]:
    """Go through the services of the contract, in the order of the page."""
    for name in SERVICES:
        module_name = re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()
        module = importlib.import_module(f"tallygate.v1.{module_name}_pb2")
        yield module.DESCRIPTOR.services_by_name[name]


def built_methods() -> set[str]:
    """Return `Service.Method` for each RPC for which a servicer has a method; all others answer UNIMPLEMENTED."""
    built = set()
    for module_info in pkgutil.iter_modules(transport.__path__):
        if not module_info.name.endswith("_servicer"):
            continue
        module = importlib.import_module(f"{transport.__name__}.{module_info.name}")
        for servicer in vars(module).values():
            service = getattr(servicer, "SERVICE", None)
            if isinstance(servicer, type) and isinstance(service, ServiceDescriptor):
                built |= {
                    f"{service.name}.{method.name}" for method in service.methods if hasattr(servicer, method.name)
                }
    return built


def render_status_tables() -> str:
    """Return one table for each service: every RPC, and whether it is built."""
    built = built_methods()
    known = {f"{service.name}.{method.name}" for service in service_descriptors() for method in service.methods}
    if unknown := {key for key in (*LATER, *LIMITED) if "." in key} - known:
        raise DocumentationError(f"docs/generate.py speaks of RPCs that are not in the contract: {sorted(unknown)}")
    parts = [f"{len(built)} of {len(known)} RPCs are built.\n"]
    for service in service_descriptors():
        rows = [f"### {service.name}\n", "| RPC | state | remark |", "|---|---|---|"]
        for method in service.methods:
            key = f"{service.name}.{method.name}"
            if key in built:
                rows.append(f"| `{method.name}` | built | {LIMITED.get(key, '')} |")
                continue
            later = LATER.get(key) or LATER.get(service.name)
            if later is None:
                raise DocumentationError(f"{key} is not built, and docs/generate.py does not say what brings it")
            rows.append(f"| `{method.name}` | not yet | {later} |")
        parts.append("\n".join(rows) + "\n")
    return "\n".join(parts)


def render_errors_table() -> str:
    """Return the table of errors that this release answers with, by gRPC code."""
    rows = ["| gRPC code | reason | when |", "|---|---|---|"]
    listed = sorted(CODE_BY_ERROR.items(), key=lambda item: (item[1].value[0], item[0].reason))
    seen = set()
    for error, code in listed:
        # A base class repeats the reason of its most usual case.
        if (code, error.reason) in seen or error is errors.Unavailable:
            continue
        seen.add((code, error.reason))
        when = (error.__doc__ or "").strip().splitlines()[0]
        rows.append(f"| `{code.name}` | `{error.reason}` | {when} |")
    return "\n".join(rows) + "\n"


PARTS: Final[Mapping[str, Callable[[], str]]] = {
    "settings": config.render_settings_table,
    "metrics": telemetry.render_metrics_table,
    "errors": render_errors_table,
    "status": render_status_tables,
}

PAGES: Final[Mapping[str, tuple[str, ...]]] = {
    "docs/operations.md": ("settings", "metrics", "errors"),
    "docs/status.md": ("status",),
}


def with_parts(page: str, names: Sequence[str]) -> str:
    """Return the page's text with its generated parts as the code says."""
    text = (ROOT / page).read_text("utf-8")
    for name in names:
        begin, end = f"<!-- generated: {name} -->", f"<!-- end: {name} -->"
        if text.count(begin) != 1 or text.count(end) != 1 or text.index(begin) > text.index(end):
            raise DocumentationError(f"{page} needs the lines {begin} and {end}, once and in this order")
        head, rest = text.split(begin)
        tail = rest.split(end)[1]
        text = f"{head}{begin}\n\n{PARTS[name]().strip()}\n\n{end}{tail}"
    return text


def stale_pages() -> dict[str, str]:
    """Return the right text of each page that is not what the code says."""
    right = {page: with_parts(page, names) for page, names in PAGES.items()}
    return {page: text for page, text in right.items() if (ROOT / page).read_text("utf-8") != text}


def main() -> int:
    """Write the pages, or check them; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--check", action="store_true", help="write nothing; fail when a page is stale")
    arguments = parser.parse_args()
    stale = stale_pages()
    for page, text in stale.items():
        if arguments.check:
            sys.stderr.write(f"{page} is not what the code says: run make docs\n")
        else:
            (ROOT / page).write_text(text, "utf-8")
            sys.stdout.write(f"{page} written\n")
    return int(arguments.check and bool(stale))


if __name__ == "__main__":
    try:
        sys.exit(main())
    except DocumentationError as error:
        sys.exit(str(error))
