"""Studies over a program of the user's, through the command line."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from working_folder import Folder

SCRIPT = """
import json, sys
depth, seed, out = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
print("depth", depth)
if depth == 99:
    sys.exit("too deep")
text = json.dumps({"accuracy": depth + seed / 10 if depth < 50 else float("nan"), "more": {"a": 1}})
open(out + "/metrics.json", "w").write(text)
"""
STUDY = """
question: How deep?
command:
  run: python train.py {depth} {seed} {out}
  numbers: metrics.json
  code: [train.py]
base: {depth: 3}
factors:
  depth: {3: {depth: 3}, 8: {depth: 8}}
seeds: [0, 1]
measure: {accuracy: higher}
"""


@pytest.fixture
def mine(folder: Folder) -> Folder:
    folder.write("train.py", SCRIPT)
    folder.write("sweeps/mine.yaml", STUDY)
    return folder


def test_a_sweep_its_table_and_nothing_twice(mine: Folder) -> None:
    plan = mine.run("plan", "mine")
    assert plan.code == 0
    assert "4 stages to run" in plan.out
    assert "smoke" not in plan.out
    result = mine.run("sweep", "mine")
    assert result.code == 0, result.err
    assert "4 stages ran, 0 were in the store" in result.err
    (line,) = [line for line in result.out.splitlines() if line.startswith("|  01")]
    assert [cell.strip() for cell in line.split("|")[1:-1]] == [
        "01",
        "8",
        "8.050 ± 0.635",
        "+5.000 [+5.000, +5.000]",
        "2",
    ]
    assert {p.name for p in (mine.path / ".ablab/store").glob("stages/*/*/*")} == {
        "stage.json",
        "metrics.json",
        "log.txt",
    }
    again = mine.run("sweep", "mine", "seeds=[0,1,2]")
    assert "2 stages ran, 4 were in the store" in again.err
    assert mine.run("report", "mine").out == again.out
    mine.write("train.py", SCRIPT + "print('more')\n")
    assert "4 stages to run" in mine.run("plan", "mine").out


def test_a_variant_that_fails_leaves_the_others(mine: Folder) -> None:
    mine.write("sweeps/mine.yaml", STUDY.replace("8: {depth: 8}", "8: {depth: 99}, 9: {depth: 50}, 10: {depth: 10}"))
    result = mine.run("sweep", "mine")
    assert result.code == 1
    assert "Traceback" not in result.err
    assert "failed: `python train.py 99 ...` ended with exit code 1; its last words: depth 99 / too deep" in result.out
    assert "incomplete: no accuracy" in result.out  # NaN is a result: it is told, and not run again
    assert "10.05" in result.out
    assert "0 stages ran, 6 were in the store" in mine.run("sweep", "mine").err


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["detph=5"], ["unknown key 'detph'", "the command line", "Did you mean 'depth'?"]),
        (["depth=5"], ["depth=5", "the factor 'depth'"]),
        (["stem=focus"], ["unknown key 'stem'", "the command has no {stem}"]),
        (["engine.thread=1"], ["engine.thread", "Did you mean 'engine.threads'?"]),
        (["seed=1"], ["seed=1 would change nothing"]),
        (["store=sweeps/mine.yaml"], ["sweeps/mine.yaml"]),
    ],
)
def test_a_wrong_word(mine: Folder, words: list[str], says: list[str]) -> None:
    mine.refused("sweep", "mine", *words, says=says)


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("  numbers: metrics.json\n", "", ["sweeps/mine.yaml: command: key 'numbers' is missing"]),
        (
            "numbers: metrics",
            "nubmers: metrics",
            ["command: unknown key 'nubmers'", "'numbers'?"],
        ),
        ("[train.py]", "train.py", ["sweeps/mine.yaml: command.code: expected a list of texts", "'train.py'"]),
        ("[train.py]", "[trian.py]", ["sweeps/mine.yaml: command.code", "'trian.py'"]),
        ("{depth} {seed}", "{dept} {seed}", ["sweeps/mine.yaml", "unknown key 'depth'", "Did you mean 'dept'?"]),
        ("run: python", "run: pyton", ["command.run: 'pyton' is no program"]),
        ("command:\n", "command: python train.py\nmore:\n", ["command: expected a group of keys"]),
        ("accuracy: higher", "accuracy: best", ["measure: accuracy", "higher or lower", "'best'"]),
    ],
)
def test_a_wrong_study(mine: Folder, old: str, new: str, says: list[str]) -> None:
    assert old in STUDY
    mine.write("sweeps/mine.yaml", STUDY.replace(old, new))
    mine.refused("sweep", "mine", says=says)
    mine.refused("plan", "mine", says=says)


def test_data_that_changes_under_a_run_is_refused(mine: Folder) -> None:
    mine.write("digits.csv", "1\n")
    mine.write("train.py", SCRIPT + "open('digits.csv', 'a').write('2')\n")
    mine.write("sweeps/mine.yaml", STUDY.replace("  code", "  data: [digits.csv]\n  code").replace("[0, 1]", "[0]"))
    result = mine.run("sweep", "mine")
    assert result.code == 1
    assert "failed: the data changed while the sweep ran (files of digits.csv)" in result.out


def test_a_number_that_is_not_there_is_told_once_a_run(mine: Folder) -> None:
    mine.write("sweeps/mine.yaml", STUDY.replace("accuracy: higher", "acuracy: higher"))
    result = mine.run("sweep", "mine")
    assert result.code == 1
    assert "no number 'acuracy', which `measure` names. Did you mean 'accuracy'?" in result.out
    assert "Traceback" not in result.err


def test_no_torch_and_no_mlflow_where_they_are_not_needed(mine: Folder) -> None:
    ask = (
        "import sys; from ablab.cli import main; code = main(sys.argv[1:]); "
        "print(code, [m for m in ('torch', 'cv2', 'mlflow') if m in sys.modules])"
    )
    for words, heavy in ((["plan", "mine"], "[]"), (["sweep", "mine"], "['mlflow']")):
        done = subprocess.run([sys.executable, "-c", ask, *words], cwd=mine.path, capture_output=True, text=True)
        assert done.stdout.splitlines()[-1] == f"0 {heavy}", done.stderr


RESUMES = """
import os, sys, time
out, work = sys.argv[1:]
done = int(open(work + "/done").read()) if os.path.exists(work + "/done") else 0
print("from", done)
for step in range(done, 3):
    if step == 2 and done == 0:
        time.sleep(600)
    open(work + "/done", "w").write(str(step + 1))
