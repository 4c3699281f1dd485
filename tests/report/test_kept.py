"""A report is drawn again unless record, code and files are those it was drawn from."""

from __future__ import annotations

from pathlib import Path

import pytest

from ablab.report import kept


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "figures").mkdir()
    (tmp_path / "table.md").write_text("| a |\n")
    (tmp_path / "figures" / "curves.png").write_bytes(b"png")
    kept.keep(tmp_path, "one")
    return tmp_path


def test_the_same_record_and_files_are_kept(folder: Path) -> None:
    assert kept.is_kept(folder, "one")


def test_another_record_is_not(folder: Path) -> None:
    assert not kept.is_kept(folder, "two")


@pytest.mark.parametrize("change", ["edited", "gone", "more", "forgotten", "half"])
def test_other_files_are_not(folder: Path, change: str) -> None:
    if change == "edited":
        (folder / "figures" / "curves.png").write_bytes(b"gnp")
    elif change == "gone":
        (folder / "table.md").unlink()
    elif change == "more":
        (folder / "table.tex").write_text("")
    elif change == "forgotten":
        (folder / kept.KEPT).unlink()
    else:
        (folder / kept.KEPT).write_text('{"record": "one"')
    assert not kept.is_kept(folder, "one")


def test_a_folder_without_a_table_is_no_report(tmp_path: Path) -> None:
    kept.keep(tmp_path, "one")
    assert not kept.is_kept(tmp_path, "one")


def test_other_code_or_libraries_are_not(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(kept, "code", lambda modules: "another")
        assert not kept.is_kept(folder, "one")
    monkeypatch.setattr(kept, "versions", lambda names: {"matplotlib": "0"})
    assert not kept.is_kept(folder, "one")
