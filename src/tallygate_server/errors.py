"""Everything that can go wrong, as types that carry facts.

A denial is not an error. `transport/status.py` is the one place that turns these into gRPC status codes;
`reason` is the name of the public `ErrorReason` without its prefix.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True, slots=True)
class FieldViolation:
    """One field that a caller must change: its path in the request, and what is wrong with it."""

    field: str
    description: str
    rule: str = ""
    """Id of the declared rule that is broken, such as `string.pattern`; empty for checks in code."""


class TallygateError(Exception):
    """Root of the errors that callers may see; the message is safe to show them."""

    reason: ClassVar[str] = "INTERNAL"

    def __init__(self, message: str, **facts: object) -> None:
        """Keep the message and the facts behind it; facts become the metadata of the error's details."""
        super().__init__(message)
        self.message = message
        self.facts = {key: str(value) for key, value in facts.items()}


class InvalidRequest(TallygateError):
    """The request is wrong whatever the state of the system."""

    reason = "VALIDATION_FAILED"

    def __init__(self, violations: Sequence[FieldViolation]) -> None:
        """Name every offending field; a rule about the request as a whole has none."""
        super().__init__(
            "; ".join(
                f"{violation.field}: {violation.description}" if violation.field else violation.description
                for violation in violations
            )
        )
        self.violations = tuple(violations)

    @classmethod
    def of(cls, field: str, description: str) -> InvalidRequest:
        """Build the error for a single field."""
        return cls([FieldViolation(field, description)])


class MalformedMessage(TallygateError):
    """The bytes are not the message that the method takes."""

    reason = "MALFORMED_MESSAGE"


class PageTokenInvalid(InvalidRequest):
    """The page token was not made by this list call."""

    reason = "PAGE_TOKEN_INVALID"


class TenantNotFound(TallygateError):
    """No such tenant."""

    reason = "TENANT_NOT_FOUND"

    def __init__(self, tenant_id: str) -> None:
        """Name the tenant."""
        super().__init__(f"tenant_id: there is no tenant {tenant_id!r}", tenant_id=tenant_id, field="tenant_id")


class AccountNotFound(TallygateError):
    """No such account, where the call needs one."""

    reason = "ACCOUNT_NOT_FOUND"

    def __init__(self, account_id: str, *, field: str = "account_id") -> None:
        """Name the account, and the field that named it."""
        super().__init__(f"{field}: there is no account {account_id!r}", account_id=account_id, field=field)


class AccountDeleted(TallygateError):
    """The account is deleted and cannot change any more."""

    reason = "ACCOUNT_DELETED"

    def __init__(self, account_id: str, *, field: str = "account_id") -> None:
        """Name the account, and the field that named it."""
        super().__init__(f"{field}: account {account_id!r} is deleted", account_id=account_id, field=field)


class FeatureNotFound(TallygateError):
    """No such feature in the tenant's catalog, where the call needs one."""

    reason = "FEATURE_NOT_FOUND"

    def __init__(self, feature_key: str) -> None:
        """Name the feature."""
        super().__init__(
            f"feature_key: there is no feature {feature_key!r}", feature_key=feature_key, field="feature_key"
        )


class FeatureNotMetered(TallygateError):
    """Usage was reported for a feature that is switched or set, not counted."""

    reason = "FEATURE_NOT_METERED"

    def __init__(self, feature_key: str, kind: str) -> None:
        """Name the feature and its kind."""
        super().__init__(
            f"feature_key: {feature_key!r} is a {kind} feature and has no usage to increment",
            feature_key=feature_key,
            kind=kind,
            field="feature_key",
        )


class MeterNotFound(TallygateError):
    """No such meter in the tenant's catalog."""

    reason = "METER_NOT_FOUND"

    def __init__(self, meter_key: str) -> None:
        """Name the meter."""
        super().__init__(f"meter_key: there is no meter {meter_key!r}", meter_key=meter_key, field="meter_key")


