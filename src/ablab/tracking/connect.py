"""Reaching MLflow: where it is, whether it answers, where files go."""

from __future__ import annotations

import logging
import os
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"  # before mlflow is imported: it reports usage by default
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")  # two lines a run
# A server that went away is given a quarter of a minute, not MLflow's four: nothing is lost, the store has it all.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "3")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")

import sqlalchemy
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from ablab.errors import UserError, nearest

for _name in ("alembic", "mlflow"):
    logging.getLogger(_name).setLevel(logging.WARNING)
logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)  # a traceback beside the exception it raises
logging.getLogger("psycopg").setLevel(logging.ERROR)  # of points that are there already, which MLflow tries to add
logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)  # a line for each of MLflow's retries

SERVERS, DATABASES = ("http", "https"), ("sqlite", "postgresql", "mysql", "mssql")
SCHEMES = (*SERVERS, *DATABASES, "databricks")
EXAMPLES = "Expected e.g. sqlite:///.ablab/mlflow.db or http://host:5000"
REACH_SECONDS = 5  # how long a server may take to answer at all


def connect(uri: str, create: bool) -> MlflowClient:
    """A client that has been answered once. We ask first ourselves, because MLflow retries for minutes.

    create: make the SQLite file where there is none. Raises UserError that names tracking.uri.
    """
    scheme = urlsplit(uri).scheme.partition("+")[0]
    if scheme not in SCHEMES:
        raise UserError(
            f"tracking.uri={shown(uri)}: '{scheme}' is no place for a record. {nearest(scheme, SCHEMES)} {EXAMPLES}"
        )
    with explained(uri, "no MLflow there", EXAMPLES):
        if scheme in SERVERS:
            _ask_server(uri)
        elif scheme in DATABASES:
            _ask_database(uri, create)
        client = MlflowClient(_absolute(uri))
        client.search_experiments(max_results=1)
        return client


@contextmanager
def explained(uri: str, what: str, then: str) -> Iterator[None]:
    """What MLflow, its database or its disk refuses becomes a UserError that names tracking.uri."""
    try:
        yield
    except ModuleNotFoundError as error:
        extra = ": pip install 'ablab[postgres]'" if error.name == "psycopg" else ""
        raise UserError(f"tracking.uri={shown(uri)}: {what} ({error}{extra}). {then}") from None
    except (MlflowException, sqlalchemy.exc.SQLAlchemyError, OSError, ImportError) as error:
        why = str(getattr(error, "orig", None) or getattr(error, "reason", None) or error).strip()
        first = (why.replace(uri, shown(uri)).splitlines() or [type(error).__name__])[0]
        raise UserError(f"tracking.uri={shown(uri)}: {what} ({first}). {then}") from None


def _ask_server(uri: str) -> None:
    try:
        urllib.request.urlopen(f"{uri.rstrip('/')}/health", timeout=REACH_SECONDS).close()
    except urllib.error.HTTPError as error:
        if error.code >= 500:
            raise  # MLflow would try again and again; anything else it can tell better itself


def _ask_database(uri: str, create: bool) -> None:
    url = sqlalchemy.engine.make_url(uri)
    options: dict[str, Any] = {}
    if url.get_backend_name() == "sqlite":
        file = sqlite_file(uri)
        if file is None:
            raise UserError(f"tracking.uri={uri}: expected a file, e.g. sqlite:///.ablab/mlflow.db")
        if create:
            file.parent.mkdir(parents=True, exist_ok=True)
            if not os.access(file if file.exists() else file.parent, os.W_OK):
                raise UserError(f"tracking.uri={uri}: {file} cannot be written to, it or its disk is read-only")
            if not file.exists():
                _make_sqlite(file)
        elif not file.exists():
            raise UserError(f"tracking.uri={uri}: there is no {file}: nothing is recorded yet")
    elif url.get_backend_name() in ("postgresql", "mysql"):
        options["connect_timeout"] = REACH_SECONDS
    engine = sqlalchemy.create_engine(url, connect_args=options)
    tables = sqlalchemy.inspect(engine).get_table_names()
    engine.dispose()
    if url.get_backend_name() == "sqlite" and tables and "experiments" not in tables:  # MLflow would add its own
        raise UserError(
            f"tracking.uri={uri}: a database of something else (tables {', '.join(tables[:3])}). {EXAMPLES}"
        )


def _make_sqlite(file: Path) -> None:
    """Make an empty record, whole or not at all: MLflow cannot go on with one that a crash left half made."""
    with tempfile.TemporaryDirectory(dir=file.parent.resolve(), prefix=".new-") as scratch:
        new = Path(scratch) / file.name
        MlflowClient(f"sqlite:///{new}").search_experiments(max_results=1)
        try:
            os.link(new, file)
        except FileExistsError:  # another process was faster
            pass
        except OSError:  # a file system without hard links
            new.replace(file)


def _absolute(uri: str) -> str:
    """The address with an SQLite file's whole path: MLflow keeps a store for each address, whatever folder it is in."""
    file = sqlite_file(uri)
    if file is None:
        return uri
    return sqlalchemy.engine.make_url(uri).set(database=str(file.resolve())).render_as_string(hide_password=False)


def sqlite_file(uri: str) -> Path | None:
    """The file of an SQLite address; None for every other address."""
    if urlsplit(uri).scheme.partition("+")[0] != "sqlite":
        return None
    database = sqlalchemy.engine.make_url(uri).database
    return Path(database) if database not in (None, "", ":memory:") else None


def shown(uri: str) -> str:
    """The address without its password."""
    parts = urlsplit(uri)
    return uri.replace(f":{parts.password}@", ":***@") if parts.password else uri


def artifact_location(uri: str) -> str | None:
    """Where files of runs go: beside an SQLite file, under .ablab for other databases; None: a server decides."""
    if urlsplit(uri).scheme.partition("+")[0] not in DATABASES:
        return None
    file = sqlite_file(uri)
    folder = file.parent if file else Path(".ablab")
    return (folder.resolve() / "mlartifacts").as_uri()
