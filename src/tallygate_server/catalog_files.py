"""Catalog files: YAML (or JSON, which is YAML) into catalogs and back.

Every mistake of a file is found in one pass and named by path, line and column. The reader works on the
parser's events rather than on loaded values, because only they still have the text that was written
(`9.99` is a decimal, never a float) and the place of every key; and because anchors, aliases and tags,
which a catalog has no use for, are refused before anything is built from them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta
from enum import Enum
from typing import Any, Final, TypeVar

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.events import (
    AliasEvent,
    DocumentEndEvent,
    DocumentStartEvent,
    Event,
    MappingEndEvent,
    MappingStartEvent,
    ScalarEvent,
    SequenceEndEvent,
    SequenceStartEvent,
    StreamEndEvent,
    StreamStartEvent,
)
from ruamel.yaml.reader import ReaderError

from tallygate_server.catalog_rules import Breach, CatalogSet, Path, catalog_set_breaches, did_you_mean
from tallygate_server.domain.catalog import (
    Allowance,
    BillingInterval,
    Catalog,
    ConfigValue,
    FailureMode,
    Feature,
    FeatureKind,
    LimitMode,
    Meter,
    MeterAggregation,
    MeterFilter,
    ModelPrice,
    OverrunPolicy,
    Plan,
    Price,
    Rollover,
    TenantSettings,
    model_price_position,
)
from tallygate_server.domain.identifier import FeatureKey, PlanKey, TenantId
from tallygate_server.domain.limits import CATALOG_BYTES_MAX, GRACE_DAYS_DEFAULT, LIMIT_UNLIMITED
from tallygate_server.domain.money import CURRENCIES, AmountRefused, format_amount, parse_amount
from tallygate_server.domain.period import PeriodAnchor, PeriodKind
from tallygate_server.errors import CatalogInvalid, FieldViolation

VIOLATIONS_MAX: Final = 100
DEPTH_MAX: Final = 20
PATH_PART_LENGTH_MAX: Final = 80

_PERIODS: Final = {kind.name.lower(): kind for kind in PeriodKind}
_INTEGER = re.compile(r"[-+]?[0-9]{1,30}")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]{1,3})?")
_PERCENT = re.compile(r"([0-9]{1,30})\s*%")
_UNLIMITED = "unlimited"
_EVERYTHING = "all"
_SWITCHES: Final = {"true": True, "on": True, "false": False, "off": False}

_STORE_KEYS: Final = (
    "tenant", "name", "default_plan", "auto_provision", "upgrade_url", "currency", "time_zone", "failure_mode",
    "grace_days", "closed_period_corrections", "late_event_window", "usage_retention_days",
    "inherit_features", "features", "plans", "meters", "model_prices",
)  # fmt: skip
_ROOT_KEYS: Final = (*(key for key in _STORE_KEYS if key != "inherit_features"), "parent", "stores")
_FEATURE_KEYS: Final = ("kind", "name", "description", "unit", "failure_mode", "meter")
_PLAN_KEYS: Final = ("name", "description", "rank", "grace_days", "trial_days", "prices", "allowances")
_PRICE_KEYS: Final = ("amount", "currency", "stripe_price_id")
_METER_KEYS: Final = (
    "event_type", "aggregation", "value_property", "scale", "group_by", "filters", "name", "description",
)  # fmt: skip
_MODEL_PRICE_KEYS: Final = ("input", "output", "cached_input", "currency", "start", "end")
_ROLLOVER_KEYS: Final = ("min", "max")
_ALLOWANCE_KEYS: Final = {
    FeatureKind.BOOLEAN: ("enabled",),
    FeatureKind.CONFIG: ("enabled", "value"),
    FeatureKind.COUNTER: (
        "enabled", "limit", "period", "anchor", "mode", "thresholds", "rollover", "overrun", "trial_limit",
    ),
    FeatureKind.GAUGE: ("enabled", "limit", "mode", "thresholds", "overrun", "trial_limit"),
}  # fmt: skip
_FAILURE_MODES: Final = {"closed": FailureMode.CLOSED, "open": FailureMode.OPEN}
_FAILURE_WORDS: Final = {mode: word for word, mode in _FAILURE_MODES.items()}
_MICROS: Final = 1_000_000
_MICROS_PLACES: Final = 6
_PRICE_PER_MILLION = re.compile(r"(0|[1-9][0-9]{0,12})(?:\.([0-9]{1,20}))?")
_DURATION = re.compile(r"([0-9]{1,9})([smhd])")
_DURATION_UNITS: Final = {"d": 86_400, "h": 3_600, "m": 60, "s": 1}
_INSTANT = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}([Tt ][0-9:.]{5,15}([Zz]|[+-][0-9]{2}:[0-9]{2}))?")

E = TypeVar("E", bound=Enum)


@dataclass(frozen=True, slots=True)
class PlacedViolation(FieldViolation):
    """A violation with its place in the file; lines and columns count from 1."""

    line: int = 0
    column: int = 0


def parse_catalog(text: str) -> CatalogSet:
    """Read a catalog file; raise CatalogInvalid naming everything that is wrong with it."""
    size = len(text.encode("utf-8", "surrogatepass"))
    if size > CATALOG_BYTES_MAX:
        raise CatalogInvalid([FieldViolation("catalog", f"at most {CATALOG_BYTES_MAX} bytes, here are {size}")])
    reader = _Reader()
    document = _Composer(text, reader).document()
    catalogs = None
    if document is not None:
        catalogs = reader.catalog_set(document)
    if catalogs is not None:
        reader.add_breaches(catalog_set_breaches(catalogs))
    if reader.violations or catalogs is None:
        raise _invalid(reader.violations)
    return catalogs


def catalog_to_json(catalogs: CatalogSet | Catalog) -> dict[str, Any]:
    """Return the catalogs in the shape of a catalog file, as JSON values; versions are not part of it."""
    if isinstance(catalogs, Catalog):
        catalogs = CatalogSet(root=catalogs)
    written = _catalog_json(catalogs.root)
    if catalogs.stores:
        written["stores"] = [_store_json(store, catalogs.root) for store in catalogs.stores]
    return written


def catalog_to_yaml(catalogs: CatalogSet | Catalog) -> str:
    """Write the catalogs as a file that `parse_catalog` reads back to the same value."""
    return "\n".join(_yaml_lines(catalog_to_json(catalogs), 0)) + "\n"


def _invalid(violations: list[PlacedViolation]) -> CatalogInvalid:
    shown = sorted(violations, key=lambda violation: (violation.line, violation.column))
    listed: list[FieldViolation] = list(shown[:VIOLATIONS_MAX])
    if len(shown) > VIOLATIONS_MAX:
        listed.append(FieldViolation("catalog", f"and {len(shown) - VIOLATIONS_MAX} more"))
    error = CatalogInvalid(listed)
    if shown:
        error.facts.update(line=str(shown[0].line), column=str(shown[0].column))
    return error


# --- Events to nodes -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Place:
    """Zero-based, as the parser counts."""

    line: int
    column: int


@dataclass(frozen=True, slots=True)
class _Scalar:
    place: _Place
    text: str
    plain: bool

    def __str__(self) -> str:
        return repr(self.text[:60])


@dataclass(frozen=True, slots=True)
class _Mapping:
    place: _Place
    entries: dict[str, tuple[_Place, _Node]]

    def __str__(self) -> str:
        return "a mapping"


@dataclass(frozen=True, slots=True)
class _Sequence:
    place: _Place
    items: list[_Node]

    def __str__(self) -> str:
        return "a list"


_Node = _Scalar | _Mapping | _Sequence


class _Stop(Exception):
    """Nothing sensible can be read any further; never leaves this module."""


class _Composer:
    """Builds nodes from events, refusing what catalogs have no use for."""

    def __init__(self, text: str, reader: _Reader) -> None:
        self._reader = reader
        self._text = text
        self._events: Iterator[Event] = YAML(typ="rt", pure=True).parse(text)

    def document(self) -> _Node | None:
        """Return the file's one document, or None after adding violations."""
        try:
            node = self._node_of_stream()
        except MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            place = _Place(mark.line, mark.column) if mark is not None else _Place(0, 0)
            problem = ", ".join(part for part in (error.context, error.problem) if part)
            self._reader.add((), place, f"not YAML: {problem}")
        except ReaderError as error:
            before = self._text[: error.position]
            place = _Place(before.count("\n"), len(before) - before.rfind("\n") - 1)
            self._reader.add((), place, "not YAML: a character that YAML does not allow")
        except YAMLError as error:
            self._reader.add((), _Place(0, 0), f"not YAML: {error}")
        except _Stop:
            pass
        else:
            return node
        return None

    def _node_of_stream(self) -> _Node | None:
        node: _Node | None = None
        documents = 0
        for event in self._events:
            if isinstance(event, StreamStartEvent | StreamEndEvent | DocumentEndEvent):
                continue
            if isinstance(event, DocumentStartEvent):
                documents += 1
                if documents > 1:
                    self._refuse(event, "a second document: a file is one product; its stores go under 'stores'")
                continue
            node = self._node(event, 0)
        if node is None:
            self._reader.add((), _Place(0, 0), "the file is empty")
        return node

    def _node(self, event: Event, depth: int) -> _Node:
        place = _place(event)
        if isinstance(event, AliasEvent) or getattr(event, "anchor", None) is not None:
            self._refuse(event, "anchors and aliases are not part of catalog files: write the value out")
        if getattr(event, "tag", None) is not None:
            self._refuse(event, "tags are not part of catalog files")
        if depth > DEPTH_MAX:
            self._refuse(event, f"nested more than {DEPTH_MAX} levels deep")
        if isinstance(event, ScalarEvent):
            return _Scalar(place, _joined(event.value), not event.style)
        if isinstance(event, SequenceStartEvent):
            items = []
            while not isinstance(event := next(self._events), SequenceEndEvent):
                items.append(self._node(event, depth + 1))
            return _Sequence(place, items)
        assert isinstance(event, MappingStartEvent)
        entries: dict[str, tuple[_Place, _Node]] = {}
        while not isinstance(event := next(self._events), MappingEndEvent):
            key_place = _place(event)
            key = self._node(event, depth + 1)
            value = self._node(next(self._events), depth + 1)
            if not isinstance(key, _Scalar):
                self._reader.add((), key_place, "a key is a word, not a list or mapping")
            elif key.text in entries:
                first = entries[key.text][0].line + 1
                self._reader.add((), key_place, f"{key} stands here twice; the first is on line {first}")
            else:
                entries[key.text] = (key_place, value)
        return _Mapping(place, entries)

    def _refuse(self, event: Event, description: str) -> None:
        self._reader.add((), _place(event), description)
        raise _Stop