class QueryTooLarge(TallygateError):
    """A query has more rows than the server gives."""

    reason = "QUERY_TOO_LARGE"

    def __init__(self, *, rows: int, rows_max: int) -> None:
        """State both numbers."""
        super().__init__(
            f"the query has {rows} rows, the most is {rows_max}: use larger windows or fewer groups",
            rows=rows,
            rows_max=rows_max,
        )


class ReservationNotFound(TallygateError):
    """The account has no such reservation."""

    reason = "RESERVATION_NOT_FOUND"

    def __init__(self, reservation_id: str) -> None:
        """Name the reservation."""
        super().__init__(
            f"reservation_id: there is no reservation {reservation_id!r}",
            reservation_id=reservation_id,
            field="reservation_id",
        )


class ReservationClosed(TallygateError):
    """The reservation was committed, released or has expired beyond the window for late commits."""

    reason = "RESERVATION_CLOSED"

    def __init__(self, reservation_id: str, state: str) -> None:
        """Name the reservation and its state: committed, released or expired."""
        super().__init__(
            f"reservation_id: {reservation_id!r} is {state}",
            reservation_id=reservation_id,
            state=state,
            field="reservation_id",
        )


class PlanNotFound(TallygateError):
    """No such plan on sale."""

    reason = "PLAN_NOT_FOUND"

    def __init__(self, plan_key: str) -> None:
        """Name the plan."""
        super().__init__(f"plan_key: there is no plan {plan_key!r} on sale", plan_key=plan_key, field="plan_key")


class PriceNotFound(TallygateError):
    """The plan is not sold at this interval or in this currency."""

    reason = "PRICE_NOT_FOUND"


class SubscriptionNotFound(TallygateError):
    """No such subscription."""

    reason = "SUBSCRIPTION_NOT_FOUND"

    def __init__(self, subscription_id: str) -> None:
        """Name the subscription; empty: the account's live one, which there is not."""
        what = f"there is no subscription {subscription_id!r}" if subscription_id else "no subscription is live"
        super().__init__(f"subscription_id: {what}", subscription_id=subscription_id)


class SubscriptionExists(TallygateError):
    """The account already has a live subscription at this price."""

    reason = "SUBSCRIPTION_EXISTS"


class IllegalTransition(TallygateError):
    """The subscription cannot go from its state to the wanted one."""

    reason = "ILLEGAL_TRANSITION"

    def __init__(self, before: str, after: str) -> None:
        """Name both states."""
        super().__init__(f"a subscription cannot go from {before} to {after}", before=before, after=after)


class BillingProviderRequired(TallygateError):
    """A plan that costs something needs somebody who collects the money."""

    reason = "BILLING_PROVIDER_REQUIRED"


class BillingProviderNotConfigured(TallygateError):
    """The wanted provider is not set up on this server."""

    reason = "BILLING_PROVIDER_NOT_CONFIGURED"


class PaymentRefused(TallygateError):
    """The billing provider said no: a declined card, a code it does not know, an object that is gone."""

    reason = "PAYMENT_REFUSED"

    def __init__(self, message: str, *, billing_provider: str, provider_code: str, **facts: object) -> None:
        """Say what was refused, and how the provider codes it."""
        super().__init__(message, billing_provider=billing_provider, provider_code=provider_code, **facts)


class CustomerNotFound(TallygateError):
    """The account has no customer at the billing provider."""

    reason = "CUSTOMER_NOT_FOUND"

    def __init__(self, account_id: str) -> None:
        """Name the account."""
        super().__init__(
            f"account_id: account {account_id!r} has no customer at the billing provider yet;"
            " CreateCheckoutSession or UpdateCustomer makes one",
            account_id=account_id,
            field="account_id",
        )


