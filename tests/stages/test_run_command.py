"""Programs that know nothing of ablab, run as a stage: what they are told, what is kept, how they end."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ablab.errors import UserError
from ablab.stages import command
from ablab.stages.placeholders import fill, placeholders, plain
from ablab.study.fingerprint import file_digest


class Stage:
    """One command stage in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.out, self.work = folder / "work" / "out", folder / "work"
        self.told: list[dict[str, Any]] = []
        self.emit: Callable[[dict[str, Any]], None] = self.told.append

    def run(self, *words: str, numbers: str = "n.json", **more: Any) -> dict[str, Any]:
        self.out.mkdir(parents=True, exist_ok=True)
        asked = {"run": list(words), "numbers": numbers, "keep": [], "measure": [], "code": {}} | more
        return command.run({"command": asked, "engine": {"threads": 3}}, {}, self.out, self.work, self._tell)

    def _tell(self, event: dict[str, Any]) -> None:
        if event:  # an empty one only asks whether to stop
            self.emit(event)

    def python(self, text: str, *words: str, **more: Any) -> dict[str, Any]:
        return self.run("python", "-c", textwrap.dedent(text).replace("{", "{{").replace("}", "}}"), *words, **more)


@pytest.fixture
def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stage:
    monkeypatch.chdir(tmp_path)
    return Stage(tmp_path)


ECHO = """
import json, os, sys
told = {"words": sys.argv[2:], "folder": os.getcwd(), "python": sys.executable, "out": os.listdir(sys.argv[1])}
told |= {"threads": os.environ["OMP_NUM_THREADS"], "input": sys.stdin.read()}
open(sys.argv[1] + "/n.json", "w").write(json.dumps({"a": 1}))
open(sys.argv[1] + "/told.json", "w").write(json.dumps(told))
"""


def test_words_arrive_as_they_are_without_a_shell(stage: Stage, tmp_path: Path) -> None:
    odd = ["two words", "$HOME `id` ; rm *", "{braces}", "", "ü'\""]
    words = fill(["{a}", "{b}", "{c}", "{d}", "{e}"], dict(zip("abcde", odd, strict=True)))
    stage.python(ECHO, "{out}", *words, "--to={work}/x", keep=["told.json"])
    told = json.loads((stage.out / "told.json").read_text())
    assert told["words"] == [*odd, f"--to={tmp_path}/work/program/x"]
    assert told["folder"] == str(tmp_path)
    assert Path(told["python"]).parent == Path(sys.executable).parent
    assert (told["threads"], told["input"], told["out"]) == ("3", "", [])


def test_placeholders_are_filled_word_by_word_and_values_never_again() -> None:
    assert placeholders(["--a={a.b}", "{out}/{{x}}", "{a.b}"]) == ["a.b", "out"]
    words = fill(["--a={a}", "{out}/{{x}}"], {"a": "{out}"})
    assert plain(fill(words, {"out": "/o"})) == ["--a={out}", "/o/{x}"]
    assert fill(["{a}"] * 1, {"a": [1, True, None]}) == ["[1,true,null]"]
    assert [fill(["{a}"], {"a": v})[0] for v in (1e-05, True, None, 3)] == ["1e-05", "true", "null", "3"]


@pytest.mark.parametrize("word", ["{", "}", "{}", "{a!r}", "{a:.2f}", "{a[0]}"])
def test_braces_that_name_nothing_are_refused(word: str) -> None:
    with pytest.raises(ValueError, match=r"expected|[Ss]ingle"):
        placeholders([word])


WRITE = "import sys; open(sys.argv[1], 'w').write(sys.argv[2])"


