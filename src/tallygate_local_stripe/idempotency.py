"""Idempotency keys: the first result is saved for a day and repeated, for the same request only."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import Any, Final

from tallygate_local_stripe.errors import StripeError
from tallygate_local_stripe.periods import DAY

KEY_LENGTH_MAX: Final = 255
KEPT_SECONDS: Final = DAY


@dataclass(slots=True, kw_only=True)
class Saved:
    """What a key was used for, and the answer once there is one."""

    fingerprint: str
    created: int
    status: int = 0
    body: dict[str, Any] | None = None


class IdempotencyKeys:
    """Remember keys and what they were used for."""

    def __init__(self) -> None:
        self._saved: dict[str, Saved] = {}

    def begin(self, key: str, *, path: str, params: dict[str, Any], now: int) -> Saved | None:
        """Return the saved answer, or None and hold the key for the request that now runs.

        Raises:
            StripeError: the key is too long, was used for something else, or its first request still runs.

        """
        if len(key) > KEY_LENGTH_MAX:
            raise StripeError(f"Idempotency keys may be at most {KEY_LENGTH_MAX} characters.", kind="idempotency_error")
        fingerprint = _fingerprint(path, params)
        saved = self._saved.get(key)
        if saved is None or now - saved.created >= KEPT_SECONDS:
            self._saved[key] = Saved(fingerprint=fingerprint, created=now)
            return None
        if saved.fingerprint != fingerprint:
            raise StripeError(
                "Keys for idempotent requests can only be used with the same parameters they were first used with. Try"
                f" using a key other than '{key}' if you meant to execute a different request.",
                kind="idempotency_error",
            )
        if saved.body is None:
            raise StripeError(
                "There is currently another in-progress request using this Idempotent Key (that probably means you"
                f" submitted twice, and the other request is still going through): {key}. Please try again later.",
                status=409,
                kind="idempotency_error",
                code="idempotency_key_in_use",
            )
        return saved

    def save(self, key: str, *, status: int, body: dict[str, Any]) -> None:
        """Keep the first answer."""
        self._saved[key].status = status
        self._saved[key].body = body

    def forget(self, key: str) -> None:
        """Give a key back: its request was refused before it began."""
        self._saved.pop(key, None)

    def clear(self) -> None:
        """Forget all keys."""
        self._saved.clear()

    def state(self) -> dict[str, Any]:
        """Return what a file must keep."""
        return {key: asdict(saved) for key, saved in self._saved.items() if saved.body is not None}

    def restore(self, state: dict[str, Any]) -> None:
        """Take back what a file kept."""
        self._saved = {key: Saved(**saved) for key, saved in state.items()}


def _fingerprint(path: str, params: dict[str, Any]) -> str:
    text = json.dumps([path, params], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()