class NotFound(TallygateError):
    """The thing named by the request is not there."""

    reason = "NOT_FOUND"

    def __init__(self, kind: str, named: str, *, field: str) -> None:
        """Name the kind of thing, its id, and the field that named it."""
        super().__init__(f"{field}: there is no {kind} {named!r}", kind=kind, id=named, field=field)


class SignatureInvalid(TallygateError):
    """The webhook is forged, damaged, too old or from the future; it is not stored."""

    reason = "SIGNATURE_INVALID"


class WebhookSourceNotConfigured(TallygateError):
    """No secret is set for the webhook's source, so nobody can tell whether it is genuine."""

    reason = "WEBHOOK_SOURCE_NOT_CONFIGURED"

    def __init__(self, source: str, setting: str) -> None:
        """Name the source and what is to be set."""
        super().__init__(f"source: no signing secret of {source} is set; set {setting}", source=source, setting=setting)


class RequestIdReused(TallygateError):
    """The request id was used before, with other content."""

    reason = "REQUEST_ID_REUSED"

    def __init__(self, request_id: str) -> None:
        """Name the id."""
        super().__init__(
            f"request_id: {request_id!r} was used before for another request", request_id=request_id, field="request_id"
        )


class RequestInProgress(TallygateError):
    """The same request is being worked on; retrying in a moment hears its answer."""

    reason = "REQUEST_IN_PROGRESS"
    retry_delay_ms: ClassVar[int] = 50

    def __init__(self, request_id: str) -> None:
        """Name the id."""
        super().__init__(f"request_id: {request_id!r} is being worked on", request_id=request_id, field="request_id")


class OperationInProgress(RequestInProgress):
    """The same thing is being done at the billing provider, or was, and it is not known yet what came of it."""

    retry_delay_ms: ClassVar[int] = 500

    def __init__(self, operation: str) -> None:
        """Name what is being done."""
        TallygateError.__init__(
            self,
            f"another call is being worked on at the billing provider ({operation}); try again in a moment",
            operation=operation,
        )


class EventTimeOutOfRange(TallygateError):
    """The event happened too long ago, comes too late for the period that it counts in, or lies in the future."""

    reason = "EVENT_TIME_OUT_OF_RANGE"

    def __init__(self, event_id: str, event_time: str, why: str, *, field: str) -> None:
        """Name the event, and say what is wrong with its time."""
        super().__init__(f"{field}: {event_time} {why}", event_id=event_id, event_time=event_time, field=field)


class EventIdReused(TallygateError):
    """An event with this source and id was recorded before, with other content."""

    reason = "EVENT_ID_REUSED"

    def __init__(self, source: str, event_id: str, *, field: str) -> None:
        """Name the event."""
        super().__init__(
            f"{field}: event {event_id!r} of {source!r} was recorded before with other content",
            source=source,
            event_id=event_id,
            field=field,
        )


class EventPropertyInvalid(TallygateError):
    """The event lacks the property that a meter reads, or it is of another type or size."""

    reason = "EVENT_PROPERTY_INVALID"

    def __init__(self, event_id: str, meter_key: str, property_path: str, why: str, *, field: str) -> None:
        """Name the event, the meter and the property, and say what is wrong."""
        super().__init__(
            f"{field}: {why}, as meter {meter_key!r} reads it",
            event_id=event_id,
            meter_key=meter_key,
            property=property_path,
            field=field,
        )


class ModelPriceNotFound(TallygateError):
    """The model has prices, but none that holds at the event's time."""

    reason = "MODEL_PRICE_NOT_FOUND"

    def __init__(self, model_key: str, event_time: str, *, field: str) -> None:
        """Name the model and the time."""
        super().__init__(
            f"{field}: no price of model {model_key!r} holds at {event_time}",
            model_key=model_key,
            event_time=event_time,
            field=field,
        )


