"""Between the wire messages of usage events and those of the use cases."""

from __future__ import annotations

import ipaddress
import json
from typing import Final

from google.protobuf.struct_pb2 import Struct

from tallygate.v1 import usage_event_pb2, usage_service_pb2
from tallygate_server.domain.catalog import ConfigValue
from tallygate_server.domain.identifier import AccountId
from tallygate_server.domain.limits import EVENT_DATA_BYTES_MAX
from tallygate_server.domain.usage_event import AiUsage, ClientContext, UsageEvent
from tallygate_server.errors import FieldViolation, InvalidRequest
from tallygate_server.recording import RecordOutcome, RecordResult
from tallygate_server.storage.usage_events import UsageEventRow
from tallygate_server.transport.convert import (
    api_enum,
    from_api_optional_time,
    from_api_struct,
    to_api_instant,
    to_api_struct,
)
from tallygate_server.transport.endpoint import Rules
from tallygate_server.transport.status import status_message_of

_OUTCOME: Final = api_enum(RecordOutcome, usage_service_pb2.RecordOutcome, "RECORD_OUTCOME")


def event_rules() -> Rules:
    """Return what events are held to, one by one: the request's own rules leave them out."""
    rules = Rules()
    rules.warm([usage_event_pb2.UsageEvent])
    return rules


def from_api_event(message: usage_event_pb2.UsageEvent, rules: Rules, *, path: str) -> UsageEvent | InvalidRequest:
    """Convert an event; where it breaks rules, return the error that names each by its place in the request."""
    try:
        rules.enforce(message)
        return _event(message)
    except InvalidRequest as error:
        return InvalidRequest(
            [
                FieldViolation(f"{path}.{each.field}" if each.field else path, each.description, each.rule)
                for each in error.violations
            ]
        )


def to_api_record_result(
    message: usage_event_pb2.UsageEvent, result: RecordResult, *, method: str
) -> usage_service_pb2.RecordUsageResult:
    """Convert what became of the event."""
    return usage_service_pb2.RecordUsageResult(
        event_id=message.id,
        source=message.source,
        outcome=_OUTCOME[result.outcome],
        error=status_message_of(result.error, method=method) if result.error is not None else None,
        meter_keys=result.meter_keys,
        cost_nanos=result.cost.nanos,
        cost_currency_code=result.cost.currency_code,
    )


def to_api_recorded_event(row: UsageEventRow) -> usage_event_pb2.RecordedUsageEvent:
    """Convert an event that was recorded."""
    return usage_event_pb2.RecordedUsageEvent(
        event=usage_event_pb2.UsageEvent(
            id=row.event_id,
            source=row.source,
            type=row.type,
            subject=row.account_id,
            time=to_api_instant(row.event_time),
            data=to_api_struct(row.data) if row.data is not None else None,
            ai=usage_event_pb2.AiUsage(**row.ai) if row.ai is not None else None,
            client=usage_event_pb2.ClientContext(**row.client) if row.client is not None else None,
        ),
        receive_time=to_api_instant(row.recorded_time),
        meter_keys=row.meter_keys,
        cost_nanos=row.cost_nanos,
        cost_currency_code=row.cost_currency_code,
    )


def _event(message: usage_event_pb2.UsageEvent) -> UsageEvent:
    return UsageEvent(
        source=message.source,
        event_id=message.id,
        type=message.type,
        account_id=AccountId(message.subject),
        time=from_api_optional_time(message, "time"),
        data=_data(message.data) if message.HasField("data") else None,
        ai=_ai(message.ai) if message.HasField("ai") else None,
        client=_client(message.client) if message.HasField("client") else None,
    )


def _data(struct: Struct) -> dict[str, ConfigValue]:
    data = from_api_struct(struct)
    try:
        text = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    except ValueError:
        raise InvalidRequest.of("data", "holds a number that JSON cannot say") from None
    size = len(text.encode())
    if size > EVENT_DATA_BYTES_MAX:
        raise InvalidRequest.of("data", f"at most {EVENT_DATA_BYTES_MAX} bytes as JSON, here are {size}")
    if "\\u0000" in text and _has_nul(data):
        raise InvalidRequest.of("data", "contains a character that cannot be stored: U+0000")
    return data


def _has_nul(value: ConfigValue) -> bool:
    match value:
        case str():
            return "\x00" in value
        case list():
            return any(_has_nul(each) for each in value)
        case dict():
            return any("\x00" in key or _has_nul(each) for key, each in value.items())
        case _:
            return False


def _ai(message: usage_event_pb2.AiUsage) -> AiUsage:
    if message.cached_input_tokens > message.input_tokens:
        raise InvalidRequest.of(
            "ai.cached_input_tokens",
            f"are part of the input tokens, of which there are {message.input_tokens}",
        )
    return AiUsage(
        model_key=message.model_key,
        input_tokens=message.input_tokens,
        output_tokens=message.output_tokens,
        cached_input_tokens=message.cached_input_tokens,
        operation=message.operation,
    )


def _client(message: usage_event_pb2.ClientContext) -> ClientContext:
    if message.ip_address:
        try:
            ipaddress.ip_address(message.ip_address)
        except ValueError:
            raise InvalidRequest.of("client.ip_address", "is neither an IPv4 nor an IPv6 address") from None
    return ClientContext(
        user_agent=message.user_agent,
        ip_address=message.ip_address,
        input_text_length=message.input_text_length,
        output_text_length=message.output_text_length,
    )
