"""CatalogService: converts, calls, converts."""

from __future__ import annotations

from typing import Any, ClassVar, Final

from google.protobuf.descriptor import ServiceDescriptor
from grpc import aio

from tallygate.v1 import catalog_service_pb2
from tallygate_server.catalog_files import catalog_to_yaml
from tallygate_server.domain.identifier import TenantId
from tallygate_server.transport import catalog_convert, convert, paging
from tallygate_server.transport.use_cases import CatalogUse, Now

SERVICE: Final[ServiceDescriptor] = catalog_service_pb2.DESCRIPTOR.services_by_name["CatalogService"]

_Context = aio.ServicerContext[Any, Any]


class CatalogServicer:
    """Declares and shows what tenants sell."""

    SERVICE: ClassVar[ServiceDescriptor] = SERVICE

    def __init__(self, catalogs: CatalogUse, now: Now) -> None:
        self._catalogs = catalogs
        self._now = now

    async def ApplyCatalog(
        self, request: catalog_service_pb2.ApplyCatalogRequest, _context: _Context
    ) -> catalog_service_pb2.ApplyCatalogResponse:
        """Make a tenant's catalog what the given one says."""
        applied = await self._catalogs.apply(
            catalog_convert.from_api_catalog_source(request),
            validate_only=request.validate_only,
            actor=convert.actor_of(request),
            tenant_id=request.tenant_id,
            expected_revision=convert.optional(request, "expected_revision"),
        )
        return catalog_convert.to_api_applied(applied)

    async def GetCatalog(
        self, request: catalog_service_pb2.GetCatalogRequest, _context: _Context
    ) -> catalog_service_pb2.GetCatalogResponse:
        """Return the whole catalog of a tenant."""
        catalog, revision = await self._catalogs.get(TenantId(request.tenant_id))
        convert.refuse_unless(request.revision in (0, revision), "GetCatalog of an earlier revision")
        return catalog_service_pb2.GetCatalogResponse(
            catalog=catalog_convert.to_api_catalog(catalog, revision=revision), yaml=catalog_to_yaml(catalog)
        )

    async def ListPlans(
        self, request: catalog_service_pb2.ListPlansRequest, _context: _Context
    ) -> catalog_service_pb2.ListPlansResponse:
        """List plans by rank and key."""
        rows = await self._catalogs.plan_rows(
            TenantId(request.tenant_id),
            plan_key=request.plan_key,
            all_versions=request.all_versions,
            include_retired=request.include_retired,
        )
        rows = sorted(rows, key=catalog_convert.plan_position)
        page, token = paging.page_of(list(map(catalog_convert.plan_position, rows)), request, now=self._now())
        return catalog_service_pb2.ListPlansResponse(
            plans=[catalog_convert.to_api_plan(row.plan, retired=row.retired) for row in rows[page]],
            next_page_token=token,
        )

    async def ListFeatures(
        self, request: catalog_service_pb2.ListFeaturesRequest, _context: _Context
    ) -> catalog_service_pb2.ListFeaturesResponse:
        """List features by key."""
        tenant_id = TenantId(request.tenant_id)
        features = await self._catalogs.feature_rows(tenant_id, include_retired=request.include_retired)
        plans = await self._catalogs.plan_rows(tenant_id, plan_key=request.plan_key, include_retired=True)
        rows = sorted(catalog_convert.wanted_features(request, features, plans), key=catalog_convert.feature_position)
        page, token = paging.page_of(list(map(catalog_convert.feature_position, rows)), request, now=self._now())
        return catalog_service_pb2.ListFeaturesResponse(
            features=[catalog_convert.to_api_feature(row.feature, retired=row.retired) for row in rows[page]],
            next_page_token=token,
        )

    async def ListMeters(
        self, request: catalog_service_pb2.ListMetersRequest, _context: _Context
    ) -> catalog_service_pb2.ListMetersResponse:
        """List meters by key."""
        rows = await self._catalogs.meter_rows(TenantId(request.tenant_id), include_retired=request.include_retired)
        rows = sorted(rows, key=catalog_convert.meter_position)
        page, token = paging.page_of(list(map(catalog_convert.meter_position, rows)), request, now=self._now())
        return catalog_service_pb2.ListMetersResponse(
            meters=[catalog_convert.to_api_meter(row.meter, retired=row.retired) for row in rows[page]],
            next_page_token=token,
        )