def _place(event: Event) -> _Place:
    mark = event.start_mark
    return _Place(mark.line, mark.column)


def _joined(text: str) -> str:
    """Join the two halves in which JSON escapes characters beyond the first 65,536, as YAML does not."""
    try:
        return text.encode("utf-16", "surrogatepass").decode("utf-16")
    except UnicodeDecodeError:
        # A half without its other half is refused by the rules, with its place.
        return text


# --- Nodes to catalogs -----------------------------------------------------------------------------------


class _Reader:
    """Reads nodes into domain values, collecting violations instead of stopping at the first."""

    def __init__(self) -> None:
        self.violations: list[PlacedViolation] = []
        self._places: dict[Path, _Place] = {}
        self._refused: set[Path] = set()

    def add(self, path: Path, place: _Place, description: str) -> None:
        """Note a violation."""
        self._refused.add(path)
        line, column = place.line + 1, place.column + 1
        field = _sendable(".".join(part[:PATH_PART_LENGTH_MAX] for part in path)) or "catalog"
        text = _sendable(f"line {line}, column {column}: {description}")
        self.violations.append(PlacedViolation(field, text, line=line, column=column))

    def add_breaches(self, breaches: list[Breach]) -> None:
        """Note broken rules, but for those that only follow from what could not be read."""
        for breach in breaches:
            path = breach.path
            if any(path[:length] in self._refused for length in range(1, len(path) + 1)):
                continue
            if breach.needs and any(refused[: len(breach.needs)] == breach.needs for refused in self._refused):
                continue
            place = next((self._places[path[:n]] for n in range(len(path), -1, -1) if path[:n] in self._places), None)
            self.add(path, place or _Place(0, 0), breach.description)

    def catalog_set(self, node: _Node) -> CatalogSet | None:
        """Read the whole document; None where it is no catalog at all."""
        if not isinstance(node, _Mapping):
            self.add((), node.place, f"a catalog begins with 'tenant: ...'; this is {node}")
            return None
        entries = self._mapping(node, (), _ROOT_KEYS)
        currency = self._currency(entries, ())
        root = self._catalog(entries, (), currency=currency, product=None)
        stores: list[Catalog] = []
        for index, item in enumerate(self._items(entries.get("stores"), ("stores",))):
            path = ("stores", str(index))
            self._places[path] = item.place
            hints = {
                "parent": "the product that lists a store is its parent",
                "stores": "a store has no stores",
            }
            store = self._mapping(item, path, _STORE_KEYS, hints)
            store_currency = self._currency(store, path) or currency
            stores.append(self._catalog(store, path, currency=store_currency, product=root))
        return CatalogSet(root=root, stores=tuple(stores))

    def _catalog(
        self, entries: Mapping[str, _Node], path: Path, *, currency: str | None, product: Catalog | None
    ) -> Catalog:
        tenant_id = self._text(entries, "tenant", path)
        if not tenant_id and (*path, "tenant") not in self._refused:
            self.add(
                (*path, "tenant"),
                self._places.get(path, _Place(0, 0)),
                "'tenant' is missing: name the tenant",
            )
        settings = TenantSettings(
            tenant_id=TenantId(tenant_id),
            name=self._text(entries, "name", path),
            parent_tenant_id=(
                product.settings.tenant_id if product else TenantId(self._text(entries, "parent", path)) or None
            ),
            default_plan_key=PlanKey(self._text(entries, "default_plan", path)) or None,
            auto_provision=self._switch(entries, "auto_provision", path, default=False),
            upgrade_url=self._text(entries, "upgrade_url", path),
            default_currency_code=self._currency_code(entries, path),
            default_time_zone=self._text(entries, "time_zone", path),
            default_failure_mode=self._choice(entries, "failure_mode", _FAILURE_MODES, path) or FailureMode.CLOSED,
            default_grace_days=self._integer(entries, "grace_days", path, default=GRACE_DAYS_DEFAULT),
            closed_period_corrections=self._switch(entries, "closed_period_corrections", path, default=False),
            late_event_window=self._duration(entries, "late_event_window", path),
            usage_retention_days=self._integer(entries, "usage_retention_days", path, default=0),
        )
        features = self._features(entries, path, settings.default_failure_mode)
        inherited: tuple[Meter, ...] = ()
        if product is not None and self._switch(entries, "inherit_features", path, default=False):
            own = {feature.key for feature in features}
            for feature in product.features:
                if feature.key in own:
                    self.add(
                        (*path, "features", feature.key),
                        self._places[(*path, "features", feature.key)],
                        "inherited from the product already: leave it out, or leave out 'inherit_features'",
                    )
            features = (*(feature for feature in product.features if feature.key not in own), *features)
            inherited = inherited_meters(product)
        kinds: dict[str, FeatureKind | None] = {feature.key: feature.kind for feature in features}
        # A feature whose own entry is broken is known all the same: its allowances are no further mistake.
        for key in self._declared(entries.get("features")):
            kinds.setdefault(key, None)
        plans = [
            self._plan(
                key,
                value,
                (*path, "plans", key),
                index=index,
                kinds=kinds,
                currency=currency,
                grace_days=settings.default_grace_days,
            )
            for index, (key, value) in enumerate(self._named(entries.get("plans"), (*path, "plans")))
        ]
        if (*path, "plans") in self._refused:
            # Nothing is known of the plans, so a default plan that is not among them is no further mistake.
            self._refused.add((*path, "default_plan"))
        meters = [
            self._meter(key, value, (*path, "meters", key))
            for key, value in self._named(entries.get("meters"), (*path, "meters"))
        ]
        own_meters = {meter.key for meter in meters}
        return Catalog(
            settings=settings,
            features=features,
            plans=tuple(plans),
            meters=(*(meter for meter in inherited if meter.key not in own_meters), *meters),
            model_prices=tuple(self._model_prices(entries.get("model_prices"), (*path, "model_prices"), currency)),
        )

    def _features(self, entries: Mapping[str, _Node], path: Path, failure_mode: FailureMode) -> tuple[Feature, ...]:
        found = []
        for key, value in self._named(entries.get("features"), (*path, "features")):
            feature = self._feature(key, value, (*path, "features", key), failure_mode)
            if feature is not None:
                found.append(feature)
        return tuple(found)

    def _feature(self, key: str, node: _Node, path: Path, failure_mode: FailureMode) -> Feature | None:
        if isinstance(node, _Scalar):
            kind = self._word(node, {each.value: each for each in FeatureKind}, path)
            return Feature(key=FeatureKey(key), kind=kind, failure_mode=failure_mode) if kind else None
        entries = self._mapping(node, path, _FEATURE_KEYS)
        kind = self._choice(entries, "kind", {each.value: each for each in FeatureKind}, path)
        if kind is None:
            if "kind" not in entries and path not in self._refused:
                known = ", ".join(each.value for each in FeatureKind)
                self.add((*path, "kind"), self._places[path], f"'kind' is missing: one of {known}")
            return None
        return Feature(
            key=FeatureKey(key),
            kind=kind,
            name=self._text(entries, "name", path),
            description=self._text(entries, "description", path),
            unit=self._text(entries, "unit", path),
            failure_mode=self._choice(entries, "failure_mode", _FAILURE_MODES, path) or failure_mode,
            meter_key=self._text(entries, "meter", path),
        )

    def _plan(
        self,
        key: str,
        node: _Node,
        path: Path,
        *,
        index: int,
        kinds: Mapping[str, FeatureKind | None],
        currency: str | None,
        grace_days: int,
    ) -> Plan:
        entries = self._mapping(node, path, _PLAN_KEYS)
        prices = []
        for interval_name, value in self._named(entries.get("prices"), (*path, "prices")):
            price_path = (*path, "prices", interval_name)
            intervals = {each.value: each for each in BillingInterval}
            interval = intervals.get(interval_name)
            if interval is None:
                known = ", ".join(intervals)
                hint = did_you_mean(interval_name, intervals)
                self.add(price_path, self._places[price_path], f"{interval_name[:60]!r} is none of {known}{hint}")
                continue
            price = self._price(value, price_path, interval, currency)
            if price is not None:
                prices.append(price)
        allowances = []
        for feature_key, value in self._named(entries.get("allowances"), (*path, "allowances")):
            allowance_path = (*path, "allowances", feature_key)
            if feature_key not in kinds:
                hint = did_you_mean(feature_key, kinds)
                self.add(
                    allowance_path,
                    self._places[allowance_path],
                    f"there is no feature {feature_key[:60]!r} under 'features'{hint}",
                )
                continue
            kind = kinds[feature_key]
            allowance = self._allowance(FeatureKey(feature_key), kind, value, allowance_path) if kind else None
            if allowance is not None:
                allowances.append(allowance)
        return Plan(
            key=PlanKey(key),
            version=0,
            name=self._text(entries, "name", path),
            description=self._text(entries, "description", path),
            rank=self._integer(entries, "rank", path, default=index),
            prices=tuple(prices),
            allowances=tuple(allowances),
            grace_days=self._integer(entries, "grace_days", path, default=grace_days),
            trial_days=self._integer(entries, "trial_days", path, default=0),
        )

    def _price(self, node: _Node, path: Path, interval: BillingInterval, default: str | None) -> Price | None:
        amount: _Node | None = node
        currency, stripe_price_id = default, ""
        if isinstance(node, _Mapping):
            entries = self._mapping(node, path, _PRICE_KEYS)
            amount = entries.get("amount")
            currency = self._currency(entries, path) or default
            stripe_price_id = self._text(entries, "stripe_price_id", path)
            if amount is None:
                self.add((*path, "amount"), node.place, "'amount' is missing: write it like 9.99")
                return None
        if not isinstance(amount, _Scalar):
            self.add(path, node.place, f"a price is an amount like 9.99, not {amount}")
            return None
        if currency is None:
            self.add(path, node.place, "in which currency? Add 'currency: USD' to the price, or to the whole file")
            return None
        try:
            amount_minor = parse_amount(amount.text, currency)
        except AmountRefused as error:
            self.add(path, amount.place, str(error))
            return None
        return Price(interval=interval, amount_minor=amount_minor, currency=currency, stripe_price_id=stripe_price_id)

    def _allowance(self, key: FeatureKey, kind: FeatureKind, node: _Node, path: Path) -> Allowance | None:
        if isinstance(node, _Mapping):
            return self._allowance_mapping(key, kind, node, path)
        if kind is FeatureKind.CONFIG:
            value = self._config_value(node, path, unlimited=True)
            return None if path in self._refused else Allowance(feature_key=key, kind=kind, value=value)
        if isinstance(node, _Scalar):
            switch = _SWITCHES.get(node.text) if node.plain else None
            if switch is False:
                return Allowance(feature_key=key, kind=kind, enabled=False)
            if switch is True and kind is FeatureKind.BOOLEAN:
                return Allowance(feature_key=key, kind=kind)
            if kind is FeatureKind.GAUGE and switch is None:
                limit = self._limit(node, path)
                return None if limit is None else Allowance(feature_key=key, kind=kind, limit_quantity=limit)
        wanted = {
            FeatureKind.BOOLEAN: "on or off",
            FeatureKind.COUNTER: "a limit and a period, like {limit: 10, period: day}, or off",
            FeatureKind.GAUGE: "a limit, like {limit: 1}, or off",
        }[kind]
        self.add(path, node.place, f"{key!r} is a {kind.value} feature: its allowance is {wanted}, not {node}")
        return None

    def _allowance_mapping(self, key: FeatureKey, kind: FeatureKind, node: _Mapping, path: Path) -> Allowance | None:
        every_key = {each for keys in _ALLOWANCE_KEYS.values() for each in keys}
        hints = {each: f"a {kind.value} feature has no {each}" for each in every_key}
        if kind is FeatureKind.GAUGE:
            hints["period"] = "a gauge never resets, so it has no period"
        entries = self._mapping(node, path, _ALLOWANCE_KEYS[kind], hints)
        if not self._switch(entries, "enabled", path, default=True):
            if len(entries) > 1:
                self.add(path, node.place, "an allowance that is off says nothing else")
            return Allowance(feature_key=key, kind=kind, enabled=False)
        if kind is FeatureKind.BOOLEAN:
            return Allowance(feature_key=key, kind=kind)
        if kind is FeatureKind.CONFIG:
            if "value" not in entries:
                self.add((*path, "value"), node.place, "'value' is missing")
                return None
            value = self._config_value(entries["value"], (*path, "value"), unlimited=True)
            return Allowance(feature_key=key, kind=kind, value=value)
        limit = LIMIT_UNLIMITED
        if "limit" not in entries:
            self.add((*path, "limit"), node.place, "'limit' is missing: a number, or unlimited")
        else:
            limit = self._limit(entries["limit"], (*path, "limit")) or 0
        period = PeriodKind.LIFETIME
        if kind is FeatureKind.COUNTER:
            if "period" not in entries:
                known = ", ".join(_PERIODS)
                self.add((*path, "period"), node.place, f"'period' is missing: one of {known}")
            period = self._choice(entries, "period", _PERIODS, path) or PeriodKind.LIFETIME
        trial_limit = None
        if "trial_limit" in entries:
            trial_limit = self._limit(entries["trial_limit"], (*path, "trial_limit"))
        overruns = {each.value: each for each in OverrunPolicy}
        percent, absolute = self._thresholds(entries.get("thresholds"), (*path, "thresholds"))
        anchors = {each.value: each for each in PeriodAnchor}
        modes = {each.value: each for each in LimitMode}
        return Allowance(
            feature_key=key,
            kind=kind,
            limit_quantity=limit,
            period_kind=period,
            period_anchor=self._choice(entries, "anchor", anchors, path) or PeriodAnchor.UTC,
            limit_mode=self._choice(entries, "mode", modes, path) or LimitMode.HARD,
            thresholds_percent=percent,
            thresholds_absolute=absolute,
            rollover=self._rollover(entries.get("rollover"), (*path, "rollover")),
            overrun_policy=self._choice(entries, "overrun", overruns, path) or OverrunPolicy.REJECT,
            trial_limit_quantity=trial_limit,
        )

    def _rollover(self, node: _Node | None, path: Path) -> Rollover | None:
        if node is None or (isinstance(node, _Scalar) and node.plain and _SWITCHES.get(node.text) is False):
            return None
        if isinstance(node, _Scalar) and node.text == _EVERYTHING:
            return Rollover()
        if not isinstance(node, _Mapping):
            self.add(path, node.place, f"a rollover is all, off, or a mapping like {{min: 10, max: 500}}; not {node}")
            return None
        entries = self._mapping(node, path, _ROLLOVER_KEYS)
        return Rollover(
            min_quantity=self._integer(entries, "min", path, default=0),
            max_quantity=self._integer(entries, "max", path, default=0),
        )

    def _limit(self, node: _Node, path: Path) -> int | None:
        self._places.setdefault(path, node.place)
        if isinstance(node, _Scalar):
            if node.text == _UNLIMITED:
                return LIMIT_UNLIMITED
            if node.plain and _INTEGER.fullmatch(node.text):
                limit = int(node.text)
                if limit < LIMIT_UNLIMITED:
                    self.add(path, node.place, f"{node.text} is no limit: 0 or more, or -1 for unlimited")
                    return None
                return limit
        self.add(path, node.place, f"a limit is a whole number, or unlimited; not {node}")
        return None

    def _thresholds(self, node: _Node | None, path: Path) -> tuple[tuple[int, ...], tuple[int, ...]]:
        percent, absolute = [], []
        for item in self._items(node, path):
            text = item.text if isinstance(item, _Scalar) else ""
            match = _PERCENT.fullmatch(text)
            if match is not None:
                percent.append(int(match.group(1)))
            elif isinstance(item, _Scalar) and item.plain and _INTEGER.fullmatch(text):
                absolute.append(int(text))
            else:
                self.add(path, item.place, f"a threshold is a percentage like 80%, or a whole number; not {item}")
        return tuple(percent), tuple(absolute)

    def _meter(self, key: str, node: _Node, path: Path) -> Meter:
        entries = self._mapping(node, path, _METER_KEYS)
        aggregation = self._choice(entries, "aggregation", {each.value: each for each in MeterAggregation}, path)
        if "aggregation" not in entries and path not in self._refused:
            known = ", ".join(each.value for each in MeterAggregation)
            self.add((*path, "aggregation"), self._places[path], f"'aggregation' is missing: one of {known}")
        return Meter(
            key=key,
            event_type=self._text(entries, "event_type", path),
            aggregation=aggregation or MeterAggregation.COUNT,
            value_property=self._text(entries, "value_property", path),
            scale=self._integer(entries, "scale", path, default=0),
            group_by=tuple(self._dimensions(entries.get("group_by"), (*path, "group_by"))),
            filters=tuple(self._filters(entries.get("filters"), (*path, "filters"))),
            name=self._text(entries, "name", path),
            description=self._text(entries, "description", path),
        )

    def _dimensions(self, node: _Node | None, path: Path) -> Iterator[tuple[str, str]]:
        """Read dimensions: a list of names that are paths as well, or a mapping of name to path."""
        if isinstance(node, _Mapping):
            for name, value in self._named(node, path):
                if isinstance(value, _Scalar) and not _is_nothing(value):
                    yield name, value.text
                else:
                    self.add((*path, name), value.place, f"a dotted path into the event's data, not {value}")
            return
        for item in self._items(node, path):
            if isinstance(item, _Scalar):
                yield item.text, item.text
            else:
                self.add(path, item.place, f"a dimension is a word, not {item}")

    def _filters(self, node: _Node | None, path: Path) -> Iterator[MeterFilter]:
        """Read filters: a mapping of dimension to the value, or the list of values, that it keeps."""
        for dimension, value in self._named(node, path):
            where = (*path, dimension)
            items = value.items if isinstance(value, _Sequence) else [value]
            values = []
            for item in items:
                if isinstance(item, _Scalar) and not _is_nothing(item):
                    values.append(item.text)
                else:
                    self.add(where, item.place, f"a value to keep is a text, not {item}")
            yield MeterFilter(dimension=dimension, values=tuple(values))

    def _model_prices(self, node: _Node | None, path: Path, currency: str | None) -> Iterator[ModelPrice]:
        """Read prices of models: by model one price, or the list of its prices over time."""
        for model_key, value in self._named(node, path):
            several = isinstance(value, _Sequence)
            found = []
            for index, item in enumerate(value.items if isinstance(value, _Sequence) else [value]):
                where = (*path, model_key, str(index)) if several else (*path, model_key)
                price = self._model_price(model_key, item, where, currency)
                if price is not None:
                    found.append((price, {key: self._places.get((*where, key)) for key in ("", *_MODEL_PRICE_KEYS)}))
                    found[-1][1][""] = item.place
            if any(refused[: len(path) + 1] == (*path, model_key) for refused in self._refused):
                continue
            # The rules name prices by their order in time, which need not be that of the file.
            found.sort(key=lambda each: model_price_position(each[0]))
            for index, (price, places) in enumerate(found):
                for key, place in places.items():
                    where = (*path, model_key, str(index), *([key] if key else []))
                    if several and place is not None:
                        self._places[where] = place
                yield price

    def _model_price(self, model_key: str, node: _Node, path: Path, currency: str | None) -> ModelPrice | None:
        entries = self._mapping(node, path, _MODEL_PRICE_KEYS)
        if path in self._refused:
            return None
        # Refused as such already where it is no currency; another price of the file may lack one too.
        currency = self._currency(entries, path) or currency
        if currency is None:
            self.add(path, node.place, "in which currency? Add 'currency: USD' to the price, or to the whole file")
        amounts = {}
        for key in ("input", "output", "cached_input"):
            if key in entries:
                amounts[key] = self._micros(entries[key], (*path, key))
            elif key != "cached_input":
                self.add((*path, key), node.place, f"{key!r} is missing: what a million tokens cost, like 0.15")
        start, end = self._instant(entries, "start", path), self._instant(entries, "end", path)
        if currency is None or amounts.get("input") is None or amounts.get("output") is None:
            return None
        return ModelPrice(
            model_key=model_key,
            currency_code=currency,
            input_micros_per_million=amounts["input"] or 0,
            output_micros_per_million=amounts["output"] or 0,
            cached_input_micros_per_million=amounts.get("cached_input"),
            start_time=start,
            end_time=end,
        )

    def _micros(self, node: _Node, path: Path) -> int | None:
        match = _PRICE_PER_MILLION.fullmatch(node.text) if isinstance(node, _Scalar) else None
        if match is None:
            self.add(path, node.place, f"what a million tokens cost is an amount like 0.15, not {node}")
            return None
        whole, fraction = match.group(1), match.group(2) or ""
        if len(fraction) > _MICROS_PLACES:
            places = f"at most {_MICROS_PLACES} decimal places, nothing is rounded"
            self.add(path, node.place, f"{node} is too precise: {places}")
            return None
        return int(whole + fraction.ljust(_MICROS_PLACES, "0"))

    def _instant(self, entries: Mapping[str, _Node], key: str, path: Path) -> datetime | None:
        """Read a day, which begins at midnight UTC, or an instant with its offset."""
        node = entries.get(key)
        if node is None or _is_nothing(node):
            return None
        if isinstance(node, _Scalar) and _INSTANT.fullmatch(node.text):
            with suppress(ValueError, OverflowError):
                read = datetime.fromisoformat(node.text.upper())
                return read.replace(tzinfo=UTC) if read.tzinfo is None else read.astimezone(UTC)
        wanted = "a day like 2026-01-31, or an instant with offset like 2026-01-31T12:00:00Z"
        self.add((*path, key), node.place, f"{wanted}, belongs here, not {node}")
        return None

    def _duration(self, entries: Mapping[str, _Node], key: str, path: Path) -> timedelta | None:
        node = entries.get(key)
        if node is None or _is_nothing(node):
            return None
        match = _DURATION.fullmatch(node.text) if isinstance(node, _Scalar) else None
        if match is None:
            wanted = "a number with its unit, like 3d, 12h, 90m or 30s"
            self.add((*path, key), node.place, f"{wanted}, belongs here, not {node}")
            return None
        return timedelta(seconds=int(match.group(1)) * _DURATION_UNITS[match.group(2)])

    def _config_value(self, node: _Node, path: Path, *, unlimited: bool = False) -> ConfigValue:
        if isinstance(node, _Sequence):
            return [self._config_value(item, path) for item in node.items]
        if isinstance(node, _Mapping):
            return {key: self._config_value(value, path) for key, (_, value) in node.entries.items()}
        if not node.plain:
            return node.text
        if node.text in ("", "~", "null"):
            return None
        if node.text in ("true", "false"):
            return node.text == "true"
        if unlimited and node.text == _UNLIMITED:
            return LIMIT_UNLIMITED
        if node.text in ("on", "off", "yes", "no"):
            self.add(path, node.place, f"{node} is a text in YAML, but may be meant as true or false: quote it")
            return None
        if _INTEGER.fullmatch(node.text):
            return int(node.text)
        if _FLOAT.fullmatch(node.text):
            return float(node.text)
        if node.text.lstrip("+-").lower() in (".inf", ".nan"):
            self.add(path, node.place, "not a finite number")
            return None
        return node.text

    # Pieces that all of the above are read from.

    def _mapping(
        self, node: _Node, path: Path, known: tuple[str, ...], hints: Mapping[str, str] | None = None
    ) -> dict[str, _Node]:
        if not isinstance(node, _Mapping):
            self.add(path, node.place, f"a mapping with {', '.join(known[:3])}, ... belongs here, not {node}")
            return {}
        self._places.setdefault(path, node.place)
        entries = {}
        for key, (place, value) in node.entries.items():
            if key in known:
                entries[key] = value
                self._places[(*path, key)] = value.place
            else:
                hint = (hints or {}).get(key) or f"unknown key {key[:60]!r}{did_you_mean(key, known)}"
                self.add((*path, key), place, hint)
        return entries

    def _named(self, node: _Node | None, path: Path) -> list[tuple[str, _Node]]:
        """Read a mapping whose keys are names that the file makes up."""
        if node is None or _is_nothing(node):
            return []
        if not isinstance(node, _Mapping):
            self.add(path, node.place, f"a mapping by key belongs here, not {node}")
            return []
        for key, (place, _) in node.entries.items():
            self._places[(*path, key)] = place
        return [(key, value) for key, (_, value) in node.entries.items()]

    def _declared(self, node: _Node | None) -> list[str]:
        return list(node.entries) if isinstance(node, _Mapping) else []

    def _items(self, node: _Node | None, path: Path) -> list[_Node]:
        if node is None or _is_nothing(node):
            return []
        if not isinstance(node, _Sequence):
            self.add(path, node.place, f"a list belongs here, not {node}")
            return []
        return node.items

    def _text(self, entries: Mapping[str, _Node], key: str, path: Path) -> str:
        node = entries.get(key)
        if node is None or _is_nothing(node):
            return ""
        if not isinstance(node, _Scalar):
            self.add((*path, key), node.place, f"a text belongs here, not {node}")
            return ""
        return node.text

    def _switch(self, entries: Mapping[str, _Node], key: str, path: Path, *, default: bool) -> bool:
        node = entries.get(key)
        if node is None:
            return default
        switch = _SWITCHES.get(node.text) if isinstance(node, _Scalar) and node.plain else None
        if switch is None:
            self.add((*path, key), node.place, f"true or false belongs here, not {node}")
            return default
        return switch

    def _integer(self, entries: Mapping[str, _Node], key: str, path: Path, *, default: int) -> int:
        node = entries.get(key)
        if node is None:
            return default
        if not isinstance(node, _Scalar) or not node.plain or not _INTEGER.fullmatch(node.text):
            self.add((*path, key), node.place, f"a whole number belongs here, not {node}")
            return default
        return int(node.text)

    def _choice(self, entries: Mapping[str, _Node], key: str, known: Mapping[str, E], path: Path) -> E | None:
        node = entries.get(key)
        return None if node is None else self._word(node, known, (*path, key))

    def _word(self, node: _Node, known: Mapping[str, E], path: Path) -> E | None:
        text = node.text if isinstance(node, _Scalar) else ""
        if text not in known:
            self.add(path, node.place, f"{node} is none of {', '.join(known)}{did_you_mean(text, known)}")
            return None
        return known[text]

    def _currency_code(self, entries: Mapping[str, _Node], path: Path) -> str:
        """Return the catalog's own currency; what is wrong with it was said by `_currency`."""
        code = self._text(entries, "currency", path)
        return code if code in CURRENCIES else ""

    def _currency(self, entries: Mapping[str, _Node], path: Path) -> str | None:
        code = self._text(entries, "currency", path)
        if code and code not in CURRENCIES:
            hint = did_you_mean(code.upper(), CURRENCIES)
            place = self._places[(*path, "currency")]
            self.add((*path, "currency"), place, f"{code[:20]!r} is not an ISO 4217 code such as USD{hint}")
            # Something to go on with, so that amounts are still looked at.
            return "USD"
        return code or None


