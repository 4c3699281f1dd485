"""A part that crashes where its network is first used: its variant fails, the others go on."""

from __future__ import annotations

from pathlib import Path

import pytest

from ablab.cli import main

PART = """
from ablab.models.stems.conv import ConvStem


class Broken(ConvStem):
    def forward(self, image):
        raise ZeroDivisionError("by nothing")
"""


def test_a_part_that_crashes_fails_its_variant_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from working_folder import STUDY

    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "crashing_part.py").write_text(PART)
    (tmp_path / "sweeps").mkdir()
    (tmp_path / "sweeps" / "tiny.yaml").write_text(STUDY.replace("conv: {stem: conv3x3}", "broken: {stem: broken}"))
    (tmp_path / "conf" / "stem").mkdir(parents=True)
    shipped = (Path(__file__).parents[2] / "conf" / "stem" / "conv3x3.yaml").read_text()
    content = shipped.replace("ablab.models.stems.conv.ConvStem", "crashing_part.Broken")
    (tmp_path / "conf" / "stem" / "broken.yaml").write_text(content)

    assert main(["sweep", "tiny"]) == 1
    table = capsys.readouterr().out
    assert "ZeroDivisionError: by nothing" in table
    trained = list((tmp_path / ".ablab/store/stages").glob("*/*/weights.safetensors"))
    assert len(trained) == 1  # the baseline's
