"""A training for which memory is short, even alone, goes on in micro-batches where the study allows it, and says so."""

from __future__ import annotations

import json
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
    assert "GB that are free, one image at a time would fit up to about" in told.err


def test_with_leave_the_row_says_in_which_parts(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sweep", "tiny", "engine.split_batch=true", "eval.batch=2"]) == 0
    table = (folder / "reports" / "tiny" / "table.md").read_text()
    assert "in micro-batches of 2 (BatchNorm sees those)" in table
    assert "its batch of 4 goes in parts of 2" in capsys.readouterr().err
    assert main(["sweep", "tiny", "engine.split_batch=true", "eval.batch=2"]) == 0
    assert "0 stages ran" in capsys.readouterr().err  # it is known now, without running out of memory again


def test_a_budget_is_met_by_micro_batches_or_refused_with_a_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from working_folder import SCENES, TINY

    monkeypatch.chdir(tmp_path)
    # In fp32, so that the figures are those of any machine: 1.2 GB without images, and one of 640 px takes 0.1 GB more.
    words = ["train", *TINY, *SCENES, "engine=inline", "engine.precision=fp32"]
    assert main([*words, "schedule.imgsz=640", "optim.memory=1.25"]) == 2
    assert "optim.memory=1.25 GB: one image of 640 px" in (told := capsys.readouterr().err)
    assert "the largest input size that would fit is" in told
    assert not list(tmp_path.glob(".ablab/store/stages/*/*/weights.safetensors"))
    assert main([*words, "schedule.imgsz=320", "optim.memory=1.3"]) == 0
    records = [json.loads(file.read_text()) for file in tmp_path.glob(".ablab/store/stages/*/*/stage.json")]
    (numbers,) = (record["numbers"] for record in records if record["kind"] == "train")
    assert (numbers["batch"], numbers["micro_batch"]) == (4, 2)
