"""DataLifecycleService: part of the contract, not of this release; every RPC answers UNIMPLEMENTED."""

from __future__ import annotations

from typing import ClassVar, Final

from google.protobuf.descriptor import ServiceDescriptor

from tallygate.v1 import data_lifecycle_service_pb2

SERVICE: Final[ServiceDescriptor] = data_lifecycle_service_pb2.DESCRIPTOR.services_by_name["DataLifecycleService"]


class DataLifecycleServicer:
    """Keeps data in tiers and removes it, once it is built."""

    SERVICE: ClassVar[ServiceDescriptor] = SERVICE
