"""The public contract: what is in it, that it is documented, and what its rules accept and refuse."""

from __future__ import annotations

import importlib
import importlib.util
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import protovalidate
import pytest
from google.protobuf import message_factory
from google.protobuf.descriptor import Descriptor, FieldDescriptor, MethodDescriptor, ServiceDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet
from google.protobuf.message import Message
from google.protobuf.struct_pb2 import Struct

from buf.validate import validate_pb2
from tallygate.v1 import (
    account_service_pb2,
    catalog_pb2,
    catalog_service_pb2,
    data_lifecycle_pb2,
    data_lifecycle_service_pb2,
    entitlement_service_pb2,
    error_reason_pb2,
    subscription_service_pb2,
    usage_event_pb2,
    usage_service_pb2,
)
from tallygate_server import errors
from tallygate_server.domain import limits

ROOT = Path(__file__).resolve().parents[2]
PROTOS = ROOT / "protos"
GENERATED = ROOT / "generated"

#: The RPCs that the design fixes, by service.
DESIGNED_RPCS = {
    "EntitlementService": """
        CheckAccess BatchCheckAccess ListEntitlements WatchEntitlements ExplainAccess CreateGrant RevokeGrant
        ListGrants SetFeatureOverride SimulateLimits""",
    "UsageService": """
        Increment BatchIncrement Reserve CommitReservation ReleaseReservation ExtendReservation RecordUsage
        ReverseUsage GetUsage GetQuota QueryUsage ListUsageEntries""",
    "SubscriptionService": """
        CreateSubscription GetSubscription ListSubscriptions PreviewPlanChange ChangePlan CancelSubscription
        ResumeSubscription PauseSubscription CreateCheckoutSession CreatePortalSession ListPayments
        ListInvoices IngestWebhook""",
    "CatalogService": "ApplyCatalog GetCatalog ListPlans ListFeatures ListMeters",
    "AccountService": """
        IdentifyAccount GetAccount UpdateAccount ListAccounts SuspendAccount RecordConsent ListConsents""",
    "EventService": """
        WatchEvents ListEvents CreateWebhookEndpoint ListWebhookDeliveries ReplayWebhookDeliveries""",
    "DataLifecycleService": """
        PutRecords QueryRecords ClassifyData SetRetentionPolicy GetRetentionPolicy ListRetentionPolicies
        ScheduleCompression CompressData DecompressForAnalysis ArchiveData RestoreData CleanupData
        OptimizeStorage ValidateIntegrity GetStorageMetrics AssessDataValue IdentifyCriticalData
        SelectRepresentativeSamples OptimizeTrainingDataset EvaluateCompressionImpact PlanRetention
        UpdatePriorities ExportAccountData EraseAccountData GetLifecycleJob ListLifecycleJobs
        CancelLifecycleJob WatchLifecycleJob""",
    "AdminService": """
        GetHealthOverview ListJobs ListJobRuns ListAuditEntries ListAlerts ListIncidents GetReport
        ValidateEntitlements CorrectUsage ListWebhookEvents ReplayWebhookEvents""",
}

STREAMING_RPCS = {
    "WatchEntitlements",
    "SimulateLimits",
    "WatchEvents",
    "ValidateEntitlements",
    "QueryRecords",
    "DecompressForAnalysis",
    "DownloadExport",
    "WatchLifecycleJob",
}

#: Fields that the design fixes, by message.
DESIGNED_FIELDS = {
    entitlement_service_pb2.CheckAccessRequest: "tenant_id account_id feature_key quantity min_revision",
    entitlement_service_pb2.CheckAccessResponse: """
        decision reason feature_kind value limit_quantity used_quantity held_quantity remaining_quantity
        reset_time threshold_percent grace_end_time upgrade_url plan_key revision cache_ttl stale""",
    entitlement_service_pb2.BatchCheckAccessRequest: "checks",
    entitlement_service_pb2.BatchCheckAccessResponse: "results",
    usage_service_pb2.IncrementRequest: """
        tenant_id account_id feature_key quantity request_id event_time dimensions ack""",
    usage_service_pb2.IncrementResponse: """
        decision reason used_quantity held_quantity limit_quantity remaining_quantity reset_time
        threshold_percent replayed entry_id revision upgrade_url plan_key grace_end_time""",
    usage_service_pb2.BatchIncrementRequest: "increments atomic",
    usage_service_pb2.BatchIncrementResponse: "results",
    subscription_service_pb2.CreateSubscriptionRequest: """
        tenant_id account_id plan_key interval billing_provider payment_method_id quantity trial_days
        request_id""",
}

