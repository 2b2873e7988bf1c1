"""The operating system account that the servers run as."""

from __future__ import annotations

import contextlib
import os
import pwd
import stat
import subprocess
from dataclasses import dataclass
from pathlib import Path

from tallygate_server.embedded.errors import EmbeddedError

UNPRIVILEGED_ACCOUNTS = ("tallygate", "nobody")
"""Accounts the servers may run as when root starts us, first match wins."""

SERVER_ENVIRON = {"PATH": "/usr/bin:/bin", "LC_ALL": "C", "TZ": "UTC"}
"""The servers' whole environment: nothing like PGDATA or PGOPTIONS may leak in from ours."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """The operating system account the servers run as; equals our own unless root started us."""

    user_id: int
    group_id: int

    @property
    def is_ours(self) -> bool:
        """Whether no change of user is needed."""
        return self.user_id == os.geteuid()

    def can_search(self, directory: Path) -> bool:
        """Whether the account can reach the entries of a directory, judged by permission bits of the whole path."""
        return all(self._has_search_bit(part) for part in (directory, *directory.parents))

    def _has_search_bit(self, directory: Path) -> bool:
        status = directory.stat()
        if status.st_uid == self.user_id:
            return bool(status.st_mode & stat.S_IXUSR)
        if status.st_gid == self.group_id:
            return bool(status.st_mode & stat.S_IXGRP)
        return bool(status.st_mode & stat.S_IXOTH)

    def run(self, argv: list[str], *, working_dir: Path) -> subprocess.CompletedProcess[str]:
        """Run a short command as the account, without shell, input or our environment; raise OSError if impossible."""
        if self.is_ours:
            return subprocess.run(
                argv,
                capture_output=True,
                text=True,
                check=False,
                env=SERVER_ENVIRON,
                cwd=working_dir,
                stdin=subprocess.DEVNULL,
            )
        return subprocess.run(
            argv,
            capture_output=True,
            text=True,
            check=False,
            env=SERVER_ENVIRON,
            cwd=working_dir,
            stdin=subprocess.DEVNULL,
            user=self.user_id,
            group=self.group_id,
            extra_groups=[],
        )


def choose_account(data_dir: Path) -> Account:
    """Take our own account, or as root that of the existing cluster, or else an unprivileged one."""
    if os.geteuid() != 0:
        return Account(user_id=os.geteuid(), group_id=os.getegid())
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        owner = (data_dir / "postgres").stat()
        if owner.st_uid != 0:
            return Account(user_id=owner.st_uid, group_id=owner.st_gid)
    for name in UNPRIVILEGED_ACCOUNTS:
        with contextlib.suppress(KeyError):
            entry = pwd.getpwnam(name)
            return Account(user_id=entry.pw_uid, group_id=entry.pw_gid)
    raise EmbeddedError(
        f"PostgreSQL refuses to run as root, and there is no user {' or '.join(UNPRIVILEGED_ACCOUNTS)} to run it as.",
        "Run Tallygate as a normal user, or set TALLYGATE_DATABASE_URL to a database of your own.",
    )
