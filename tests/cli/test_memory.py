"""A training for which memory is short, even alone, goes on in micro-batches where the study allows it, and says so."""

from __future__ import annotations

from pathlib import Path

import pytest

from ablab.cli import main

# As torch says it, for more than two images at a time.
PART = """
from ablab.models.stems.conv import ConvStem


class Greedy(ConvStem):
    def forward(self, image):
        if len(image) > 2:
            raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to")
        return super().forward(image)
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    from working_folder import STUDY

    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "greedy.py").write_text(PART)
    (tmp_path / "sweeps").mkdir()
    (tmp_path / "sweeps" / "tiny.yaml").write_text(STUDY.replace("conv: {stem: conv3x3}", "greedy: {stem: greedy}"))
    (tmp_path / "conf" / "stem").mkdir(parents=True)
    shipped = Path(__file__).parents[2] / "conf" / "stem" / "conv3x3.yaml"
    content = shipped.read_text().replace("ablab.models.stems.conv.ConvStem", "greedy.Greedy")
    assert "greedy" in content
    (tmp_path / "conf" / "stem" / "greedy.yaml").write_text(content)
    return tmp_path


def test_without_leave_it_is_a_failed_variant(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sweep", "tiny"]) == 1
    told = capsys.readouterr()
    assert "once more, alone" in told.err
    assert "out of memory" in told.out


def test_with_leave_the_row_says_in_which_parts(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sweep", "tiny", "engine.split_batch=true", "eval.batch=2"]) == 0
    table = (folder / "reports" / "tiny" / "table.md").read_text()
    assert "in micro-batches of 2 (BatchNorm sees those)" in table
    assert "its batch of 4 goes in parts of 2" in capsys.readouterr().err
    assert main(["sweep", "tiny", "engine.split_batch=true", "eval.batch=2"]) == 0
    assert "0 stages ran" in capsys.readouterr().err  # it is known now, without running out of memory again