def _sendable(text: str) -> str:
    """Write what cannot be encoded (half a character) as an escape, so that the answer can be."""
    return text.encode("utf-8", "backslashreplace").decode()


def _is_nothing(node: _Node) -> bool:
    return isinstance(node, _Scalar) and node.plain and node.text in ("", "~", "null")


# --- Catalogs to files -----------------------------------------------------------------------------------


def _catalog_json(catalog: Catalog) -> dict[str, Any]:
    settings = catalog.settings
    written = _present(
        tenant=settings.tenant_id,
        name=settings.name,
        parent=settings.parent_tenant_id,
        default_plan=settings.default_plan_key,
        auto_provision=settings.auto_provision,
        upgrade_url=settings.upgrade_url,
        currency=settings.default_currency_code,
        time_zone=settings.default_time_zone,
        failure_mode=_failure_mode_beside(settings.default_failure_mode, FailureMode.CLOSED),
        closed_period_corrections=settings.closed_period_corrections,
    )
    if settings.default_grace_days != GRACE_DAYS_DEFAULT:
        written["grace_days"] = settings.default_grace_days
    if settings.late_event_window is not None:
        # Zero says something: an event that is late counts nowhere.
        written["late_event_window"] = late_event_window_text(settings.late_event_window)
    return written | _present(
        usage_retention_days=settings.usage_retention_days,
        features={feature.key: feature_to_json(feature, settings.default_failure_mode) for feature in catalog.features},
        plans={plan.key: plan_to_json(plan, settings.default_grace_days) for plan in catalog.plans},
        meters={meter.key: meter_to_json(meter) for meter in catalog.meters},
        model_prices=model_prices_to_json(catalog.model_prices),
    )


