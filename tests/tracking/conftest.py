"""Where tests record: a fresh SQLite file, and a fresh database of a real PostgreSQL server."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from servers import PASSWORD, Postgres, free_port

from ablab.tracking import connect


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """PostgreSQL as Debian packages it. It refuses to run as root: then the user `postgres` runs it."""
    pytest.importorskip("psycopg", reason="no psycopg: pip install 'ablab[postgres]'")
    programs = max(Path("/usr/lib/postgresql").glob("*/bin"), default=None, key=lambda p: float(p.parent.name))
    if programs is None:
        pytest.skip("no PostgreSQL server: apt-get install postgresql")
    me: dict[str, Any] = {}
    folder = Path(tempfile.mkdtemp(prefix="ablab-postgres-"))
    if os.geteuid() == 0:
        try:
            owner = pwd.getpwnam("postgres")
        except KeyError:
            pytest.skip("PostgreSQL does not run as root, and there is no user postgres")
        os.chown(folder, owner.pw_uid, owner.pw_gid)
        me = {"user": owner.pw_uid, "group": owner.pw_gid, "extra_groups": []}
    (folder / "password").write_text(PASSWORD)
    port = free_port()

    def call(program: str, *words: str) -> None:
        command = [programs / program, "-D", folder / "data", *words]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60, **me)
        assert done.returncode == 0, done.stdout + done.stderr

    call("initdb", "-U", "ablab", "-A", "scram-sha-256", f"--pwfile={folder / 'password'}", "--no-sync", "-E", "UTF8")
    options = f"-c listen_addresses=127.0.0.1 -p {port} -k '' -c fsync=off"
    call("pg_ctl", "start", "-w", "-s", "-l", str(folder / "log"), "-o", options)
    try:
        yield Postgres(port)
    finally:
        call("pg_ctl", "stop", "-s", "-m", "immediate")
        shutil.rmtree(folder)


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty MLflow database: making one takes more than a second."""
    file = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    connect(f"sqlite:///{file}", create=True)
    return file


@pytest.fixture(params=["sqlite", "postgresql"])
def fresh(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], str]:
    """Makes addresses of empty records."""
    monkeypatch.chdir(tmp_path)  # files of a database's runs go below it
    if request.param == "postgresql":
        server: Postgres = request.getfixturevalue("postgres")
        numbers = count()
        return lambda: server.empty(next(numbers))
    empty: Path = request.getfixturevalue("template")

    def copy() -> str:
        folder = Path(tempfile.mkdtemp(dir=tmp_path))
        shutil.copy(empty, folder / "mlflow.db")
        return f"sqlite:///{folder}/mlflow.db"

    return copy


@pytest.fixture
def empty(fresh: Callable[[], str]) -> str:
    return fresh()


@pytest.fixture
def other(fresh: Callable[[], str]) -> str:
    return fresh()


@pytest.fixture
def sqlite(template: Path, tmp_path: Path) -> str:
    """An empty SQLite record, for what does not depend on the kind of database."""
    shutil.copy(template, tmp_path / "mlflow.db")
    return f"sqlite:///{tmp_path}/mlflow.db"
