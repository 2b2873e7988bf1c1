"""The data lifecycle's use cases, wired to one database, one object store and one key store."""

from __future__ import annotations

import base64
import os
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Final

from tallygate_server.clock import Clock
from tallygate_server.domain.lifecycle import CompressionForm, JobKind
from tallygate_server.domain.storage_cost import TierFacts
from tallygate_server.lifecycle import lossy
from tallygate_server.lifecycle.classification import Classifier, CleanupHandler, Retainer
from tallygate_server.lifecycle.compression import (
    Analyses,
    CompressionHandler,
    CompressionImpacts,
    Compressions,
    Fetching,
)
from tallygate_server.lifecycle.jobs import LifecycleJobs
from tallygate_server.lifecycle.keys import DataKeys, KeyStore, MasterKeys
from tallygate_server.lifecycle.model_process import ModelProcesses
from tallygate_server.lifecycle.objects import ObjectStore
from tallygate_server.lifecycle.own_data.upkeep import OwnDataOptions, OwnDataUpkeep
from tallygate_server.lifecycle.policies import LegalHolds, Policies, Remover
from tallygate_server.lifecycle.records import RecordListing, RecordReading, RecordWriting
from tallygate_server.lifecycle.sealing import KEY_BYTES
from tallygate_server.lifecycle.segments import SegmentStore
from tallygate_server.lifecycle.storage_metrics import StorageMeasuring, StorageSums
from tallygate_server.lifecycle.tiers import ArchiveHandler, IntegrityHandler, Mover, RestoreHandler, Tiers
from tallygate_server.lifecycle.value import DataValues, Gatherer, ModelWeights, Scorer, StoragePlans
from tallygate_server.privacy.assembly import Privacy
from tallygate_server.privacy.consents import Consents
from tallygate_server.privacy.export import EXPORT_RETENTION
from tallygate_server.service import Service
from tallygate_server.storage.data_keys import hearing_of_destroyed_keys
from tallygate_server.storage.engine import Database, DatabaseRole

LIFECYCLE_POOL_SIZE: Final = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class LifecycleOptions:
    """Where data and keys lie; the settings of the same names explain them."""

    object_store_url: str
    key_store_url: str
    master_keys: MasterKeys
    tier_facts: TierFacts = field(default_factory=TierFacts)
    export_retention: timedelta = EXPORT_RETENTION
    retrieval_timeout_ms: int = 30_000
    own_data: OwnDataOptions = field(default_factory=OwnDataOptions)


@dataclass(frozen=True, slots=True, kw_only=True)
class Lifecycle:
    """Every use case of the data lifecycle."""

    service: Service
    options: LifecycleOptions
    clock: Clock
    database: Database
    """Under the lifecycle's role: one tenant's rows, or with `*` those of all to find work."""
    objects: ObjectStore
    keys: DataKeys
    segments: SegmentStore
    policies: Policies
    holds: LegalHolds
    classifier: Classifier
    retainer: Retainer
    jobs: LifecycleJobs
    mover: Mover
    tiers: Tiers
    storage: StorageSums
    measuring: StorageMeasuring
    models: ModelProcesses
    compressions: Compressions
    analyses: Analyses
    impacts: CompressionImpacts
    records: RecordWriting
    record_queries: RecordReading
    record_lists: RecordListing
    privacy: Privacy
    own_data: OwnDataUpkeep
    values: DataValues
    plans: StoragePlans

    @property
    def consents(self) -> Consents:
        """What accounts have said about the use of their data."""
        return self.service.consents


