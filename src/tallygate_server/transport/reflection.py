"""Server reflection, v1 and v1alpha: what lets grpcurl and its like call the server without any proto file.

The library at hand has v1alpha only, and lets a parser's exception out when it is sent garbage. The two
versions have the same messages under two package names, so one servicer answers both.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from typing import Any, Final, cast

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool
from google.protobuf.descriptor import FileDescriptor
from google.protobuf.message import DecodeError
from grpc import aio
from grpc_reflection.v1alpha import reflection_pb2

from tallygate_server.errors import MalformedMessage
from tallygate_server.transport.endpoint import HandlerRegistry
from tallygate_server.transport.status import failure_of

V1ALPHA: Final = "grpc.reflection.v1alpha.ServerReflection"
V1: Final = "grpc.reflection.v1.ServerReflection"

REQUESTS_MAX: Final = 10_000
"""Questions in one stream; no tool asks for as many."""

_Context = aio.ServicerContext[Any, Any]
_NOT_FOUND: Final = 5
_INVALID_ARGUMENT: Final = 3


def register_reflection(registry: HandlerRegistry, services: Iterable[str]) -> None:
    """Serve both versions of reflection for these services, and for reflection itself."""
    pool = descriptor_pool.Default()
    _add_v1(pool)
    answers = _Answers(pool, sorted({*services, V1, V1ALPHA}))
    for name in (V1, V1ALPHA):
        handler: grpc.RpcMethodHandler[Any, Any] = grpc.stream_stream_rpc_method_handler(cast("Any", answers.serve))
        registry.add_registered_method_handlers(name, {"ServerReflectionInfo": handler})


class _Answers:
    def __init__(self, pool: descriptor_pool.DescriptorPool, services: list[str]) -> None:
        self._pool = pool
        self._services = services

    async def serve(self, payloads: AsyncIterator[bytes], context: _Context) -> AsyncIterator[bytes]:
        count = 0
        async for payload in payloads:
            count += 1
            try:
                request = reflection_pb2.ServerReflectionRequest.FromString(payload)
            except DecodeError:
                request = None
            if request is None or count > REQUESTS_MAX:
                error = MalformedMessage("the stream is not one of reflection requests", type=V1)
                failure = failure_of(error, method=f"/{V1}/ServerReflectionInfo")
                await context.abort(failure.code, failure.message, failure.trailing_metadata)
            yield self._answer(request).SerializeToString()

    def _answer(self, request: reflection_pb2.ServerReflectionRequest) -> reflection_pb2.ServerReflectionResponse:
        response = reflection_pb2.ServerReflectionResponse(valid_host=request.host, original_request=request)
        kind = request.WhichOneof("message_request")
        try:
            if kind == "list_services":
                response.list_services_response.service.extend(
                    reflection_pb2.ServiceResponse(name=name) for name in self._services
                )
            elif kind == "file_by_filename":
                self._add_files(response, self._pool.FindFileByName(request.file_by_filename))
            elif kind == "file_containing_symbol":
                self._add_files(response, self._file_of(request.file_containing_symbol))
            elif kind == "file_containing_extension":
                extension = request.file_containing_extension
                message = self._pool.FindMessageTypeByName(extension.containing_type)
                found = self._pool.FindExtensionByNumber(message, extension.extension_number)
                self._add_files(response, cast("Any", found).file)
            elif kind == "all_extension_numbers_of_type":
                message = self._pool.FindMessageTypeByName(request.all_extension_numbers_of_type)
                numbers = sorted(extension.number for extension in self._pool.FindAllExtensions(message))
                response.all_extension_numbers_response.base_type_name = message.full_name
                response.all_extension_numbers_response.extension_number.extend(numbers)
            else:
                response.error_response.error_code = _INVALID_ARGUMENT
                response.error_response.error_message = "the request asks nothing"
        except (KeyError, TypeError):
            response.error_response.error_code = _NOT_FOUND
            response.error_response.error_message = "there is no such thing here"
        return response

    def _file_of(self, symbol: str) -> FileDescriptor:
        """Return the file that declares the symbol; raise KeyError if there is none."""
        try:
            return self._pool.FindFileContainingSymbol(symbol)
        except KeyError:
            # The pool does not know methods by name; `grpcurl describe` asks for them.
            service_name, _, method_name = symbol.rpartition(".")
            service = self._pool.FindServiceByName(service_name)
            if method_name not in service.methods_by_name:
                raise
            return service.file

    def _add_files(self, response: reflection_pb2.ServerReflectionResponse, wanted: FileDescriptor) -> None:
        """Add the file and everything it imports, so that the asker needs no second question."""
        found: dict[str, bytes] = {}
        waiting = [wanted]
        while waiting:
            file = waiting.pop()
            if file.name not in found:
                found[file.name] = file.serialized_pb
                waiting.extend(file.dependencies)
        response.file_descriptor_response.file_descriptor_proto.extend(found.values())


def _add_v1(pool: descriptor_pool.DescriptorPool) -> None:
    """Make the descriptors of v1 known, as v1alpha's under another name; describing v1 needs them."""
    try:
        pool.FindFileByName("grpc/reflection/v1/reflection.proto")
    except KeyError:
        proto = descriptor_pb2.FileDescriptorProto()
        reflection_pb2.DESCRIPTOR.CopyToProto(proto)
        proto.name = "grpc/reflection/v1/reflection.proto"
        proto.package = "grpc.reflection.v1"
        for message in proto.message_type:
            for field in message.field:
                if field.HasField("type_name"):
                    field.type_name = field.type_name.replace("v1alpha", "v1")
        for method in proto.service[0].method:
            method.input_type = method.input_type.replace("v1alpha", "v1")
            method.output_type = method.output_type.replace("v1alpha", "v1")
        pool.AddSerializedFile(proto.SerializeToString())
