"""Random messages, for every RPC of the contract: an answer or a documented error, and never an incident."""

from __future__ import annotations

import asyncio
import random
import string
from collections import Counter
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from grpc import aio
from structlog.testing import capture_logs

from tallygate.v1.data_lifecycle_pb2 import ColumnBatch, ColumnValues, DoubleValues, Int64Values
from tallygate.v1.data_lifecycle_service_pb2 import PutRecordsRequest
from tallygate.v1.data_lifecycle_service_pb2_grpc import DataLifecycleServiceStub
from tallygate_server.app import servicers
from tallygate_server.clock import SystemClock
from tallygate_server.domain.identifier import TenantId
from tallygate_server.lifecycle.jobs import LifecycleJobRunner
from tallygate_server.service import open_service
from tallygate_server.transport.server import build_server
from tests.support.acme import PATIENT
from tests.support.lifecycle import lifecycles
from tests.support.use_cases import example

SEED = 20_261_120
CALLS_PER_RPC = 40
FEWER_CALLS = {
    "SimulateLimits": 6,
    "WatchEvents": 12,
    "WatchEntitlements": 12,
    "WatchLifecycleJob": 12,
    **dict.fromkeys(("IdentifyCriticalData", "OptimizeTrainingDataset", "EvaluateCompressionImpact"), 6),
    "SelectRepresentativeSamples": 6,
}
"""Of what starts a process each time, and of what never ends by itself."""
WATCHED_SECONDS = 0.5
DEPTH_MAX = 4

# What each field is likely to hold, so that calls get past the rules as often as not.
_LIKELY: dict[str, list[str]] = {
    "tenant_id": ["lekhak", "lekhak", "lekhak", "nowhere", "fuzz"],
    "account_id": ["a", "b", "c-1", "user:1"],
    "feature_key": ["text_rewrite", "grammar_check", "unknown_feature"],
    "plan_key": ["free", "pro", "unlimited", "", "gold"],
    "subscription_id": ["", "sub_1"],
    "request_id": ["", "r-1", "r-2"],
    "page_token": ["", "", "AAAA"],
    "data_type": ["ride", "ride", "post", "*"],
    "data_types": ["ride", "post"],
    "purpose": ["ai_training", ""],
    "model_key": ["general", "quill-small", ""],
    "name": ["a", "b", "heart_rate"],
    "target_column": ["", "a"],
    "provider": ["clerk", "email"],
    "external_id": ["u1", "a@b.example"],
    "currency_code": ["USD", "", "XXX"],
    "time_zone": ["", "Europe/Berlin", "Not/AZone"],
    "locale": [""],
    "reason_text": ["because", ""],
    "yaml": ["tenant: fuzz\n", "{}", "]", "tenant: [\x00"],
}
_HARD_TEXTS = ["", "\n", "\x00", "é", "{}", "a" * 300, "\u2028", "' OR 1=1 --", "../..", "%s%n", "\U0010ffff"]
_HARD_NUMBERS = [0, 1, -1, 2, 7, 1_000, 1_001, 2**31 - 1, -(2**31), 10**12, 10**12 + 1, 2**62, -(2**62), 2**63 - 1]
_INT32_TYPES = (FieldDescriptor.CPPTYPE_INT32, FieldDescriptor.CPPTYPE_ENUM)


def _scalar(dice: random.Random, field: Any) -> Any:
    kind = field.cpp_type
    if kind == FieldDescriptor.CPPTYPE_STRING:
        if field.type == FieldDescriptor.TYPE_BYTES:
            return dice.randbytes(dice.randrange(20))
        if dice.random() < 0.93:
            return dice.choice(_LIKELY.get(field.name, ["", "x", dice.choice(string.ascii_lowercase)]))
        return dice.choice(_HARD_TEXTS)
    if kind == FieldDescriptor.CPPTYPE_BOOL:
        return dice.random() < 0.3
    if kind in (FieldDescriptor.CPPTYPE_DOUBLE, FieldDescriptor.CPPTYPE_FLOAT):
        return dice.choice([0.0, 1.5, -1.0, float("inf"), float("nan"), 1e300])
    if kind == FieldDescriptor.CPPTYPE_ENUM and dice.random() < 0.9:
        assert field.enum_type is not None
        return dice.choice([value.number for value in field.enum_type.values])
    number = dice.choice(_HARD_NUMBERS) if dice.random() < 0.4 else dice.randrange(1, 5)
    if kind in _INT32_TYPES:
        return max(-(2**31), min(number, 2**31 - 1))
    if kind in (FieldDescriptor.CPPTYPE_UINT32, FieldDescriptor.CPPTYPE_UINT64):
        return abs(number) % 2**32
    return number


