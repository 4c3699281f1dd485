"""What only a process of its own shows: an interrupt, what is imported, what is printed and returned."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from working_folder import SCENES, TINY, Folder

ASK = """
import contextlib, io, json, sys
from ablab.cli import main
told = []
for words in json.loads(sys.argv[1]):
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
        code = main(words)
    heavy = [name for name in ("torch", "mlflow", "cv2", "sklearn", "matplotlib", "pandas") if name in sys.modules]
    told.append([code, out.getvalue(), err.getvalue(), heavy])
print(json.dumps(told))
"""


def test_what_only_tells_is_light_and_returns_0(bare: Folder) -> None:
    """In one process, so that nothing an earlier command imported can hide a later one's."""
    commands = [
        [],
        ["--help"],
        ["-h"],
        ["sweep", "--help"],
        ["plan", "study=tiny"],
        ["plan", "tiny", "seeds=[0,1]"],
        ["config", "model=v5lite_s"],
        ["swep"],
        ["sweep", "study=tinny"],
        ["train", "model.widht=1"],
    ]
    done = subprocess.run(
        [sys.executable, "-c", ASK, json.dumps(commands)], cwd=bare.path, capture_output=True, text=True, check=True
    )
    told = json.loads(done.stdout)
    assert [code for code, *_ in told] == [0] * 7 + [2] * 3
    for words, (code, out, err, heavy) in zip(commands, told, strict=True):
        assert heavy == [], words
        assert bool(out) == (code == 0), words
        assert bool(err) == (code == 2), words
    help_text = told[1][1]
    for word in ("sweep", "profile", "tiny", "quickstart", "stem", "130 interrupted"):
        assert word in help_text
    assert "9 stages to run" in told[4][1]
    assert "model.width: 0.5" in told[6][1]
    assert not (bare.path / ".ablab/store/stages").exists()


def test_a_mistake_in_a_process(bare: Folder) -> None:
    process = bare.start("plan", "study=tinny")
    out, err = process.communicate()
    assert (process.returncode, out) == (2, "")
    assert err.startswith("ablab: study=tinny")
    assert len(err.splitlines()) == 1


def test_an_interrupt_keeps_what_is_finished_and_the_same_command_goes_on(folder: Folder) -> None:
    words = ["sweep", "tiny", "schedule.epochs=12"]
    process = folder.start(*words)
    deadline = time.monotonic() + 120
    while not (folder.trainings() == 1 and list(folder.path.glob(".ablab/store/work/*/*/checkpoint.pt"))):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "ablab: interrupted. What was finished is kept" in err
    assert "Traceback" not in err

    kept = folder.published()
    assert len(kept) >= 6  # data, two smokes, two profiles and a training, at least
    again = folder.run(*words)
    assert again.code == 0, again.err
    assert kept.items() <= folder.published().items()
    assert f"{9 - len(kept)} stages ran, {len(kept)} were in the store" in again.err
    assert folder.trainings() == 2


def test_a_closed_pipe_is_no_error(bare: Folder) -> None:
    line = f"{sys.executable} -m ablab.cli config | head -1"
    done = subprocess.run(["bash", "-o", "pipefail", "-c", line], cwd=bare.path, capture_output=True, text=True)
    assert done.returncode == 0
    assert done.stdout.startswith("# augment=")
    assert done.stderr == ""


def test_a_multirun_trains_every_combination(folder: Folder) -> None:
    result = folder.run("train", "-m", "stem=focus,conv3x3", *TINY, *SCENES)
    assert result.code == 0, result.err
    assert folder.trainings() == 2
    assert result.out.count("mAP50") == 2
    assert not list(folder.path.glob("**/.hydra"))


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["stem=focus,focsu"], ["stem=focsu", "Did you mean 'focus'?"]),
        (["stem=focus,conv3x3", "modl.width=1"], ["modl.width", "Did you mean 'model.width'?"]),
        (["optim.batch=4,many"], ["optim.batch", "a whole number", "'many'"]),
        (["stem=focus,conv3x3", "width"], ["'width' is not an override"]),
    ],
)
def test_a_wrong_choice_in_a_multirun_refuses_all_of_it(folder: Folder, words: list[str], says: list[str]) -> None:
    folder.refused("train", "-m", *words, *SCENES, says=says)


def test_a_job_of_a_multirun_that_is_refused_leaves_the_others(folder: Folder) -> None:
    result = folder.run("train", "--multirun", "schedule.imgsz=100,64", *[w for w in TINY if "imgsz" not in w], *SCENES)
    assert result.code == 2
    assert "imgsz=100: not a multiple of 32" in result.message
    assert "Traceback" not in result.err + result.out
    assert folder.trainings() == 1


def test_a_working_folder_of_ones_own_in_a_multirun(bare: Folder) -> None:
    folder = Folder(bare.path / "it's [mine] (b), c")
    stem = (Path(__file__).parents[2] / "conf/stem/focus.yaml").read_text()
    folder.write("conf/stem/mine.yaml", stem)
    result = folder.run("train", "-m", "stem=mine", *TINY, *SCENES)
    assert result.code == 0, result.err
    assert folder.trainings() == 1


def test_a_multirun_of_profile_is_one_table(bare: Folder) -> None:
    words = ["head_prune.ratio=0.0,0.5", "stem=glob(conv6*)", "model=v5lite_s", "eval.resolutions=[64]"]
    result = bare.run("profile", "-m", *words)
    assert result.code == 0, result.err
    rows = [line.split("|")[1].strip() for line in result.out.splitlines()[2:] if line.startswith("|")]
    assert rows == [f"head_prune.ratio={ratio} stem=conv6x6" for ratio in (0.0, 0.5) for _ in range(2)]
    words = ["model=glob(yolox*)", "head.radius=2.0,1.5", "start.rates.backbone=0.1,0.2", "eval.resolutions=[64]"]
    result = bare.run("profile", "-m", *words)  # keys of parts that the sweep chooses, and of open groups
    assert result.out.count("fused |") == 2 * 4, result.err
    bare.refused("profile", "-m", "model=glob(yolo*)", "head.radius=2.0", says=["unknown key 'head.radius'"])
    bare.refused("profile", "-m", "stem=glob(zz*)", says=["stem=glob(zz*): none of builtin, conv3x3"])


def test_a_plan_in_one_process_is_one_after_another(bare: Folder) -> None:
    assert "stages to run, one after another" in bare.run("plan", "tiny").out