#: Set by the server and ignored in requests, so no rule bounds them.
SERVER_SET_FIELDS = {
    "Catalog.revision",
    "Catalog.apply_time",
    "Identity.create_time",
    "Plan.version",
    "Plan.subscription_count",
    "Plan.create_time",
    "RetentionPolicy.tenant_id",
    "RetentionPolicy.version",
    "RetentionPolicy.update_time",
    "RetentionPolicy.actor",
}

#: Judged by its signature as a whole: whatever we signed ourselves is within bounds.
SIGNED_MESSAGES = {"ErasureReceipt"}

NOW = {"seconds": 1_790_000_000}


def _load(name: str) -> ModuleType:
    """Load one of the scripts beside the protos."""
    spec = importlib.util.spec_from_file_location(name, PROTOS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


generator = _load("generate")
linter = _load("lint")


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target: Path = tmp_path_factory.mktemp("image") / "contract.binpb"
    generator.write_image(target)
    return target


@pytest.fixture(scope="module")
def our_files(image: Path) -> list[FileDescriptorProto]:
    files = FileDescriptorSet.FromString(image.read_bytes()).file
    return [file for file in files if file.package == "tallygate.v1"]


def _services() -> dict[str, ServiceDescriptor]:
    services: dict[str, ServiceDescriptor] = {}
    for path in sorted((GENERATED / "tallygate" / "v1").glob("*_service_pb2.py")):
        module = importlib.import_module(f"tallygate.v1.{path.stem}")
        services.update(module.DESCRIPTOR.services_by_name)
    return services


def _methods() -> Iterator[MethodDescriptor]:
    for service in _services().values():
        yield from service.methods


def _request_messages() -> Iterator[Descriptor]:
    """Yield every message of ours that a caller can send, once."""
    seen: set[str] = set()
    waiting = [method.input_type for method in _methods()]
    while waiting:
        message = waiting.pop()
        if message.full_name in seen or not message.full_name.startswith("tallygate."):
            continue
        seen.add(message.full_name)
        if message.name in SIGNED_MESSAGES:
            continue
        if not message.GetOptions().map_entry:
            yield message
        waiting += [field.message_type for field in message.fields if field.message_type is not None]


def _rules(field: Any) -> validate_pb2.FieldRules:
    rules: validate_pb2.FieldRules = field.GetOptions().Extensions[validate_pb2.field]
    return rules


def _is_map(field: FieldDescriptor) -> bool:
    return field.message_type is not None and field.message_type.GetOptions().map_entry


def _violations(message: Message) -> list[tuple[str, str]]:
    """Return (field path, rule) of everything that is wrong with the message."""
    found = []
    for violation in protovalidate.collect_violations(message):
        path = ""
        for element in violation.proto.field.elements if violation.proto.field else ():
            path += f".{element.field_name}" if path else element.field_name
            if element.subscript is not None:
                path += f"[{element.subscript.value}]"
        found.append((path, violation.proto.rule_id))
    return found


def _check(**fields: object) -> entitlement_service_pb2.CheckAccessRequest:
    request: dict[str, Any] = {"tenant_id": "lekhak", "account_id": "user:1", "feature_key": "text_rewrite"}
    request |= fields
    return entitlement_service_pb2.CheckAccessRequest(**request)


def _increment(**fields: object) -> usage_service_pb2.IncrementRequest:
    request: dict[str, Any] = {"tenant_id": "lekhak", "account_id": "user:1", "feature_key": "text_rewrite"}
    request |= fields
    return usage_service_pb2.IncrementRequest(**request)


# What is in the contract


@pytest.mark.parametrize("service", sorted(DESIGNED_RPCS))
def test_every_designed_rpc_is_present(service: str) -> None:
    designed = set(DESIGNED_RPCS[service].split())

    assert designed <= set(_services()[service].methods_by_name)


def test_there_are_no_services_but_the_designed_ones() -> None:
    assert set(_services()) == set(DESIGNED_RPCS)


def test_an_rpc_takes_its_own_request_and_returns_its_own_response() -> None:
    for method in _methods():
        assert (method.input_type.name, method.output_type.name) == (
            f"{method.name}Request",
            f"{method.name}Response",
        )


def test_no_rpc_streams_from_the_client_and_only_the_listed_ones_from_the_server() -> None:
    assert not [method.name for method in _methods() if method.client_streaming]
    assert {method.name for method in _methods() if method.server_streaming} == STREAMING_RPCS


def test_only_rpcs_that_read_are_marked_free_of_side_effects() -> None:
    reading = re.compile(
        "(Batch)?Check|Get|List|Query|Explain|Preview|Classify|Assess|Identify|Select|OptimizeTraining|Evaluate|Verify|Plan"
    )
    writing = {"IdentifyAccount"}
    for method in _methods():
        if method.GetOptions().idempotency_level == method.GetOptions().NO_SIDE_EFFECTS:
            assert reading.match(method.name), method.name
            assert method.name not in writing


@pytest.mark.parametrize("message", DESIGNED_FIELDS, ids=lambda message: message.DESCRIPTOR.name)
def test_every_designed_field_is_present(message: type[Message]) -> None:
    designed = set(DESIGNED_FIELDS[message].split())

    assert designed <= set(message.DESCRIPTOR.fields_by_name)


def test_a_list_is_paged() -> None:
    for method in _methods():
        if method.name.startswith(("List", "Query")) and not method.server_streaming:
            assert {"page_size", "page_token"} <= set(method.input_type.fields_by_name), method.name
            assert "next_page_token" in method.output_type.fields_by_name, method.name
            assert method.output_type.fields[0].is_repeated, f"{method.name}: results come first"


def test_an_absent_quantity_differs_from_zero() -> None:
    for message in (_check(), _increment()):
        assert not message.HasField("quantity")
        assert message.DESCRIPTOR.fields_by_name["quantity"].has_presence


def test_a_batch_item_is_either_an_answer_or_an_error() -> None:
    for result in (entitlement_service_pb2.BatchCheckAccessResult, usage_service_pb2.BatchIncrementResult):
        assert [field.name for field in result.DESCRIPTOR.oneofs_by_name["outcome"].fields] == [
            "answer",
            "error",
        ]


def test_every_error_of_the_server_has_its_reason_in_the_contract() -> None:
    known = {name.removeprefix("ERROR_REASON_") for name in error_reason_pb2.ErrorReason.DESCRIPTOR.values_by_name}
    raised = {
        error.reason
        for error in vars(errors).values()
        if isinstance(error, type) and issubclass(error, errors.TallygateError)
    }

    assert raised <= known


# Names and types


def test_quantities_are_int64_and_nothing_is_unsigned() -> None:
    unsigned = {
        FieldDescriptor.TYPE_UINT32,
        FieldDescriptor.TYPE_UINT64,
        FieldDescriptor.TYPE_FIXED32,
        FieldDescriptor.TYPE_FIXED64,
    }
    for message in _all_messages():
        for field in message.fields:
            assert field.type not in unsigned | {FieldDescriptor.TYPE_FLOAT}, field.full_name
            if re.search(r"(^|_)(quantity|bytes|revision|sequence|nanos|micros)$", field.name):
                assert field.type in (FieldDescriptor.TYPE_INT64, FieldDescriptor.TYPE_STRING), field.full_name


def test_times_end_in_time() -> None:
    cloud_events_name = "tallygate.v1.UsageEvent.time"
    for message in _all_messages():
        for field in message.fields:
            if field.message_type is not None and field.message_type.full_name == "google.protobuf.Timestamp":
                assert field.name.endswith("_time") or field.full_name in (
                    cloud_events_name,
                    "tallygate.v1.Record.time",
                ), field.full_name


def _all_messages() -> Iterator[Descriptor]:
    for path in sorted((GENERATED / "tallygate" / "v1").glob("*_pb2.py")):
        yield from importlib.import_module(f"tallygate.v1.{path.stem}").DESCRIPTOR.message_types_by_name.values()


# Documentation


def test_every_element_has_a_comment_of_at_least_a_sentence(our_files: list[FileDescriptorProto]) -> None:
    silent = []
    for file in our_files:
        comments = {tuple(place.path): place.leading_comments.strip() for place in file.source_code_info.location}
        for path in _documented_paths(file):
            comment = comments.get(path, "")
            if not re.match(r"[A-Z`].*[.:]$", comment, re.DOTALL):
                silent.append((file.name, path, comment))

    assert silent == []


def _documented_paths(file: FileDescriptorProto) -> Iterator[tuple[int, ...]]:
    """Yield where each service, RPC, message, field, oneof, enum and value stands in the file."""
    for number, service in enumerate(file.service):
        yield (6, number)
        yield from ((6, number, 2, method) for method in range(len(service.method)))
    for number, message in enumerate(file.message_type):
        yield (4, number)
        yield from ((4, number, 2, field) for field in range(len(message.field)))
        optional = {field.oneof_index for field in message.field if field.proto3_optional}
        yield from ((4, number, 8, oneof) for oneof in range(len(message.oneof_decl)) if oneof not in optional)
        assert all(nested.options.map_entry for nested in message.nested_type), "messages are not nested"
    for number, enum in enumerate(file.enum_type):
        yield (5, number)
        yield from ((5, number, 2, value) for value in range(len(enum.value)))


def test_every_error_reason_documents_its_code_and_its_metadata(our_files: list[FileDescriptorProto]) -> None:
    file = next(file for file in our_files if file.name.endswith("error_reason.proto"))
    comments = {tuple(place.path): place.leading_comments for place in file.source_code_info.location}
    for number, value in enumerate(file.enum_type[0].value):
        if value.number != 0:
            comment = " ".join(comments[(5, 0, 2, number)].split())
            assert re.match(r"[A-Z_]+: ", comment), value.name
            assert re.search(r"Metadata: (none|`[a-z_]+`)", comment), value.name


# Rules


def test_every_field_that_a_caller_can_send_is_bounded() -> None:
    unbounded = [
        f"{message.name}.{field.name}"
        for message in _request_messages()
        for field in message.fields
        if not _bounded(field)
    ]

    assert set(unbounded) <= SERVER_SET_FIELDS


def _bounded(field: Any) -> bool:
    rules = _rules(field)
    kind = rules.WhichOneof("type")
    if _is_map(field):
        value = field.message_type.fields_by_name["value"]
        bare = value.message_type is None and rules.map.values.WhichOneof("type") is None
        return bool(rules.map.max_pairs) and rules.map.HasField("keys") and not bare
    if field.is_repeated:
        bare = field.type == FieldDescriptor.TYPE_STRING and rules.repeated.items.WhichOneof("type") is None
        return bool(rules.repeated.max_items) and not bare
    if field.type == FieldDescriptor.TYPE_ENUM:
        return bool(rules.enum.defined_only)
    if field.message_type is not None:
        timed = field.message_type.full_name in ("google.protobuf.Timestamp", "google.protobuf.Duration")
        return kind is not None or not timed
    return kind is not None or field.type == FieldDescriptor.TYPE_BOOL


def test_identifiers_have_the_pattern_of_the_domain_everywhere() -> None:
    patterns = {
        "tenant_id": limits.TENANT_ID_PATTERN,
        "account_id": limits.ACCOUNT_ID_PATTERN,
        "feature_key": limits.KEY_PATTERN,
        "plan_key": limits.KEY_PATTERN,
    }
    for message in _request_messages():
        for field in message.fields:
            if field.name in patterns and f"{message.name}.{field.name}" not in SERVER_SET_FIELDS:
                required = patterns[field.name]
                optional = f"^({required.removeprefix('^').removesuffix('$')})?$"
                assert _rules(field).string.pattern in (required, optional), field.full_name
            if field.name == "request_id":
                assert _rules(field).string.pattern == limits.REQUEST_ID_PATTERN.replace("{1,", "{0,")


def test_bounds_are_those_of_the_domain() -> None:
    increment = usage_service_pb2.IncrementRequest.DESCRIPTOR.fields_by_name
    quantity = _rules(increment["quantity"]).int64
    batch = usage_service_pb2.BatchIncrementRequest.DESCRIPTOR.fields_by_name["increments"]
    limit = catalog_pb2.Limit.DESCRIPTOR.fields_by_name
    catalog = catalog_pb2.Catalog.DESCRIPTOR.fields_by_name
    yaml = catalog_service_pb2.ApplyCatalogRequest.DESCRIPTOR.fields_by_name["yaml"]

    assert (quantity.gte, quantity.lte) == (-limits.QUANTITY_MAX, limits.QUANTITY_MAX)
    assert _rules(batch).repeated.max_items == limits.BATCH_ITEMS_MAX
    assert _rules(increment["dimensions"]).map.max_pairs == limits.DIMENSIONS_MAX
    assert _rules(limit["quantity"]).int64.lte == limits.LIMIT_MAX
    assert _rules(limit["quantity"]).int64.gte == limits.LIMIT_UNLIMITED
    assert _rules(limit["thresholds"]).repeated.max_items == limits.THRESHOLDS_PER_ALLOWANCE_MAX
    assert _rules(catalog["plans"]).repeated.max_items == limits.PLANS_PER_CATALOG_MAX
    assert _rules(catalog["features"]).repeated.max_items == limits.FEATURES_PER_CATALOG_MAX
    assert _rules(catalog_pb2.Plan.DESCRIPTOR.fields_by_name["grace_days"]).int32.lte == limits.GRACE_DAYS_MAX
    assert _rules(yaml).string.max_bytes == limits.CATALOG_BYTES_MAX
    for message in _request_messages():
        if "page_size" in message.fields_by_name:
            assert _rules(message.fields_by_name["page_size"]).int32.lte == limits.PAGE_SIZE_MAX


def test_the_rules_of_every_message_compile() -> None:
    validator = protovalidate.Validator()
    for message in _all_messages():
        validator.collect_violations(message_factory.GetMessageClass(message)())


@pytest.mark.parametrize(
    "message",
    [
        _check(),
        _check(quantity=1, min_revision=7),
        _check(quantity=limits.QUANTITY_MAX),
        _check(tenant_id="0" * 63, account_id="A" + "~" * 127, feature_key="a" * 64),
        _check(account_id="user_29w83sxmDNGwOuEthce5gg56FcC@lekhak+x/y|z=1"),
        _increment(),
        _increment(quantity=-limits.QUANTITY_MAX, request_id="!" * 128, event_time=NOW),
        _increment(dimensions={"model": "größer 模型", "region": ""}),
        usage_service_pb2.BatchIncrementRequest(increments=[_increment()] * 1_000, atomic=True),
        usage_service_pb2.ListUsageEntriesRequest(tenant_id="t", account_id="a", start_time=NOW),
        account_service_pb2.UpdateAccountRequest(tenant_id="t", account_id="a", email="", display_name=""),
        account_service_pb2.IdentifyAccountRequest(
            tenant_id="t", identity={"provider": "email", "external_id": "a@b.example"}, email="a@b.example"
        ),
        catalog_service_pb2.ApplyCatalogRequest(yaml="tenant: t"),
        catalog_pb2.Limit(quantity=0),
        catalog_pb2.Limit(quantity=-1),
        data_lifecycle_service_pb2.OptimizeStorageRequest(tenant_id="t", target_reduction_ratio=0.3),
    ],
    ids=lambda message: type(message).__name__,
)
def test_a_message_within_the_rules_is_accepted(message: Message) -> None:
    assert _violations(message) == []


@pytest.mark.parametrize(
    ("message", "path", "rule"),
    [
        # Texts.
        (_check(tenant_id=""), "tenant_id", "string.pattern"),
        (_check(tenant_id="Lekhak"), "tenant_id", "string.pattern"),
        (_check(tenant_id="t" * 64), "tenant_id", "string.pattern"),
        (_check(account_id="a" * 129), "account_id", "string.pattern"),
        (_check(account_id="a" * 10_000), "account_id", "string.pattern"),
        (_check(account_id="a{b}"), "account_id", "string.pattern"),
        (_check(account_id="a b"), "account_id", "string.pattern"),
        (_check(account_id="a\n"), "account_id", "string.pattern"),
        (_check(feature_key="9"), "feature_key", "string.pattern"),
        (_check(feature_key="a" * 65), "feature_key", "string.pattern"),
        (_increment(request_id="a b"), "request_id", "string.pattern"),
        (_increment(request_id="a" * 129), "request_id", "string.pattern"),
        # Numbers.
        (_check(quantity=0), "quantity", "int64.gte_lte"),
        (_check(quantity=-1), "quantity", "int64.gte_lte"),
        (_check(quantity=limits.QUANTITY_MAX + 1), "quantity", "int64.gte_lte"),
        (_check(min_revision=-1), "min_revision", "int64.gte"),
        (_increment(quantity=0), "quantity", "int64.not_in"),
        (_increment(quantity=2**62), "quantity", "int64.gte_lte"),
        (_increment(quantity=-limits.QUANTITY_MAX - 1), "quantity", "int64.gte_lte"),
        (
            usage_service_pb2.ListUsageEntriesRequest(tenant_id="t", account_id="a", page_size=1_001),
            "page_size",
            "int32.gte_lte",
        ),
        (
            data_lifecycle_service_pb2.OptimizeStorageRequest(tenant_id="t", target_reduction_ratio=float("nan")),
            "target_reduction_ratio",
            "double.gt_lte",
        ),
        # Enums.
        (_increment(ack=9), "ack", "enum.defined_only"),
        (catalog_pb2.Feature(key="a", kind="FEATURE_KIND_UNSPECIFIED"), "kind", "enum.not_in"),
        # Times.
        (_increment(event_time={"seconds": 1}), "event_time", "timestamp.gte_lt"),
        (_increment(event_time={"seconds": 4_102_444_800}), "event_time", "timestamp.gte_lt"),
        (
            usage_service_pb2.ReserveRequest(tenant_id="t", account_id="a", feature_key="f", ttl={"seconds": 86_401}),
            "ttl",
            "duration.gte_lte",
        ),
        (usage_service_pb2.ReserveRequest(tenant_id="t", account_id="a", feature_key="f"), "ttl", "required"),
        # Maps and lists.
        (_increment(dimensions={"Model": "a"}), "dimensions[Model]", "string.pattern"),
        (_increment(dimensions={"model": "a\x00"}), "dimensions[model]", "string.pattern"),
        (_increment(dimensions={"model": "a" * 257}), "dimensions[model]", "string.pattern"),
        (_increment(dimensions={f"d{n}": "" for n in range(33)}), "dimensions", "map.max_pairs"),
        (usage_service_pb2.BatchIncrementRequest(), "increments", "repeated.min_items"),
        (
            usage_service_pb2.BatchIncrementRequest(increments=[_increment()] * 1_001),
            "increments",
            "repeated.max_items",
        ),
        (
            entitlement_service_pb2.BatchCheckAccessRequest(checks=[_check(), _check(), _check(account_id="")]),
            "checks[2].account_id",
            "string.pattern",
        ),
        # Alternatives.
        (catalog_service_pb2.ApplyCatalogRequest(), "source", "required"),
        (catalog_pb2.Threshold(), "point", "required"),
        # Required values, where an absent one must not become a generous one.
        (catalog_pb2.Limit(), "quantity", "required"),
        (account_service_pb2.IdentifyAccountRequest(tenant_id="t"), "identity", "required"),
        # Several fields together: the rule's id begins with the field to blame.
        (
            usage_service_pb2.ListUsageEntriesRequest(
                tenant_id="t", account_id="a", start_time=NOW, end_time={"seconds": NOW["seconds"] - 1}
            ),
            "",
            "end_time.after_start_time",
        ),
        (
            catalog_pb2.Price(interval="BILLING_INTERVAL_MONTH", amount={"minor_units": -1, "currency_code": "USD"}),
            "",
            "amount.not_negative",
        ),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Message) else value or "message",
)
def test_a_message_that_breaks_a_rule_is_refused_and_the_field_named(message: Message, path: str, rule: str) -> None:
    assert (path, rule) in _violations(message)


def test_a_bad_usage_event_does_not_condemn_its_batch() -> None:
    """The server judges each event alone, by the same rules."""
    bad = usage_event_pb2.UsageEvent(id="", source="s", type="t", subject="a", data=Struct())

    assert _violations(usage_service_pb2.RecordUsageRequest(tenant_id="t", events=[bad])) == []
    assert _violations(bad) == [("id", "string.pattern")]


def test_a_rule_over_several_fields_names_the_field_to_blame_in_its_id() -> None:
    for message in _all_messages():
        options: Any = message.GetOptions()
        for rule in options.Extensions[validate_pb2.message].cel:
            assert rule.id.split(".")[0] in message.fields_by_name, (message.name, rule.id)


# Tools


def test_generated_code_is_what_the_protos_give() -> None:
    """Run from another directory and without anything on PATH, as a packager might."""
    finished = subprocess.run(
        [sys.executable, str(PROTOS / "generate.py"), "--check"],
        cwd="/",
        env={"PATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )

    assert (finished.returncode, finished.stderr) == (0, "")


def test_the_contract_is_linted_formatted_and_breaks_no_client() -> None:
    finished = subprocess.run(
        [sys.executable, str(PROTOS / "lint.py")],
        cwd="/",
        env={"PATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )

    assert (finished.returncode, finished.stderr) == (0, "")


def test_missing_stray_and_changed_files_are_each_named(tmp_path: Path) -> None:
    copy = tmp_path / "generated"
    shutil.copytree(GENERATED, copy, ignore=shutil.ignore_patterns("__pycache__"))
    (copy / "tallygate" / "v1" / "money_pb2.py").unlink()
    (copy / "tallygate" / "v1" / "extra_pb2.py").write_text("")
    access = copy / "tallygate" / "v1" / "access_pb2.pyi"
    access.write_text(access.read_text() + "by hand\n")

    assert generator.differences(GENERATED, copy) == [
        "missing: generated/tallygate/v1/money_pb2.py",
        "stray, no proto produces it: generated/tallygate/v1/extra_pb2.py",
        "out of date: generated/tallygate/v1/access_pb2.pyi (first change: -by hand)",
    ]


def test_lint_finds_an_element_without_a_comment(image: Path, tmp_path: Path) -> None:
    contract = FileDescriptorSet.FromString(image.read_bytes())
    for file in contract.file:
        if file.name == "tallygate/v1/money.proto":
            for place in file.source_code_info.location:
                place.ClearField("leading_comments")
    bare = tmp_path / "bare.binpb"
    bare.write_bytes(contract.SerializeToString())

    assert 'Message "Money" should have a non-empty comment' in linter.lint(bare)


def test_lint_finds_a_change_that_breaks_clients(image: Path, tmp_path: Path) -> None:
    contract = FileDescriptorSet.FromString(image.read_bytes())
    for file in contract.file:
        if file.name == "tallygate/v1/money.proto":
            file.message_type[0].field[0].name = "cents"
            file.message_type[0].field[0].json_name = "cents"
    changed = tmp_path / "changed.binpb"
    changed.write_bytes(contract.SerializeToString())

    assert "minor_units" in linter.breaking_changes(changed, image)
    assert linter.breaking_changes(image, image) == ""


def test_lint_finds_a_file_that_is_not_formatted(tmp_path: Path) -> None:
    folder = tmp_path / "protos"
    folder.mkdir()
    (folder / "a.proto").write_text('syntax = "proto3";\npackage a.v1;\nmessage A { int32  b=1; }\n')

    assert "+  int32 b = 1;" in linter.format_differences(folder)


def test_a_proto_that_does_not_compile_is_refused_in_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken.proto").write_text('syntax = "proto3";\nmessage A { nothing b = 1; }\n')
    monkeypatch.setattr(generator, "PROTOS", tmp_path)

    with pytest.raises(generator.GenerationError, match="nothing"):
        generator.generate(tmp_path / "out")


def test_all_that_the_wheel_needs_is_generated() -> None:
    """The data lifecycle messages import buf.validate; without it no module of ours can be imported."""
    assert (GENERATED / "buf" / "validate" / "validate_pb2.py").is_file()
    assert data_lifecycle_pb2.DESCRIPTOR.dependencies[0].name == "buf/validate/validate.proto"
