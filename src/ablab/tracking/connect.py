"""Reaching MLflow: where it is, whether it answers, where files go."""

from __future__ import annotations

import logging
import os
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"  # before mlflow is imported: it reports usage by default

import sqlalchemy
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from ablab.errors import UserError

for _name in ("alembic", "mlflow"):
    logging.getLogger(_name).setLevel(logging.WARNING)

REACH_SECONDS = 5  # how long a server may take to answer at all


def connect(uri: str, create: bool) -> MlflowClient:
    """A client that has been answered once. Asked first by ourselves: MLflow retries for minutes."""
    scheme = urlsplit(uri).scheme.partition("+")[0]
    with _told(uri):
        if scheme in ("http", "https"):
            _ask_server(uri)
        elif scheme in ("sqlite", "postgresql", "mysql", "mssql"):
            _ask_database(uri, create)
        client = MlflowClient(uri)
        client.search_experiments(max_results=1)
        return client


@contextmanager
def _told(uri: str) -> Iterator[None]:
    """Turns what goes wrong in reaching MLflow into one message."""
    try:
        yield
    except (MlflowException, sqlalchemy.exc.SQLAlchemyError, OSError, ImportError) as error:
        why = getattr(error, "orig", None) or getattr(error, "reason", None) or error
        text = str(why).strip().splitlines() or [type(error).__name__]
        raise UserError(
            f"tracking.uri={shown(uri)}: no MLflow there ({text[0]}). "
            "Expected e.g. sqlite:///.ablab/mlflow.db or http://host:5000"
        ) from None


def _ask_server(uri: str) -> None:
    with suppress(urllib.error.HTTPError):  # it answers; whether it is an MLflow the first call will tell
        urllib.request.urlopen(f"{uri.rstrip('/')}/health", timeout=REACH_SECONDS).close()


def _ask_database(uri: str, create: bool) -> None:
    url = sqlalchemy.engine.make_url(uri)
    options: dict[str, Any] = {}
    if url.get_backend_name() == "sqlite":
        if url.database in (None, "", ":memory:"):
            raise UserError(f"tracking.uri={uri}: expected a file, e.g. sqlite:///.ablab/mlflow.db")
        file = Path(str(url.database))
        if create:
            file.parent.mkdir(parents=True, exist_ok=True)
        elif not file.exists():
            raise UserError(f"tracking.uri={uri}: there is no {file}: nothing is recorded yet")
    elif url.get_backend_name() in ("postgresql", "mysql"):
        options["connect_timeout"] = REACH_SECONDS
    engine = sqlalchemy.create_engine(url, connect_args=options)
    sqlalchemy.inspect(engine).get_table_names()
    engine.dispose()


def shown(uri: str) -> str:
    """The address without its password."""
    parts = urlsplit(uri)
    return uri.replace(f":{parts.password}@", ":***@") if parts.password else uri


def artifact_location(uri: str) -> str | None:
    """Where files of runs go: beside an SQLite file, under .ablab for other databases; None: a server decides."""
    if urlsplit(uri).scheme in ("http", "https", "databricks"):
        return None
    url = sqlalchemy.engine.make_url(uri) if ":/" in uri else None
    database = url.database if url is not None and url.get_backend_name() == "sqlite" else None
    folder = Path(database).parent if database else Path(".ablab")
    return (folder.resolve() / "mlartifacts").as_uri()
