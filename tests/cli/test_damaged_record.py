"""A record that cannot be read is put aside and its stage runs again, whatever else of the study is still to run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ablab.cli import main


def test_a_damaged_record_is_put_aside_in_a_sweep_that_has_more_to_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from working_folder import STUDY

    monkeypatch.chdir(tmp_path)
    (tmp_path / "sweeps").mkdir()
    (tmp_path / "sweeps" / "tiny.yaml").write_text(STUDY)
    assert main(["sweep", "tiny"]) == 0
    records = (tmp_path / ".ablab/store/stages").glob("*/*/stage.json")
    damaged = next(file for file in records if json.loads(file.read_text())["kind"] == "profile")
    damaged.write_text("{")
    capsys.readouterr()
    assert main(["sweep", "tiny", "eval.conf=0.002"]) == 0
    assert capsys.readouterr().err.count("It is put aside in") == 1
    assert json.loads(damaged.read_text())["kind"] == "profile"
