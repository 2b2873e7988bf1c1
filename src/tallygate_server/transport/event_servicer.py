"""EventService: part of the contract, not of this release; every RPC answers UNIMPLEMENTED."""

from __future__ import annotations

from typing import ClassVar, Final

from google.protobuf.descriptor import ServiceDescriptor

from tallygate.v1 import event_service_pb2

SERVICE: Final[ServiceDescriptor] = event_service_pb2.DESCRIPTOR.services_by_name["EventService"]


class EventServicer:
    """Takes and shows usage events, once it is built."""

    SERVICE: ClassVar[ServiceDescriptor] = SERVICE
