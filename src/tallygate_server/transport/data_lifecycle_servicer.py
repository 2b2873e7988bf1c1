"""DataLifecycleService: converts, calls, converts; its RPCs stand by topic in `lifecycle_rpcs`."""

from __future__ import annotations

from typing import ClassVar, Final

from google.protobuf.descriptor import ServiceDescriptor

from tallygate.v1 import data_lifecycle_service_pb2
from tallygate_server.transport.lifecycle_rpcs.compression_rpcs import CompressionRpcs
from tallygate_server.transport.lifecycle_rpcs.job_rpcs import JobRpcs
from tallygate_server.transport.lifecycle_rpcs.policy_rpcs import PolicyRpcs
from tallygate_server.transport.lifecycle_rpcs.privacy_rpcs import PrivacyRpcs
from tallygate_server.transport.lifecycle_rpcs.record_rpcs import RecordRpcs
from tallygate_server.transport.lifecycle_rpcs.tier_rpcs import TierRpcs
from tallygate_server.transport.lifecycle_rpcs.value_rpcs import ValueRpcs

SERVICE: Final[ServiceDescriptor] = data_lifecycle_service_pb2.DESCRIPTOR.services_by_name["DataLifecycleService"]


class DataLifecycleServicer(RecordRpcs, PolicyRpcs, CompressionRpcs, TierRpcs, ValueRpcs, JobRpcs, PrivacyRpcs):
    """Keeps data small, the value in it, and the promises about it."""

    SERVICE: ClassVar[ServiceDescriptor] = SERVICE