def _store_json(store: Catalog, product: Catalog) -> dict[str, Any]:
    written = _catalog_json(store)
    written.pop("parent", None)
    inherited = len(product.features)
    if inherited and store.features[:inherited] == product.features:
        own = {
            feature.key: feature_to_json(feature, store.settings.default_failure_mode)
            for feature in store.features[inherited:]
        }
        brought = set(inherited_meters(product))
        meters = {meter.key: meter_to_json(meter) for meter in store.meters if meter not in brought}
        written.pop("features")
        rest = {key: written.pop(key, None) for key in ("plans", "meters", "model_prices")} | {"meters": meters}
        return written | _present(inherit_features=True, features=own, **rest)
    return written


def inherited_meters(product: Catalog) -> tuple[Meter, ...]:
    """Return the meters that a store has with the product's features: those that the features hang on."""
    needed = {feature.meter_key for feature in product.features}
    return tuple(meter for meter in product.meters if meter.key in needed)


def _failure_mode_beside(mode: FailureMode, default: FailureMode) -> str | None:
    return None if mode is default else failure_mode_word(mode)


def failure_mode_word(mode: FailureMode) -> str:
    """Return the word for the failure mode in catalog files."""
    return _FAILURE_WORDS[mode]


def late_event_window_text(window: timedelta | None) -> str | None:
    """Return the duration as in a catalog file, in the largest unit that says it exactly; None for none."""
    if window is None:
        return None
    seconds = window // timedelta(seconds=1)
    unit, length = next((unit, length) for unit, length in _DURATION_UNITS.items() if seconds % length == 0)
    return f"{seconds // length}{unit}"