@pytest.mark.parametrize(
    ("name", "text", "values", "curve", "diverged"),
    [
        ("n.json", '{"a": 1, "b": {"c": 0.5, "d": {"e": 2}}}', {"a": 1, "b.c": 0.5, "b.d.e": 2}, [], False),
        ("n.json", '{"a": NaN, "t": "text", "l": [1], "y": true, "n": null}', {"a": None}, [], True),
        ("n.json", '{"a": 1, "b": Infinity}', {"a": 1, "b": None}, [], False),
        ("n.csv", "x, a\n1,2\n3,0.5\n", {"x": 3, "a": 0.5}, [], False),
        (
            "n.csv",
            "epoch,a,b\n1,2,\n2,nan,7\n3,0.5,8\n",
            {"a": 0.5, "b": 8},
            [{"epoch": 1, "a": 2}, {"epoch": 2, "a": None, "b": 7}, {"epoch": 3, "a": 0.5, "b": 8}],
            False,
        ),
        ("n.csv", "step,a\n10,1\n20,inf\n", {"a": None}, [{"step": 10, "a": 1}, {"step": 20, "a": None}], True),
    ],
)
def test_numbers(stage: Stage, name: str, text: str, values: dict, curve: list, diverged: bool) -> None:
    found = stage.python(
        WRITE, "{out}/" + name, text.replace("{", "{{").replace("}", "}}"), numbers=name, measure=["a"]
    )
    assert found == {"values": values, "curve": curve, "diverged": diverged}
    json.dumps(found, allow_nan=False)


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("other.json", "{}", ["n.json", "wrote no such file", "it wrote other.json"]),
        ("n.json", "{", ["n.json: not valid JSON"]),
        ("n.json", "[1]", ["n.json: expected a JSON object", "[1]"]),
        ("n.json", '{"accurcy": 1}', ["n.json", "no number 'accuracy'", "Did you mean 'accurcy'?"]),
        ("n.json", '{"accuracy": "high"}', ["n.json", "no number 'accuracy'"]),
        ("n.csv", "accuracy\n", ["n.csv: expected a row of names and rows of numbers, found 1"]),
        ("n.csv", "epoch,accuracy\n1,2\n1\n", ["n.csv: row 3 has 1 cells", "names 2"]),
        ("n.csv", "epoch,accuracy\nx,2\n", ["n.csv: row 2: epoch", "'x'"]),
        ("n.csv", "epoch,accuracy\n1,2\n2,\n", ["n.csv", "no number 'accuracy'"]),
    ],
)
def test_a_wrong_file_of_numbers_is_told(stage: Stage, name: str, text: str, says: list[str]) -> None:
    with pytest.raises(UserError) as told:
        stage.python(
            WRITE,
            "{out}/" + name,
            text.replace("{", "{{").replace("}", "}}"),
            numbers="n.csv" if name.endswith("csv") else "n.json",
            measure=["accuracy"],
        )
    for word in says:
        assert word in str(told.value)


def test_what_is_kept(stage: Stage) -> None:
    text = """
    import os, sys
    os.makedirs(sys.argv[1] + "/deep/er")
    for name in ("n.json", "a.model", "b.model", "junk", "deep/er/c.model", "deep/junk"):
        open(f"{sys.argv[1]}/{name}", "w").write("{}")
    print("hello")
    print("and", file=sys.stderr)
    """
    stage.python(text, "{out}", keep=["*.model", "deep/**/*.model", "*.none"])
    kept = {str(p.relative_to(stage.out)) for p in stage.out.rglob("*") if p.is_file()}
    assert kept == {"n.json", "log.txt", "a.model", "b.model", "deep__er__c.model"}
    assert (stage.out / "log.txt").read_text() == "hello\nand\n"
    assert any("no file matches '*.none'" in event.get("message", "") for event in stage.told)


def test_a_failure_says_the_last_words(stage: Stage) -> None:
    text = "print(*range(100), sep='\\n', flush=True)\nraise SystemExit('it broke')"
    with pytest.raises(UserError) as told:
        stage.python(text, "a", "b")
    assert "`python -c" in str(told.value)
    assert "ended with exit code 1; its last words: 96 / 97 / 98 / 99 / it broke" in str(told.value)
    with pytest.raises(UserError, match="exit code 3; it printed nothing"):
        stage.python("raise SystemExit(3)")
    with pytest.raises(UserError, match="was ended by SIGSEGV"):
        stage.python("import os; os.kill(os.getpid(), 11)")


def test_what_the_system_kills_ran_out_of_memory(stage: Stage) -> None:
    with pytest.raises(MemoryError, match="for want of memory; its last words: eating"):
        stage.python("import os; print('eating', flush=True); os.kill(os.getpid(), 9)")


def test_no_such_program(stage: Stage) -> None:
    with pytest.raises(UserError, match="'no-such-thing' cannot be started: No such file"):
        stage.run("no-such-thing")


def test_progress_is_the_last_line_and_every_epoch(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "EVERY", 0.01)
    text = """
    import json, sys, time
    for epoch in (1, 2):
        print("noise")
        print(json.dumps({"epoch": epoch, "epochs": 2, "loss": 1 / epoch}))
    print('{"epoch": "x"}')
    print("10%", end="\\r"); print("20%", end="\\r")
    open(sys.argv[1] + "/n.json", "w").write("{}")
    """
    stage.python(text, "{out}")
    epochs = [event for event in stage.told if "epoch" in event]
    assert [(e["epoch"], e["epochs"], e["loss"]) for e in epochs] == [(1, 2, 1.0), (2, 2, 0.5)]
    assert epochs[1]["message"] == "epoch 2/2, loss 0.5"
    assert abs(epochs[0]["at"] - time.time()) < 60
    assert stage.told[-1] == {"message": "20%"}


def test_work_survives_a_failure(stage: Stage) -> None:
    text = """
    import os, sys
    mark = sys.argv[2] + "/mark"
    if not os.path.exists(mark):
        open(mark, "w")
        raise SystemExit("first")
    open(sys.argv[1] + "/n.json", "w").write('{"a": 1}')
    """
    with pytest.raises(UserError, match="first"):
        stage.python(text, "{out}", "{work}")
    assert stage.python(text, "{out}", "{work}")["values"] == {"a": 1}


