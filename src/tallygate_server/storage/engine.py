"""Connections to Postgres, each with the role that its work needs."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from enum import Enum
from typing import Any, Final

import asyncpg
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool

from tallygate_server.domain.identifier import TenantId
from tallygate_server.errors import StoreUnavailable


class DatabaseRole(Enum):
    """Roles made by migrations; a connection takes one when it starts."""

    APP = "tallygate_app"
    METER = "tallygate_meter"
    READER = "tallygate_reader"
    INTAKE = "tallygate_intake"
    OUTBOX = "tallygate_outbox"
    LIFECYCLE = "tallygate_lifecycle"


CONNECTION_ERRORS: Final = (
    OSError,
    TimeoutError,
    asyncpg.PostgresConnectionError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    asyncpg.OperatorInterventionError,
    asyncpg.TooManyConnectionsError,
    asyncpg.IdleInTransactionSessionTimeoutError,
)
"""What asyncpg raises when Postgres is away, or goes away during a statement."""

STATEMENT_TIMEOUT_MS: Final = 10_000
IDLE_IN_TRANSACTION_TIMEOUT_MS: Final = 10_000
"""Ends transactions whose server has gone silent; those that are busy are bounded by their own time-outs."""
CONNECT_TIMEOUT_SECONDS: Final = 5.0
APP_POOL_SIZE: Final = 10


def connection_settings(role: DatabaseRole | None = None, **more: str) -> dict[str, str]:
    """Return the settings with which a connection of the role starts (None: the login itself)."""
    settings = {
        "application_name": f"tallygate:{role.name.lower() if role else 'owner'}",
        "timezone": "UTC",
        "jit": "off",
        "idle_in_transaction_session_timeout": str(IDLE_IN_TRANSACTION_TIMEOUT_MS),
    }
    if role is not None:
        settings["role"] = role.value
        settings["statement_timeout"] = str(STATEMENT_TIMEOUT_MS)
    return settings | more


async def connect(database_url: str, role: DatabaseRole | None = None, **settings: str) -> asyncpg.Connection:
    """Open a connection under a role (None: the login itself, which owns the tables)."""
    return await asyncpg.connect(
        database_url, timeout=CONNECT_TIMEOUT_SECONDS, server_settings=connection_settings(role, **settings)
    )


def owner_engine(database_url: str) -> AsyncEngine:
    """Return an engine without a pool, as the tables' owner: for migrations and partitions."""
    return create_async_engine("postgresql+asyncpg://", async_creator=lambda: connect(database_url), poolclass=NullPool)


class Database:
    """Transactions of one tenant at a time, under row-level security."""

    def __init__(
        self, database_url: str, *, role: DatabaseRole = DatabaseRole.APP, pool_size: int = APP_POOL_SIZE
    ) -> None:
        """Prepare a pool of connections with the role; nothing is opened yet."""
        self.url = database_url
        self._engine = create_async_engine(
            "postgresql+asyncpg://",
            async_creator=lambda: connect(database_url, role),
            pool_size=pool_size,
            max_overflow=0,
            pool_timeout=5.0,
            # A connection that the server has closed (restart, failover) is noticed before it is used.
            pool_pre_ping=True,
        )

    @asynccontextmanager
    async def tenant_transaction(self, tenant_id: TenantId) -> AsyncIterator[AsyncConnection]:
        """Open a transaction that sees and writes one tenant's rows only; commits unless an error leaves it.

        Raises StoreUnavailable when Postgres is away, or goes away.
        """
        async with self._begin() as connection:
            await connection.execute(
                text("SELECT set_config('tallygate.tenant_id', :tenant_id, true)"), {"tenant_id": tenant_id}
            )
            yield connection

    @asynccontextmanager
    async def tenant_snapshot(self, tenant_id: TenantId) -> AsyncIterator[AsyncConnection]:
        """Open a transaction that reads one tenant's rows as they are at one instant, and writes nothing.

        Its statements are planned for their values. Raises StoreUnavailable as above.
        """
        async with self._begin(isolation_level="REPEATABLE READ", postgresql_readonly=True) as connection:
            await connection.execute(
                text(
                    "SELECT set_config('tallygate.tenant_id', :tenant_id, true),"
                    " set_config('plan_cache_mode', 'force_custom_plan', true)"
                ),
                {"tenant_id": tenant_id},
            )
            yield connection

    @asynccontextmanager
    async def plain_transaction(self) -> AsyncIterator[AsyncConnection]:
        """Open a transaction of no tenant: only what the role may use without one, such as job runs."""
        async with self._begin() as connection:
            yield connection

    @asynccontextmanager
    async def _begin(self, **options: Any) -> AsyncIterator[AsyncConnection]:
        try:
            async with self._engine.connect() as connection:
                if options:
                    await connection.execution_options(**options)
                async with connection.begin():
                    yield connection
        except DBAPIError as error:
            # A connection that breaks while it is made is no error of its own to SQLAlchemy; asyncpg's is the cause.
            away = isinstance(error, InterfaceError | OperationalError) or isinstance(
                getattr(error.orig, "__cause__", None), CONNECTION_ERRORS
            )
            if error.connection_invalidated or away:
                raise StoreUnavailable("the database cannot be reached just now") from error
            if isinstance(getattr(error.orig, "__cause__", None), asyncpg.DeadlockDetectedError):
                raise StoreUnavailable("others were at work on the same tables; nothing was done") from error
            raise
        except (PoolTimeoutError, *CONNECTION_ERRORS) as error:
            raise StoreUnavailable("the database cannot be reached just now") from error

    async def close(self) -> None:
        """Close every pooled connection."""
        await self._engine.dispose()