def feature_to_json(feature: Feature, default: FailureMode = FailureMode.CLOSED) -> dict[str, Any]:
    """Return what a catalog file with this default of failure modes says of the feature."""
    return _present(
        kind=feature.kind.value,
        name=feature.name,
        description=feature.description,
        unit=feature.unit,
        failure_mode=_failure_mode_beside(feature.failure_mode, default),
        meter=feature.meter_key,
    )


def plan_to_json(plan: Plan, default_grace_days: int = GRACE_DAYS_DEFAULT) -> dict[str, Any]:
    """Return what a catalog file with this default of grace says of the plan."""
    return _present(name=plan.name, description=plan.description) | {
        "rank": plan.rank,
        **({"grace_days": plan.grace_days} if plan.grace_days != default_grace_days else {}),
        **_present(
            trial_days=plan.trial_days,
            prices={price.interval.value: _price_json(price) for price in plan.prices},
            allowances={allowance.feature_key: _allowance_json(allowance) for allowance in plan.allowances},
        ),
    }


def _price_json(price: Price) -> dict[str, Any]:
    amount = format_amount(price.amount_minor, price.currency)
    return _present(amount=amount, currency=price.currency, stripe_price_id=price.stripe_price_id)


class _UnquotedWord(str):
    """A word of the file format, as against somebody's text that happens to read the same."""

    __slots__ = ()