@asynccontextmanager
async def open_lifecycle(
    database_url: str, service: Service, options: LifecycleOptions, *, clock: Clock
) -> AsyncIterator[Lifecycle]:
    """Open the lifecycle beside a service over the same database."""
    database = Database(database_url, role=DatabaseRole.LIFECYCLE, pool_size=LIFECYCLE_POOL_SIZE)
    jobs = LifecycleJobs(database, service.tenants, clock)
    try:
        objects = ObjectStore.open(options.object_store_url)
        keys = DataKeys(database, KeyStore(ObjectStore.open(options.key_store_url), options.master_keys), clock)
        segments = SegmentStore(database, objects, keys, clock)
        policies = Policies(database, service.tenants, clock)
        weights = ModelWeights(database)
        classifier = Classifier(segments, policies, service.tenants, clock, weights=weights.of)
        remover = Remover(segments, policies, clock)
        mover = Mover(segments, policies, clock, protections=policies.protections_in)
        models = ModelProcesses()
        fetching = Fetching(segments, retrieval_timeout_ms=options.retrieval_timeout_ms)
        scorer = Scorer(segments, policies, service.tenants, clock, weights)
        jobs.register(
            JobKind.COMPRESSION,
            CompressionHandler(segments, policies, scorer, clock, retrieval=options.tier_facts.retrieval),
        )
        jobs.register(JobKind.ARCHIVE, ArchiveHandler(mover, segments, clock))
        jobs.register(JobKind.RESTORE, RestoreHandler(mover, segments, clock))
        privacy = Privacy.over(
            database,
            service,
            jobs=jobs,
            objects=objects,
            keys=keys,
            segments=segments,
            export_retention=options.export_retention,
            clock=clock,
        )
        privacy.register(jobs)
        jobs.register(JobKind.INTEGRITY, IntegrityHandler(segments, decode_lossy=_decode_lossy))
        jobs.register(JobKind.CLEANUP, CleanupHandler(segments, policies, classifier, remover, clock))
        values = DataValues(
            segments,
            Gatherer(segments, policies, service.consents),
            scorer,
            models,
            tenants=service.tenants,
            clock=clock,
        )
        plans = StoragePlans(segments, scorer, policies, remover, jobs=jobs, tenants=service.tenants, clock=clock)
        jobs.register(JobKind.OPTIMIZATION, plans)
        async with hearing_of_destroyed_keys(database_url, keys.forget):
            yield Lifecycle(
                service=service,
                options=options,
                clock=clock,
                database=database,
                objects=objects,
                keys=keys,
                segments=segments,
                policies=policies,
                holds=LegalHolds(database, service.tenants, clock),
                classifier=classifier,
                retainer=Retainer(
                    segments, policies=policies, classifier=classifier, remover=remover, jobs=jobs, clock=clock
                ),
                jobs=jobs,
                mover=mover,
                tiers=Tiers(jobs),
                storage=StorageSums(segments, policies, service.tenants, clock, options.tier_facts),
                measuring=StorageMeasuring(database, clock, options.tier_facts),
                models=models,
                compressions=Compressions(jobs),
                analyses=Analyses(fetching, policies, service.tenants, clock, retrieval=options.tier_facts.retrieval),
                impacts=CompressionImpacts(fetching, policies, service.consents, models, service.tenants),
                records=RecordWriting(
                    segments,
                    keys,
                    tenants=service.tenants,
                    accounts=service.accounts,
                    checks=service.checker,
                    clock=clock,
                ),
                record_queries=RecordReading(
                    segments,
                    tenants=service.tenants,
                    history=policies,
                    retrieval_timeout_ms=options.retrieval_timeout_ms,
                    clock=clock,
                ),
                record_lists=RecordListing(database, tenants=service.tenants),
                privacy=privacy,
                own_data=OwnDataUpkeep(segments, clock, options.own_data),
                values=values,
                plans=plans,
            )
    finally:
        await jobs.close()
        await database.close()


def _decode_lossy(_form: CompressionForm, payload: bytes) -> None:
    try:
        lossy.decode(payload)
    except lossy.LossyPayloadDamaged as error:
        raise ValueError(str(error)) from error


def parse_master_keys(text: str) -> MasterKeys:
    """Return the keys of `id:base64,id:base64`: the first wraps, all open. Raises ValueError."""
    keys: dict[str, bytes] = {}
    for each in text.split(","):
        key_id, colon, encoded = each.strip().partition(":")
        secret = base64.b64decode(encoded, validate=True) if colon else b""
        if not key_id or len(secret) != KEY_BYTES:
            raise ValueError(f"must be an id, a colon and {KEY_BYTES} bytes in base64, or several of these with commas")
        keys[key_id] = secret
    return MasterKeys(keys=keys)


def own_master_keys(file: Path) -> MasterKeys:
    """Return the master key in a file of ours, made when missing and readable by its owner only."""
    try:
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return parse_master_keys(file.read_text("utf-8").strip())
    with os.fdopen(descriptor, "w", encoding="utf-8") as handle:
        handle.write(f"own:{base64.b64encode(secrets.token_bytes(KEY_BYTES)).decode()}\n")
        handle.flush()
        os.fsync(handle.fileno())
    return parse_master_keys(file.read_text("utf-8").strip())
