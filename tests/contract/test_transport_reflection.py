"""Server reflection, both versions, on every transport."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool
from google.protobuf.message_factory import GetMessageClass
from grpc import aio
from grpc_reflection.v1alpha import reflection_pb2
from grpc_reflection.v1alpha.reflection_pb2 import ServerReflectionRequest as Request
from grpc_reflection.v1alpha.reflection_pb2 import ServerReflectionResponse as Response

from tests.support.transport_servers import FLAVOURS, Flavour, Served, refusal_of, serving

VERSIONS = ("grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection")


@pytest.fixture(params=FLAVOURS)
async def served(request: pytest.FixtureRequest) -> AsyncIterator[Served]:
    flavour: Flavour = request.param
    async with serving(flavour) as running:
        yield running


@pytest.fixture(params=VERSIONS)
def version(request: pytest.FixtureRequest) -> str:
    found: str = request.param
    return found


async def ask(served: Served, version: str, *requests: Request) -> list[Response]:
    call = served.channel.stream_stream(
        f"/{version}/ServerReflectionInfo",
        request_serializer=Request.SerializeToString,
        response_deserializer=Response.FromString,
    )(iter(requests), timeout=60)
    return [response async for response in call]


def files_of(response: Response) -> dict[str, descriptor_pb2.FileDescriptorProto]:
    files = [
        descriptor_pb2.FileDescriptorProto.FromString(raw)
        for raw in response.file_descriptor_response.file_descriptor_proto
    ]
    return {file.name: file for file in files}


async def test_all_services_are_listed(served: Served, version: str) -> None:
    (response,) = await ask(served, version, Request(list_services=""))

    assert [service.name for service in response.list_services_response.service] == [
        "grpc.health.v1.Health",
        "grpc.reflection.v1.ServerReflection",
        "grpc.reflection.v1alpha.ServerReflection",
        "tallygate.v1.DataLifecycleService",
        "tallygate.v1.EntitlementService",
        "tallygate.v1.UsageService",
    ]


async def test_a_client_can_build_every_listed_service_from_what_it_is_told(served: Served, version: str) -> None:
    (listed,) = await ask(served, version, Request(list_services=""))
    names = [service.name for service in listed.list_services_response.service]
    responses = await ask(served, version, *(Request(file_containing_symbol=name) for name in names))

    pool = descriptor_pool.DescriptorPool()
    files: dict[str, descriptor_pb2.FileDescriptorProto] = {}
    for response in responses:
        files |= files_of(response)
    while files:
        ready = [name for name, file in files.items() if not set(file.dependency) & set(files)]
        assert ready, "an imported file is missing"
        for name in ready:
            pool.Add(files.pop(name))
    for name in names:
        for method in pool.FindServiceByName(name).methods:
            assert GetMessageClass(method.input_type)() is not None


async def test_files_are_found_by_name_symbol_and_extension(served: Served, version: str) -> None:
    by_name, by_symbol, by_method, by_extension, numbers = await ask(
        served,
        version,
        Request(file_by_filename="tallygate/v1/usage_service.proto"),
        Request(file_containing_symbol="tallygate.v1.IncrementRequest.quantity"),
        Request(file_containing_symbol="tallygate.v1.UsageService.Increment"),
        Request(
            file_containing_extension=reflection_pb2.ExtensionRequest(
                containing_type="google.protobuf.FieldOptions", extension_number=1159
            )
        ),
        Request(all_extension_numbers_of_type="google.protobuf.FieldOptions"),
    )

    assert "tallygate/v1/usage_service.proto" in files_of(by_name)
    assert "tallygate/v1/usage_service.proto" in files_of(by_symbol)
    assert "tallygate/v1/usage_service.proto" in files_of(by_method)
    assert "buf/validate/validate.proto" in files_of(by_extension)
    assert 1159 in numbers.all_extension_numbers_response.extension_number


@pytest.mark.parametrize(
    "request_",
    [
        Request(file_by_filename="no/such.proto"),
        Request(file_containing_symbol="no.such.Symbol"),
        Request(file_containing_symbol="tallygate.v1.UsageService.NoSuchMethod"),
        Request(file_containing_symbol=""),
        Request(
            file_containing_extension=reflection_pb2.ExtensionRequest(
                containing_type="tallygate.v1.IncrementRequest", extension_number=-1
            )
        ),
        Request(all_extension_numbers_of_type="no.such.Type"),
    ],
)
async def test_what_is_not_there_is_answered_in_the_stream(served: Served, version: str, request_: Request) -> None:
    missing, listed = await ask(served, version, request_, Request(list_services=""))

    assert missing.error_response.error_code == grpc.StatusCode.NOT_FOUND.value[0]
    assert missing.original_request == request_
    assert listed.HasField("list_services_response")


async def test_an_empty_question_is_an_invalid_argument(served: Served, version: str) -> None:
    (response,) = await ask(served, version, Request())

    assert response.error_response.error_code == grpc.StatusCode.INVALID_ARGUMENT.value[0]


async def test_garbage_ends_the_stream_and_is_not_quoted(served: Served, version: str) -> None:
    method: Any = served.channel.stream_stream(f"/{version}/ServerReflectionInfo")
    call = method(iter([b"\xff\xff"]), timeout=60)

    with pytest.raises(aio.AioRpcError) as caught:
        await call.read()

    refusal = refusal_of(caught.value)
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "MALFORMED_MESSAGE")
    assert "Decode" not in refusal.everything
