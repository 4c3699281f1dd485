"""One training on two processes: the weights of micro-batches, resumed bits, a rank that dies, a parent that dies."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from safetensors.torch import load_file
from torch import distributed

from ablab.stages import ranks as stage_ranks
from ablab.stages import train
from ablab.training import ranks

KEYS = ("schedule.epochs=2", "optim=sgd", "data.train=12", "eval.every=1")  # three batches of 4


class StoppedError(Exception):
    """What a user's Ctrl-C is to a stage."""


def run(work: Path, size: int, *overrides: str, emit: Any = lambda event: None) -> tuple[dict[str, Any], Any]:
    config = tiny.config(*KEYS, *overrides)
    config["engine"] = tiny.ENGINE | {"ranks": size}
    out = work / "out"
    out.mkdir(parents=True, exist_ok=True)
    numbers = train.run(config, {}, out, work, emit)
    return numbers, load_file(out / "weights.safetensors")


def test_two_ranks_are_micro_batches_of_half_resume_and_stay_alone_afterwards(tmp_path: Path) -> None:
    one, expected = run(tmp_path / "one", 1, "optim.micro_batch=2")
    two, found = run(tmp_path / "two", 2)
    for name, tensor in expected.items():
        if "running" not in name and "num_batches" not in name:  # those are rank 0's
            torch.testing.assert_close(found[name], tensor, rtol=1e-3, atol=1e-4)
    assert [row["loss"] for row in two["curve"]] == pytest.approx([row["loss"] for row in one["curve"]], rel=1e-3)
    assert two["steps"] == one["steps"]
    assert two["curve"][1]["map"] is not None

    def stop(event: dict[str, Any]) -> None:
        if event.get("epochs"):
            raise StoppedError

    with pytest.raises(StoppedError):
        run(tmp_path / "killed", 2, emit=stop)
    assert not distributed.is_initialized()
    resumed, again = run(tmp_path / "killed", 2)
    assert resumed == two
    for name, tensor in found.items():
        assert torch.equal(again[name], tensor), name
    assert not list((tmp_path / "killed").glob("rank*"))


@pytest.mark.parametrize(
    ("number", "error", "says"),
    [(signal.SIGKILL, MemoryError, "was killed"), (signal.SIGTERM, RuntimeError, "code -15")],
)
def test_a_rank_that_dies_ends_the_stage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, error: type[Exception], says: str
) -> None:
    started: list[subprocess.Popen[bytes]] = []
    start = subprocess.Popen

    def remember(*words: Any, **keys: Any) -> subprocess.Popen[bytes]:
        started.append(start(*words, **keys))
        return started[-1]

    monkeypatch.setattr(subprocess, "Popen", remember)
    with pytest.raises(error, match=rf"rank 1 of engine\.ranks=2 .*{says}"):
        run(tmp_path, 2, emit=lambda event: os.kill(started[0].pid, number) if event.get("epochs") else None)
    assert not distributed.is_initialized()
    assert not list(tmp_path.glob("rank*"))


def test_a_mistake_of_a_rank_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONHASHSEED", "none of these")  # so that Python itself refuses to start
    with pytest.raises(RuntimeError, match=r"rank 1 of engine\.ranks=2 ended with exit code 1: .*PYTHONHASHSEED"):
        run(tmp_path, 2)


def test_a_rank_ends_with_the_process_that_started_it(tmp_path: Path) -> None:
    config = tiny.config(*KEYS) | {"engine": tiny.ENGINE | {"ranks": 2}}
    asked = {"rank": 1, "config": config, "inputs": {}, "own": str(tmp_path), "meeting": str(tmp_path / "nobody comes")}
    child = subprocess.run(
        [sys.executable, "-m", "ablab.stages.ranks"],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        input=json.dumps(asked) + "\n",  # and then the pipe is closed
        text=True,
        timeout=60,
    )
    assert child.returncode == stage_ranks.ALONE


@pytest.mark.parametrize(("images", "size"), [(7, 3), (2, 3), (1, 2), (4, 1)])
def test_shares_are_every_image_once_in_order(images: int, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    batch = torch.arange(images).view(images, 1, 1, 1).expand(images, 3, 2, 2)
    targets = torch.arange(images).repeat_interleave(2).float()[:, None].expand(-1, 6).clone()
    targets[:, 1] = targets[:, 0]  # the class says which image it is of
    monkeypatch.setattr(ranks, "size", lambda: size)
    seen, classes = [], []
    for rank in range(size):
        monkeypatch.setattr(distributed, "get_rank", lambda rank=rank: rank)
        mine, rows, counts = ranks.share(batch, targets)
        assert len(mine) >= 1
        assert rows[:, 0].tolist() == [place for place in range(len(mine)) for _ in range(2)]
        if counts:
            seen += mine[:, 0, 0, 0].tolist()
            classes += rows[::2, 1].tolist()
    assert seen == classes == list(range(images))
