"""What goes wrong with a PostgreSQL server is told in one message that names tracking.uri, without the password."""

from __future__ import annotations

import sys
from typing import Any

import pytest
from servers import PASSWORD, free_port
from what_mlflow_holds import small

from ablab import tracking
from ablab.errors import UserError


@pytest.mark.parametrize(
    ("database", "password", "port", "said"),
    [
        ("postgres", "wr0ng", None, "password authentication failed"),
        ("nowhere", PASSWORD, None, 'database "nowhere" does not exist'),
        ("postgres", PASSWORD, free_port(), "refused"),
    ],
)
def test_a_server_that_refuses(database: str, password: str, port: int | None, said: str, postgres: Any) -> None:
    uri = postgres.address(database, password).replace(str(postgres.port), str(port or postgres.port))
    for attempt in (
        lambda: tracking.record(small(), uri),
        lambda: tracking.read(uri, "x"),
        lambda: tracking.fingerprints(uri),
    ):
        with pytest.raises(UserError) as told:
            attempt()
        message = str(told.value)
        assert said in message
        assert f"tracking.uri=postgresql+psycopg://ablab:***@127.0.0.1:{port or postgres.port}/{database}" in message
        assert password not in message
        assert "\n" not in message


def test_a_driver_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(UserError, match=r"pip install 'ablab\[postgres\]'"):
        tracking.read("postgresql+psycopg://me@127.0.0.1:9/x", "x")
