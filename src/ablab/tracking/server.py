"""MLflow's own pages."""

from __future__ import annotations

import os
import socket
import sys
from urllib.parse import urlsplit

from ablab.errors import UserError
from ablab.tracking.connect import artifact_location, connect, shown


def ui(uri: str, port: int) -> None:
    """Become MLflow's server on 127.0.0.1:`port` until Ctrl-C; the process is replaced, so this does not return.

    Raises UserError where the port is taken or nothing is recorded.
    """
    if urlsplit(uri).scheme in ("http", "https"):
        raise UserError(f"tracking.uri={shown(uri)} is a server already: open it in a browser")
    connect(uri, create=False)
    if not _free(port):
        other = next((p for p in range(port + 1, 65536) if _free(p)), None)
        raise UserError(f"port={port} is taken on 127.0.0.1" + (f"; port={other} is free" if other else ""))
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", uri, "--workers", "1"]
    command += ["--host", "127.0.0.1", "--port", str(port)]
    if place := artifact_location(uri):
        command += ["--artifacts-destination", place]
    print(f"MLflow: http://127.0.0.1:{port} (Ctrl-C ends it)", flush=True)
    # Its background jobs serve language models: nothing here needs their processes.
    os.execve(sys.executable, command, os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"})


def _free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except (OSError, OverflowError):
            return False
    return True