def _fill(dice: random.Random, message: Message, depth: int = 0) -> None:
    for field in message.DESCRIPTOR.fields:
        likely = field.name in _LIKELY or field.name == "identity"
        if dice.random() > (0.97 if likely else 0.15):
            continue
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            entries = getattr(message, field.name)
            value_field = field.message_type.fields_by_name["value"]
            if value_field.message_type is None:
                entries[dice.choice(["k", "model", "A b", ""])] = _scalar(dice, value_field)
            elif depth < DEPTH_MAX:
                _fill(dice, entries[dice.choice(["k", "x"])], depth + 1)
        elif field.message_type is not None:
            if depth >= DEPTH_MAX:
                continue
            if field.is_repeated:
                for _ in range(dice.randrange(3)):
                    _fill(dice, getattr(message, field.name).add(), depth + 1)
            else:
                getattr(message, field.name).SetInParent()
                _fill(dice, getattr(message, field.name), depth + 1)
        elif field.is_repeated:
            getattr(message, field.name).extend(_scalar(dice, field) for _ in range(dice.randrange(3)))
        else:
            setattr(message, field.name, _scalar(dice, field))


def _random_bytes(dice: random.Random, request: type[Message]) -> bytes:
    message = request()
    _fill(dice, message)
    payload = bytearray(message.SerializeToString())
    if payload and dice.random() < 0.1:
        payload[dice.randrange(len(payload))] ^= 1 << dice.randrange(8)
    return bytes(payload)


@pytest.mark.parametrize("seed", [SEED])
async def test_no_message_makes_an_incident(seed: int, fresh_database: str, fresh_redis: str, tmp_path: Path) -> None:
    dice = random.Random(seed)
    codes: Counter[tuple[str, str]] = Counter()
    incidents: list[str] = []
    async with (
        open_service(
            database_url=fresh_database, redis_url=fresh_redis, clock=SystemClock(), limits=PATIENT
        ) as service,
        lifecycles(fresh_database, service, tmp_path) as lifecycle,
        AsyncExitStack() as stack,
    ):
        runner = LifecycleJobRunner(lifecycle.jobs)
        await runner.start()
        stack.push_async_callback(runner.close)
        await service.catalogs.apply(example("lekhak"))
        await service.accounts.provision(TenantId("lekhak"), "a")  # type: ignore[arg-type]
        served = servicers(service, lifecycle)
        server = build_server("native", served, observe=lambda *_call: None)
        port = await server.start("127.0.0.1", 0)
        async with aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            await _put_records(channel)
            with capture_logs() as logs:
                for servicer in served:
                    for method in servicer.SERVICE.methods:
                        path = f"/{servicer.SERVICE.full_name}/{method.name}"
                        request = GetMessageClass(method.input_type)
                        built = hasattr(servicer, method.name)
                        for _ in range(FEWER_CALLS.get(method.name, CALLS_PER_RPC) if built else 2):
                            payload = _random_bytes(dice, request)
                            code = await _code_of(channel, path, payload, streaming=method.server_streaming)
                            codes[method.name, code] += 1
                            if code in ("INTERNAL", "UNKNOWN", "DEADLINE_EXCEEDED", "UNAVAILABLE"):
                                incidents.append(f"{path} {code} {payload!r}")
        await server.drain(drain_delay_ms=0, grace_ms=1_000)

    assert incidents == [], [entry.get("exc_info") for entry in logs if "incident_id" in entry]
    # The messages are not all refused at the door.
    assert codes["Increment", "OK"] > 5
    assert codes["IdentifyAccount", "OK"] > 0
    assert codes["ArchiveData", "OK"] > 0


async def _put_records(channel: aio.Channel) -> None:
    """Let there be something to look after."""
    count = 500
    columns = [
        ColumnValues(name="a", int64_values=Int64Values(values=range(count))),
        ColumnValues(name="heart_rate", double_values=DoubleValues(values=[60.5] * count)),
    ]
    batch = ColumnBatch(time_micros=range(0, count * 1_000_000, 1_000_000), columns=columns)
    request = PutRecordsRequest(tenant_id="lekhak", account_id="a", data_type="ride", columns=batch)
    stub: Any = DataLifecycleServiceStub(channel)
    await stub.PutRecords(request)


async def _code_of(channel: aio.Channel, path: str, payload: bytes, *, streaming: bool) -> str:
    method: Any = channel.unary_stream(path) if streaming else channel.unary_unary(path)
    call = method(payload, timeout=120)
    try:
        if not streaming:
            await call
        elif not path.rpartition("/")[2].startswith("Watch"):
            await call.read()
        else:
            # One that is well goes on, perhaps without a word; one that is not is refused at once.
            await asyncio.wait_for(call.read(), WATCHED_SECONDS)
    except TimeoutError:
        pass
    except aio.AioRpcError as error:
        return error.code().name
    finally:
        call.cancel()
    return grpc.StatusCode.OK.name