def _allowance_json(allowance: Allowance) -> Any:
    if not allowance.enabled:
        return {"enabled": False} if allowance.kind is FeatureKind.CONFIG else False
    if allowance.kind is FeatureKind.BOOLEAN:
        return True
    if allowance.kind is FeatureKind.CONFIG:
        return {"value": allowance.value}
    written: dict[str, Any] = {"limit": allowance.limit_quantity}
    if allowance.limit_quantity == LIMIT_UNLIMITED:
        written["limit"] = _UnquotedWord(_UNLIMITED)
    if allowance.kind is FeatureKind.COUNTER:
        written["period"] = allowance.period_kind.name.lower()
        if allowance.period_kind is not PeriodKind.LIFETIME:
            written["anchor"] = allowance.period_anchor.value
    if allowance.limit_mode is LimitMode.SOFT:
        written["mode"] = allowance.limit_mode.value
    thresholds = [
        *(f"{percent}%" for percent in allowance.thresholds_percent),
        *allowance.thresholds_absolute,
    ]
    written |= _present(thresholds=thresholds)
    if allowance.rollover is not None:
        rollover = _present(min=allowance.rollover.min_quantity, max=allowance.rollover.max_quantity)
        written["rollover"] = rollover or _EVERYTHING
    if allowance.overrun_policy is not OverrunPolicy.REJECT:
        written["overrun"] = allowance.overrun_policy.value
    if allowance.trial_limit_quantity == LIMIT_UNLIMITED:
        written["trial_limit"] = _UnquotedWord(_UNLIMITED)
    elif allowance.trial_limit_quantity is not None:
        written["trial_limit"] = allowance.trial_limit_quantity
    return written


