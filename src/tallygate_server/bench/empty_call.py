"""The empty call: what the transport costs alone.

A stock servicer, registered as generated code does it and with none of our wrapping. It takes the same request as
`Increment` and answers with nothing.
"""

from __future__ import annotations

from typing import Final

import grpc
from google.protobuf.empty_pb2 import Empty
from grpc import aio

from tallygate.v1 import usage_service_pb2

SERVICE: Final = "tallygate.bench.v1.EmptyService"
PATH: Final = f"/{SERVICE}/Increment"

_EMPTY: Final = Empty()


class EmptyServicer:
    """Does nothing."""

    async def Increment(  # noqa: N802 - an RPC's name.
        self, _request: usage_service_pb2.IncrementRequest, _context: grpc.aio.ServicerContext[object, object]
    ) -> Empty:
        """Answer."""
        return _EMPTY


def register_plain(server: aio.Server) -> None:
    """Register the empty call the way that generated code does."""
    handlers = {
        "Increment": grpc.unary_unary_rpc_method_handler(
            EmptyServicer().Increment,
            request_deserializer=usage_service_pb2.IncrementRequest.FromString,
            response_serializer=Empty.SerializeToString,
        )
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
    server.add_registered_method_handlers(SERVICE, handlers)
