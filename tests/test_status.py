"""`ablab status` of a sweep that runs, has ended, was interrupted or was killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import sweep_events as made

from ablab import processes
from ablab.cli import main
from ablab.engine.log import EventLog, file_of

PLAN = made.plan(["baseline", "head=half"], (0,), phases=1)
SMOKE, OTHER, TRAIN, EVALUATE, HALF, _ = PLAN.stages.values()
SWEEP = """
import sys, time
from pathlib import Path
import sweep_events as made
from ablab.engine.log import EventLog, file_of
plan = made.plan(["baseline", "head=half"], (0,), phases=1)
train = next(stage for stage in plan.stages.values() if stage.kind == "train")
log = EventLog(file_of(Path("store"), "progressive"), plan, made.forecast(plan))
log("start", train, {})
log("progress", train, made.epoch(12, map50=0.4567))
print("at work", flush=True)
time.sleep(60)
"""


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setattr(sys, "argv", ["ablab", "sweep", "study=progressive", "seeds=[0]"])
    return tmp_path / "store"


def told(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(["status", "store=store", *words]) == 0
    return capsys.readouterr().out


def log_of(store: Path, study: str = "progressive") -> EventLog:
    return EventLog(file_of(store, study), PLAN, made.forecast(PLAN), slots=2)


def test_a_running_sweep(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = log_of(store)
    log("start", SMOKE, {})
    log("done", SMOKE, made.record(SMOKE, 2.0))
    log("start", TRAIN, {})
    log("progress", TRAIN, made.epoch(12, map50=0.4567))
    log("progress", TRAIN, made.step(13, 13))
    log("start", HALF, {})
    log("failed", HALF, {"reason": "OutOfMemoryError: 812 MB asked for"})
    text = told(capsys)
    assert text.startswith("progressive: running, started 2")
    assert f"(process {os.getpid()})" in text
    row = next(line for line in text.splitlines() if line.startswith("▸"))
    assert row.split()[1:4] == ["baseline", "train", "640px"]
    assert "13/40 2.000  45.7   123" in row
    assert "1 done · 1 failed · 1 running · 3 to go" in text
    share = (2 + 120 * 12.5 / 40 + 120) / 256  # what failed is over, too
    assert f"{int(100 * share)} %" in text
    assert " left" in text
    assert "failed: head=half: phase 1/1, 40 epochs at 640 px, seed 0: OutOfMemoryError: 812 MB asked for" in text


def test_a_killed_sweep_says_when_and_how_to_go_on(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", SWEEP],
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"at work\n"
    assert "progressive: running" in told(capsys)
    process.send_signal(signal.SIGKILL)
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert "progressive: died" in told(capsys)  # though its number is not free yet: nobody waited for it
    process.wait()
    with file_of(store, "progressive").open("a") as torn:
        torn.write('{"at": 1790000000.0, "pid"')
    text = told(capsys)
    assert text.startswith("progressive: died; started 2")
    assert "last sign of life 2" in text
    assert "The same command goes on from there:\n  ablab" in text
    assert "12/40" in text


def test_an_ended_sweep(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with log_of(store) as log:
        for stage in PLAN.stages.values():
            log("start", stage, {})
            log("done", stage, made.record(stage, 1.0))
    text = told(capsys)
    assert text.startswith("progressive: finished 2")
    assert "goes on" not in text
    assert "6 done\n" in text
    assert "100 %" in text
    assert " left" not in text


def test_an_interrupted_sweep_says_how_to_go_on(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = log_of(store)
    log("start", TRAIN, {})
    log("stopped", TRAIN, {})
    log.__exit__(KeyboardInterrupt, KeyboardInterrupt(), None)
    text = told(capsys)
    assert text.startswith("progressive: interrupted 2")
    assert "  ablab sweep study=progressive 'seeds=[0]'\n" in text
    assert "0 done · 6 to go" in text


def test_a_sweep_of_another_machine_may_still_run(
    store: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = processes.this() | {"host": "elsewhere"}
    monkeypatch.setattr(processes, "this", lambda: elsewhere)
    log_of(store)("start", TRAIN, {})
    assert told(capsys).startswith("progressive: runs on another machine, if it still does: started 2")


def test_a_process_of_another_boot_or_with_a_number_used_again_is_dead() -> None:
    me = processes.this()
    assert processes.alive(me) is True
    assert processes.alive(me | {"boot": "another"}) is False
    assert processes.alive(me | {"process_start": me["process_start"] + 1}) is False


def test_the_newest_sweep_is_told_of_unless_one_is_named(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number, study in enumerate(("stem", "progressive", "c3")):
        log_of(store, study)("start", TRAIN, {})
        file = file_of(store, study)
        file.write_text(file.read_text().replace('"study": "progressive"', f'"study": "{study}"'))
        os.utime(file, (1_790_000_000 + number, 1_790_000_000 + number))
    os.utime(file_of(store, "stem"), (1_790_000_100, 1_790_000_100))
    assert told(capsys).startswith("stem: running")
    assert told(capsys, "study=c3").startswith("c3: running")
    assert told(capsys, "progressive").startswith("progressive: running")
    assert main(["status", "store=store", "study=c4"]) == 2
    error = capsys.readouterr().err
    assert "study=c4: no sweep of it was ever started" in error
    assert "Did you mean 'c3'?" in error


def test_no_sweep_ever(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", "store=store"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("ablab: no sweep was ever started on the store ")
    assert error.count("\n") == 1
    assert not store.exists()


def test_a_log_without_a_sweep_in_it(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = file_of(store, "progressive")
    file.parent.mkdir(parents=True)
    file.write_text('{"at": 1.0, "event": "swe')
    assert main(["status", "store=store"]) == 2
    assert f"ablab: {file}: no sweep can be read from it" in capsys.readouterr().err


def test_it_imports_neither_torch_nor_mlflow(store: Path) -> None:
    log_of(store)("start", TRAIN, {})
    program = "import sys; from ablab.cli import main; code = main(['status', 'store=store'])\n"
    program += "sys.exit(code or bool({'torch', 'mlflow', 'pandas', 'numpy'} & sys.modules.keys()))"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", program], check=True, env=environment, stdout=subprocess.DEVNULL)
