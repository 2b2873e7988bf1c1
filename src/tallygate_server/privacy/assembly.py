"""The use cases of privacy, wired together."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from tallygate_server.clock import Clock
from tallygate_server.domain.lifecycle import JobKind
from tallygate_server.lifecycle.jobs import LifecycleJobs
from tallygate_server.lifecycle.keys import DataKeys
from tallygate_server.lifecycle.objects import ObjectStore
from tallygate_server.lifecycle.segments import SegmentStore
from tallygate_server.privacy.erasure import Erasures
from tallygate_server.privacy.export import Exports
from tallygate_server.privacy.key_rotation import KeyRotations
from tallygate_server.privacy.receipts import Receipts
from tallygate_server.privacy.verification import Verifications
from tallygate_server.service import Service
from tallygate_server.storage.engine import Database


@dataclass(frozen=True, slots=True, kw_only=True)
class Privacy:
    """What accounts may ask for."""

    exports: Exports
    erasures: Erasures
    key_rotations: KeyRotations
    receipts: Receipts
    verifications: Verifications

    @classmethod
    def over(
        cls,
        database: Database,
        service: Service,
        *,
        jobs: LifecycleJobs,
        objects: ObjectStore,
        keys: DataKeys,
        segments: SegmentStore,
        export_retention: timedelta,
        clock: Clock,
    ) -> Privacy:
        """Wire everything over a database with the lifecycle's role."""
        receipts = Receipts(database, keys.store, clock)
        return cls(
            exports=Exports(
                database,
                service,
                jobs=jobs,
                segments=segments,
                keys=keys,
                retention=export_retention,
                clock=clock,
            ),
            erasures=Erasures(database, service, jobs=jobs, objects=objects, keys=keys, receipts=receipts, clock=clock),
            key_rotations=KeyRotations(database, service, jobs=jobs, segments=segments, keys=keys, clock=clock),
            receipts=receipts,
            verifications=Verifications(database, service, keys=keys.store, receipts=receipts),
        )

    def register(self, jobs: LifecycleJobs) -> None:
        """Let jobs of these kinds be done."""
        jobs.register(JobKind.EXPORT, self.exports)
        jobs.register(JobKind.ERASURE, self.erasures)
        jobs.register(JobKind.KEY_ROTATION, self.key_rotations)
