"""Whether a report that was rendered before is still what rendering would write: same record, same code, same files.

A report is a pure function of the record, so a finished study that is swept again need not be drawn again: reading a
thousand runs back and drawing them takes a minute. Nothing here imports pandas or matplotlib.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ablab.store import checksum
from ablab.study.fingerprint import code, versions

KEPT = ".rendered.json"
LIBRARIES = ("pandas", "numpy", "scipy", "matplotlib")  # that compute or draw it


def is_kept(folder: Path, record: str) -> bool:
    """Whether `folder` holds the report of a record (its digest), as it was written by this code."""
    try:
        known = json.loads((folder / KEPT).read_text())
    except (OSError, ValueError):
        return False
    return bool(known == _facts(folder, record)) and (folder / "table.md").is_file()


def keep(folder: Path, record: str) -> None:
    """Remember that `folder` was just rendered from a record (its digest)."""
    (folder / KEPT).write_text(json.dumps(_facts(folder, record), indent=1))


def _facts(folder: Path, record: str) -> dict[str, Any]:
    files = sorted(file for file in folder.rglob("*") if file.is_file() and file.name != KEPT)
    return {
        "record": record,
        "code": code(["ablab.report.render"]),
        "versions": versions(LIBRARIES),
        "files": {str(file.relative_to(folder)): checksum(file) for file in files},
    }
