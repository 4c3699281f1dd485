"""A working folder with a small study, a part of the user's own, and a store in memory."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import studies

from ablab.study import fingerprint


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "conf" / "stem").mkdir(parents=True)
    (tmp_path / "conf" / "stem" / "mine.yaml").write_text("_target_: my_parts.Mine\nchannels: 8\n")
    (tmp_path / "helper.py").write_text("scale = 1\n")
    (tmp_path / "my_parts.py").write_text(studies.PART)
    fingerprint._code.cache_clear()
    studies.write(studies.SMALL.replace("{stem: conv3x3}", "{stem: mine}"))
    return tmp_path


@pytest.fixture
def edit(folder: Path) -> Callable[[str, str], None]:
    """Change a module of the user's, as a new process would see it."""

    def edit(module: str, text: str) -> None:
        (folder / f"{module}.py").write_text(text)
        fingerprint._code.cache_clear()

    return edit


@pytest.fixture
def store(tmp_path_factory: pytest.TempPathFactory) -> studies.MemoryStore:
    return studies.MemoryStore(tmp_path_factory.mktemp("store"))
