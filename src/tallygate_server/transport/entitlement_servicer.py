"""EntitlementService: converts, calls, converts."""

from __future__ import annotations

from typing import Any, ClassVar, Final

from google.protobuf.descriptor import ServiceDescriptor
from grpc import aio

from tallygate.v1 import entitlement_service_pb2
from tallygate_server.transport import convert
from tallygate_server.transport.use_cases import AccessChecks

SERVICE: Final[ServiceDescriptor] = entitlement_service_pb2.DESCRIPTOR.services_by_name["EntitlementService"]

_Context = aio.ServicerContext[Any, Any]
_BATCH_CHECK: Final = f"/{SERVICE.full_name}/BatchCheckAccess"


class EntitlementServicer:
    """May this account do this, and how much is left?"""

    SERVICE: ClassVar[ServiceDescriptor] = SERVICE

    def __init__(self, checks: AccessChecks) -> None:
        self._checks = checks

    async def CheckAccess(
        self, request: entitlement_service_pb2.CheckAccessRequest, _context: _Context
    ) -> entitlement_service_pb2.CheckAccessResponse:
        """Answer one check."""
        return convert.to_api_check(await self._checks.check(convert.from_api_check(request)))

    async def BatchCheckAccess(
        self, request: entitlement_service_pb2.BatchCheckAccessRequest, _context: _Context
    ) -> entitlement_service_pb2.BatchCheckAccessResponse:
        """Answer many checks, each alone."""
        outcomes = await self._checks.check_many([convert.from_api_check(check) for check in request.checks])
        return entitlement_service_pb2.BatchCheckAccessResponse(
            results=[convert.to_api_check_result(outcome, method=_BATCH_CHECK) for outcome in outcomes]
        )
