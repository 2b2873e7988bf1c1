"""AdminService: part of the contract, not of this release; every RPC answers UNIMPLEMENTED."""

from __future__ import annotations

from typing import ClassVar, Final

from google.protobuf.descriptor import ServiceDescriptor

from tallygate.v1 import admin_service_pb2

SERVICE: Final[ServiceDescriptor] = admin_service_pb2.DESCRIPTOR.services_by_name["AdminService"]


class AdminServicer:
    """Shows and runs the installation, once it is built."""

    SERVICE: ClassVar[ServiceDescriptor] = SERVICE