def meter_to_json(meter: Meter) -> dict[str, Any]:
    """Return what a catalog file says of the meter."""
    plain = all(name == path for name, path in meter.group_by)
    return _present(
        name=meter.name,
        description=meter.description,
        event_type=meter.event_type,
        aggregation=meter.aggregation.value,
        value_property=meter.value_property,
        scale=meter.scale,
        group_by=[name for name, _ in meter.group_by] if plain else dict(meter.group_by),
        filters={each.dimension: list(each.values) for each in meter.filters},
    )


def model_prices_to_json(prices: Iterable[ModelPrice]) -> dict[str, Any]:
    """Return what a catalog file says of the prices of models: by model one price, or a list in order of time."""
    written: dict[str, list[dict[str, Any]]] = {}
    for price in prices:
        written.setdefault(price.model_key, []).append(_model_price_json(price))
    return {model_key: each[0] if len(each) == 1 else each for model_key, each in written.items()}


def _model_price_json(price: ModelPrice) -> dict[str, Any]:
    cached = price.cached_input_micros_per_million
    amounts = {
        "input": _micros_text(price.input_micros_per_million),
        "output": _micros_text(price.output_micros_per_million),
        "cached_input": None if cached is None else _micros_text(cached),
        "start": None if price.start_time is None else _instant_text(price.start_time),
        "end": None if price.end_time is None else _instant_text(price.end_time),
    }
    return _present(**amounts, currency=price.currency_code)