def test_code_that_changed_is_refused_before_and_after(stage: Stage, tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text("import sys\nopen(sys.argv[1] + '/n.json', 'w').write('{}')\n")
    code = {"train.py": file_digest(script)}
    stage.run("python", "train.py", "{out}", code=code)
    script.write_text(script.read_text() + "# a comment does not count\n")
    stage.run("python", "train.py", "{out}", code=code)
    itself = script.read_text() + "open(__file__, 'a').write('x = 1')\n"
    script.write_text(itself)
    with pytest.raises(UserError, match=r"train\.py changed while the sweep ran"):
        stage.run("python", "train.py", "{out}", code=code)
    assert script.read_text() == itself  # it did not run
    with pytest.raises(UserError, match=r"train\.py changed"):
        stage.run("python", "train.py", "{out}", code={"train.py": file_digest(script)})
    assert script.read_text() != itself


# ------------------------------------------------------------------------------------------------ how it ends

SLEEPERS = """
import os, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print(f"started {os.getpid()} {child.pid}", flush=True)
time.sleep(600)
"""


def alive(pid: int) -> bool:
    """Whether a process still runs; one that nobody has buried does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def gone(pids: list[int], within: float = 30) -> bool:
    deadline = time.monotonic() + within
    while any(map(alive, pids)) and time.monotonic() < deadline:
        time.sleep(0.01)
    return not any(map(alive, pids))


def pids_of(message: str) -> list[int]:
    return [int(word) for word in message.split()[1:]]


def test_an_interrupt_ends_the_program_and_its_children(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "EVERY", 0.01)
    pids: list[int] = []

    def interrupt(event: dict[str, Any]) -> None:
        pids.extend(pids_of(event["message"]))
        assert all(map(alive, pids))
        raise KeyboardInterrupt

    stage.emit = interrupt
    with pytest.raises(KeyboardInterrupt):
        stage.python(SLEEPERS)
    assert len(pids) == 2
    assert gone(pids)


def test_one_that_will_not_end_is_ended_and_a_second_interrupt_does_not_wait(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "EVERY", 0.01)
    monkeypatch.setattr(subprocess.Popen, "wait", second_interrupt())
    pids: list[int] = []

    def interrupt(event: dict[str, Any]) -> None:
        pids.extend(pids_of(event["message"]))
        raise KeyboardInterrupt

    stage.emit = interrupt
    with pytest.raises(KeyboardInterrupt):
        stage.python("import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n" + SLEEPERS)
    assert gone(pids)


def second_interrupt() -> Callable[..., int]:
    """Popen.wait that is interrupted where the pause after the first interrupt is waited for."""
    wait = subprocess.Popen.wait

    def waiting(self: subprocess.Popen, timeout: float | None = None) -> int:
        if timeout is not None and timeout > 1:
            raise KeyboardInterrupt
        return wait(self, timeout)

    return waiting


def test_what_the_program_leaves_running_ends_with_it(stage: Stage) -> None:
    text = """
    import subprocess, sys
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    print("left", child.pid)
    open(sys.argv[1] + "/n.json", "w").write("{}")
    """
    stage.python(text, "{out}")
    assert gone(pids_of(stage.told[-1]["message"]))


ORPHAN = """
import sys
from pathlib import Path
from ablab.stages import command, process
command.EVERY = 0.01
process.GUARD = process.GUARD.replace("sleep 5", "sleep 1")
out = Path("work/out")
out.mkdir(parents=True)
asked = {"run": ["python", "-c", sys.argv[1]], "numbers": "n.json", "keep": [], "measure": [], "code": {}}
tell = lambda event: event and print(event["message"], flush=True)
command.run({"command": asked, "engine": {"threads": 1}}, {}, out, Path("work"), tell)
"""


def test_a_stage_whose_process_is_killed_leaves_no_orphan(stage: Stage, tmp_path: Path) -> None:
    text = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n" + SLEEPERS
    words = [sys.executable, "-c", ORPHAN, text.replace("{", "{{").replace("}", "}}")]
    holder = subprocess.Popen(words, stdout=subprocess.PIPE, text=True, cwd=tmp_path)
    assert holder.stdout
    pids = pids_of(holder.stdout.readline())
    assert len(pids) == 2
    with (tmp_path / ".guard").open() as lock:
        with pytest.raises(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.kill(holder.pid, signal.SIGKILL)
        holder.communicate()
        fcntl.flock(lock, fcntl.LOCK_EX)  # a successor waits until they are gone
        assert gone(pids, within=1)


def test_a_stage_may_run_in_any_thread(stage: Stage) -> None:
    found: list[dict[str, Any]] = []
    text = "import sys; open(sys.argv[1] + '/n.json', 'w').write('{\"a\": 1}')"
    thread = threading.Thread(target=lambda: found.append(stage.python(text, "{out}")))
    thread.start()
    thread.join()
    assert found[0]["values"] == {"a": 1}