class EntryNotFound(TallygateError):
    """The account has no such line in its ledger."""

    reason = "ENTRY_NOT_FOUND"

    def __init__(self, entry_id: str, *, exported: bool = False) -> None:
        """Name the line; tell whether it is so old that it was exported."""
        why = f"the account has no entry {entry_id!r}"
        if exported:
            why = f"entry {entry_id!r} was moved to the archive: it can be read as a record, and no longer reversed"
        super().__init__(f"entry_id: {why}", entry_id=entry_id, field="entry_id")


class EntryAlreadyReversed(TallygateError):
    """Less can be taken back of the line than was asked for."""

    reason = "ENTRY_ALREADY_REVERSED"

    def __init__(self, entry_id: str, reversible_quantity: int, why: str) -> None:
        """Name the line, what can still be taken back of it, and why no more."""
        super().__init__(
            f"quantity: {why}",
            entry_id=entry_id,
            reversible_quantity=str(reversible_quantity),
            field="quantity",
        )


class PeriodClosed(TallygateError):
    """The period has ended, and the tenant allows no corrections afterwards."""

    reason = "PERIOD_CLOSED"

    def __init__(self, period_end_time: str, *, entry_id: str = "", field: str) -> None:
        """Name the line, if it is about one, and when its period ended."""
        super().__init__(
            f"{field}: the period ended at {period_end_time}, and the tenant allows no corrections afterwards",
            entry_id=entry_id,
            period_end_time=period_end_time,
            field=field,
        )


class IdentityConflict(TallygateError):
    """The identities of one request belong to different accounts."""

    reason = "IDENTITY_CONFLICT"


class CatalogInvalid(InvalidRequest):
    """The catalog is refused; each violation says where and why."""

    reason = "CATALOG_INVALID"


class CatalogConflict(TallygateError):
    """The catalog is sound, but would change what must not change."""

    reason = "CATALOG_CONFLICT"

    def __init__(self, tenant_id: str, path: str, description: str) -> None:
        """Say where in which tenant's catalog, and what to do instead."""
        super().__init__(f"{path}: {description}", tenant_id=tenant_id, path=path)


class CatalogRevisionMismatch(TallygateError):
    """The catalog changed since the caller looked at it."""

    reason = "CATALOG_REVISION_MISMATCH"

    def __init__(self, *, expected: int, current: int) -> None:
        """Name both revisions."""
        super().__init__(
            f"expected_revision: revision {expected} was expected, the catalog is at {current}",
            expected_revision=expected,
            revision=current,
            field="expected_revision",
        )


class RevisionNotReached(TallygateError):
    """The caller wants a revision that the account has not reached."""

    reason = "REVISION_NOT_REACHED"

    def __init__(self, *, wanted: int, current: int) -> None:
        """Name both revisions."""
        super().__init__(
            f"min_revision: revision {wanted} was asked for, the account is at {current}",
            wanted=wanted,
            current=current,
            field="min_revision",
        )


class Unavailable(TallygateError):
    """Nothing was done; the caller may retry after `retry_delay_ms`."""

    reason = "STORE_UNAVAILABLE"
    retry_delay_ms: ClassVar[int] = 500


class BillingProviderUnavailable(Unavailable):
    """The billing provider cannot be reached, or answers with errors of its own.

    Whether it did what was asked is unknown; the same request again does it once.
    """

    reason = "BILLING_PROVIDER_UNAVAILABLE"
    retry_delay_ms: ClassVar[int] = 2_000

    def __init__(self, billing_provider: str, why: str) -> None:
        """Name the provider and say what it did instead of answering."""
        super().__init__(f"{billing_provider} does not answer just now ({why})", billing_provider=billing_provider)


class StoreUnavailable(Unavailable):
    """Postgres cannot be reached."""


class OutcomeUnknown(Unavailable):
    """Postgres went away during a commit: the call may or may not have been counted.

    Retrying with the same request id is exact.
    """

    reason = "OUTCOME_UNKNOWN"