def _micros_text(micros: int) -> str:
    whole, fraction = divmod(micros, _MICROS)
    return f"{whole}.{fraction:0{_MICROS_PLACES}}".rstrip("0").removesuffix(".")


def _instant_text(instant: datetime) -> str:
    instant = instant.astimezone(UTC)
    if instant.time() == time.min:
        return instant.date().isoformat()
    return instant.replace(tzinfo=None).isoformat() + "Z"


def _present(**values: Any) -> dict[str, Any]:
    """Return what says something: an absent key means the same as an empty one."""
    return {key: value for key, value in values.items() if value not in (None, "", 0, False, [], {})}


_PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_]*([ ./-][A-Za-z0-9_]+)*")
_WORDS: Final = frozenset({"true", "false", "null", "on", "off", "yes", "no", "y", "n", _UNLIMITED})
_ESCAPED = re.compile(r'["\\\x00-\x1f\x7f-\xa0\u2028\u2029\ufeff\ud800-\udfff\ufffe\uffff]')


def _yaml_lines(value: Mapping[str, Any], depth: int) -> Iterator[str]:
    margin = "  " * depth
    for key, item in value.items():
        name = f"{margin}{_yaml_text(key)}:"
        if isinstance(item, Mapping) and item and not _is_flat(item):
            yield name
            yield from _yaml_lines(item, depth + 1)
        elif isinstance(item, list) and any(isinstance(each, Mapping) for each in item) and key == "stores":
            yield name
            for each in item:
                lines = list(_yaml_lines(each, depth + 2))
                yield f"{margin}  - {lines[0].lstrip()}"
                yield from lines[1:]
        else:
            yield f"{name} {_yaml_flow(item)}"


def _is_flat(value: Mapping[str, Any]) -> bool:
    """Short mappings without mappings inside, and config values, stand on one line."""
    return "value" in value or not any(isinstance(item, Mapping) for item in value.values())


def _yaml_flow(value: Any) -> str:
    if isinstance(value, str):
        return _yaml_text(value)
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_yaml_text(key)}: {_yaml_flow(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(_yaml_flow(item) for item in value) + "]"
    return json.dumps(value)


def _yaml_text(text: str) -> str:
    if isinstance(text, _UnquotedWord) or (_PLAIN.fullmatch(text) and text.lower() not in _WORDS):
        return str(text)
    return '"' + _ESCAPED.sub(_escape, text) + '"'


def _escape(match: re.Match[str]) -> str:
    character = match.group()
    if character in '"\\':
        return "\\" + character
    code = ord(character)
    return f"\\x{code:02x}" if code <= 0xFF else f"\\u{code:04x}"  # noqa: PLR2004 - the widths of the two escapes
