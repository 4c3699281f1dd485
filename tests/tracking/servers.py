"""The servers that a record may lie on."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import sqlalchemy

from ablab.tracking import connect

PASSWORD = "s3cret"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Postgres:
    """A server of our own on the loopback address."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.records = 0

    def address(self, database: str, password: str = PASSWORD) -> str:
        return f"postgresql+psycopg://ablab:{password}@127.0.0.1:{self.port}/{database}"

    def do(self, database: str, statement: str) -> None:
        engine = sqlalchemy.create_engine(self.address(database), isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            connection.execute(sqlalchemy.text(statement))
        engine.dispose()

    def empty(self, number: int) -> str:
        """The address of an empty record; the same for the same number, what it held is gone."""
        if number == self.records:
            self.records += 1
            self.do("postgres", f"CREATE DATABASE record{number}")
            connect(self.address(f"record{number}"), create=True)
        self.do(f"record{number}", "TRUNCATE experiments, inputs, input_tags CASCADE")
        return self.address(f"record{number}")


class Server:
    """`mlflow server` in a process group of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port = folder, free_port()
        self.uri = f"http://127.0.0.1:{self.port}"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        places = ["--backend-store-uri", f"sqlite:///{self.folder}/mlflow.db"]
        places += ["--artifacts-destination", str(self.folder / "files")]
        command = [sys.executable, "-m", "mlflow", "server", *places, "--workers", "1"]
        environment = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [*command, "--host", "127.0.0.1", "--port", str(self.port)],
                env=environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        for _ in range(600):
            try:
                urllib.request.urlopen(f"{self.uri}/health", timeout=5).close()
                return
            except OSError:
                assert self.process.poll() is None, (self.folder / "log").read_text()
                time.sleep(0.1)
        raise AssertionError((self.folder / "log").read_text())

    def kill(self) -> None:
        if self.process is not None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None