class CountersUnavailable(Unavailable):
    """Redis cannot be reached, where nothing can stand in for it."""

    reason = "COUNTERS_UNAVAILABLE"


class Overloaded(TallygateError):
    """The server sheds load; nothing was done."""

    reason = "OVERLOADED"
    retry_delay_ms: ClassVar[int] = 100


class WatcherTooSlow(TallygateError):
    """A watcher let more come together than is held for it; it has to watch anew."""

    reason = "WATCHER_TOO_SLOW"

    def __init__(self, **last_sent: int) -> None:
        """Name the last `revision` or `sequence` that was sent."""
        super().__init__("the watcher reads too slowly: more has happened than is held for it", **last_sent)


class ResumePointLost(TallygateError):
    """What a watcher wants to resume from is no longer kept."""

    reason = "RESUME_POINT_LOST"

    def __init__(self, field: str, *, wanted: int, oldest: int) -> None:
        """Name the field of the request, the point, and the oldest one that is kept."""
        super().__init__(
            f"{field}: {wanted} is no longer kept, the oldest is {oldest}; watch again from the beginning",
            oldest=oldest,
            field=field,
        )


class CompressionFailed(TallygateError):
    """Data could not be compressed within the demanded bounds; the original is untouched."""

    reason = "COMPRESSION_FAILED"

    def __init__(self, why: str, *, dataset_id: str, column: str = "") -> None:
        """Say why, and of which dataset and column."""
        super().__init__(why, dataset_id=dataset_id, column=column)


class IntegrityViolation(TallygateError):
    """Stored data does not match its checksum, count or manifest."""

    reason = "INTEGRITY_VIOLATION"

    def __init__(self, why: str, *, dataset_id: str, segment_id: str) -> None:
        """Say what does not match, and of which segment."""
        super().__init__(
            f"segment {segment_id!r} is damaged: {why}", dataset_id=dataset_id, segment_id=segment_id, why=why
        )


class SegmentsChanged(Exception):
    """Somebody else replaced, removed or damaged what was to be replaced; look again."""


class SegmentGone(SegmentsChanged, IntegrityViolation):
    """A segment was replaced or removed while it was read: nothing is damaged, look again."""

    reason = "STORE_UNAVAILABLE"
    retry_delay_ms: ClassVar[int] = 100

    def __init__(self, *, dataset_id: str, segment_id: str) -> None:
        """Name the segment."""
        why = "it was moved or removed meanwhile"
        TallygateError.__init__(
            self,
            f"segment {segment_id!r} cannot be read: {why}; try again",
            dataset_id=dataset_id,
            segment_id=segment_id,
            why=why,
        )


class StorageLimitExceeded(TallygateError):
    """The data would exceed the storage that the plan or the tenant allows."""

    reason = "STORAGE_LIMIT_EXCEEDED"

    def __init__(self, *, limit_bytes: int, used_bytes: int, added_bytes: int) -> None:
        """State the limit, what is used, and what was to be added."""
        super().__init__(
            f"{added_bytes} more bytes would exceed the storage limit: {used_bytes} of {limit_bytes} bytes are used",
            limit_bytes=limit_bytes,
            used_bytes=used_bytes,
        )


class CriticalDataLoss(TallygateError):
    """The step would remove critical data; nothing was removed."""

    reason = "CRITICAL_DATA_LOSS"

    def __init__(self, why: str, *, dataset_id: str, segment_count: int) -> None:
        """Say what would be lost; the dataset is that of the first such segment."""
        super().__init__(why, dataset_id=dataset_id, segment_count=segment_count)


class ArchiveCorruption(TallygateError):
    """An archived object is missing or cannot be read."""

    reason = "ARCHIVE_CORRUPTION"

    def __init__(self, why: str, *, dataset_id: str, segment_id: str) -> None:
        """Say what is wrong, and with which segment."""
        super().__init__(
            f"the archived segment {segment_id!r} cannot be read: {why}",
            dataset_id=dataset_id,
            segment_id=segment_id,
            why=why,
        )