open(out + "/n.csv", "w").write("epoch,a\\n" + "".join(f"{s},{s}\\n" for s in range(1, 4)))
"""


def test_an_interrupted_program_ends_and_goes_on_where_it_was(folder: Folder) -> None:
    folder.write("train.py", RESUMES)
    command = "{run: 'python train.py {out} {work}', numbers: n.csv, code: [train.py]}"
    folder.write("sweeps/mine.yaml", f"question: x\ncommand: {command}\nmeasure: {{a: higher}}\n")
    process = folder.start("sweep", "mine")
    deadline = time.monotonic() + 60
    while not [f for f in folder.path.glob(".ablab/store/work/*/*/program/done") if f.read_text() == "2"]:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "Traceback" not in err
    assert still_running(folder.path) == []
    result = folder.run("sweep", "mine")
    assert result.code == 0, result.err
    (log,) = (folder.path / ".ablab/store").glob("stages/*/*/log.txt")
    assert log.read_text() == "from 2\n"


def still_running(folder: Path) -> list[str]:
    """Processes whose working folder this is."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if os.readlink(process / "cwd") == str(folder) and process.name != str(os.getpid()):
                found.append((process / "cmdline").read_text())
        except OSError:
            continue
    return found


HYDRA = """
import json
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig


@hydra.main(version_base=None, config_path="conf_of_app", config_name="config")
def main(config: DictConfig) -> None:
    out = Path(HydraConfig.get().runtime.output_dir)
    (out / "metrics.json").write_text(json.dumps({"score": config.model.depth * config.rate}))


main()
"""


def test_a_hydra_application_by_its_overrides(folder: Folder) -> None:
    folder.write("app.py", HYDRA)
    folder.write("conf_of_app/config.yaml", "defaults: [{model: small}, _self_]\nrate: 1.0\n")
    for name, depth in (("small", 2), ("large", 5)):
        folder.write(f"conf_of_app/model/{name}.yaml", f"depth: {depth}\n")
    folder.write(
        "sweeps/mine.yaml",
        "question: Which model?\n"
        "command:\n"
        "  run: python app.py model={model} rate={rate} hydra.run.dir={out} hydra.output_subdir=null\n"
        "  numbers: metrics.json\n"
        "  code: [app.py, 'conf_of_app/**/*.yaml']\n"
        "base: {rate: 0.5}\n"
        "factors: {model: {small: {model: small}, large: {model: large}}}\n"
        "measure: {score: higher}\n",
    )
    result = folder.run("sweep", "mine")
    assert result.code == 0, result.err
    scores = [
        json.loads(file.read_text())["numbers"]["values"]["score"]
        for file in (folder.path / ".ablab/store").glob("stages/*/*/stage.json")
    ]
    assert sorted(scores) == [1.0, 2.5]