class RetrievalTimeout(TallygateError):
    """Archived data could not be fetched in time."""

    reason = "RETRIEVAL_TIMEOUT"

    def __init__(self, *, dataset_id: str, timeout_ms: int) -> None:
        """Name the dataset and the time."""
        super().__init__(
            f"archived data of dataset {dataset_id!r} did not come within {timeout_ms} ms",
            dataset_id=dataset_id,
            timeout_ms=timeout_ms,
        )


class ConsentRequired(TallygateError):
    """The account has not consented to this purpose."""

    reason = "CONSENT_REQUIRED"

    def __init__(self, account_id: str, purpose: str) -> None:
        """Name the account and the purpose."""
        super().__init__(
            f"account {account_id!r} has not consented to {purpose!r}", account_id=account_id, purpose=purpose
        )


class LegalHoldActive(TallygateError):
    """A legal hold or an exception forbids removal."""

    reason = "LEGAL_HOLD"

    def __init__(self, why: str, *, legal_hold_id: str = "", end_time: str = "") -> None:
        """Say what forbids it; the id is empty for an exception, the end where none is known."""
        super().__init__(why, legal_hold_id=legal_hold_id, end_time=end_time)


class SchemaDrift(TallygateError):
    """Records do not fit the schema of their dataset."""

    reason = "SCHEMA_DRIFT"

    def __init__(self, why: str, *, dataset_id: str, column: str, expected_type: str, actual_type: str) -> None:
        """Say what does not fit, and where."""
        super().__init__(
            why, dataset_id=dataset_id, column=column, expected_type=expected_type, actual_type=actual_type
        )


class FormNotRestorable(TallygateError):
    """The stored form cannot give back what was asked."""

    reason = "FORM_NOT_RESTORABLE"

    def __init__(self, why: str, *, dataset_id: str, form: str) -> None:
        """Say what it cannot give, and why."""
        super().__init__(why, dataset_id=dataset_id, form=form)


class JobEnded(TallygateError):
    """The job has ended and cannot be cancelled."""

    reason = "JOB_ENDED"

    def __init__(self, job_id: str, state: str) -> None:
        """Name the job and how it ended."""
        super().__init__(f"job_id: job {job_id!r} has ended: it is {state}", job_id=job_id, state=state, field="job_id")


class PlanOutdated(TallygateError):
    """The plan computed before does not fit the data any more."""

    reason = "PLAN_OUTDATED"

    def __init__(self, plan_id: str, why: str) -> None:
        """Name the plan and say what has changed."""
        super().__init__(f"plan_id: {why}; compute the plan again", plan_id=plan_id, field="plan_id")


class PolicyVersionMismatch(TallygateError):
    """The retention policy changed since the caller looked at it."""

    reason = "POLICY_VERSION_MISMATCH"

    def __init__(self, data_type: str, *, expected: int, current: int) -> None:
        """Name the policy and both versions; 0: there is none."""
        super().__init__(
            f"expected_version: version {expected} was expected, the policy for {data_type!r} is at {current}",
            data_type=data_type,
            expected_version=expected,
            version=current,
            field="expected_version",
        )


class DryRunRequired(TallygateError):
    """What cannot be undone was asked for without a look at its effect before."""

    reason = "PLAN_OUTDATED"

    def __init__(self) -> None:
        """Say what to do."""
        super().__init__(
            "validate_only: an erasure needs a dry run of the last 24 hours that succeeded, or `force`",
            plan_id="",
            field="validate_only",
        )


class NotBuilt(TallygateError):
    """The method is part of the contract, but not of this release."""

    reason = "NOT_IMPLEMENTED"

    def __init__(self, method: str) -> None:
        """Name the method."""
        super().__init__(f"{method} is not part of this release; docs/status.md lists what is", method=method)
