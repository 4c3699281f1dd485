"""The `command` of a study file: which program, where its numbers are, which files count.

    command:
      run: python train.py --depth {depth} --seed {seed} --out {out}
      numbers: metrics.json
      code: [train.py]
      keep: ["*.joblib"]
      data: [digits.csv]

A variant of such a study is its placeholders' values: `base`, then its levels' overrides. No detector enters it.
"""

from __future__ import annotations

import glob
import math
import os
import shlex
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ablab.config import Override, compose, flatten
from ablab.errors import UserError, nearest
from ablab.stages.command import search_path
from ablab.stages.numbers import FORMATS
from ablab.stages.placeholders import fill, placeholders
from ablab.study.fingerprint import file_digest, imported_by, installed

KEYS = {"run": (str, list), "numbers": (str,), "code": (list,), "keep": (list,), "data": (list,)}
REQUIRED = ("run", "numbers", "code")
FILLED_IN = ("seed", "out", "work", "threads")  # placeholders that ablab gives a value
SHARED = ("engine", "store", "tracking", "reports")  # groups and keys that such a study takes from conf/
QUOTED = set(" \t\n'\"\\$`|&;<>()*?[]#~!")
BETTER = ("higher", "lower")
# What a report's columns are called besides the measured numbers.
COLUMNS = {"id", "index", "variant", "levels", "seed", "n", "status", "reason"}
COLUMNS |= {"model", "imgsz", "training", "evaluation", "versions", "fingerprints"}


@dataclass(frozen=True)
class Command:
    """A program and what of it counts.

    run: its words, with placeholders. numbers: the file of {out} that holds its numbers. code: patterns of files in
    the working folder whose content counts. keep: patterns of files of {out} that are kept. data: files and folders
    whose content counts.
    """

    run: tuple[str, ...]
    numbers: str
    code: tuple[str, ...]
    keep: tuple[str, ...] = ()
    data: tuple[str, ...] = ()


def read(content: dict[str, Any], seeds: int, source: str) -> Command:
    """The `command` of a study file that asks for so many seeds. Raises UserError that names file and key."""
    where = f"{source}: command"
    for key, value in content.items():
        if key not in KEYS:
            raise UserError(f"{where}: unknown key '{key}'. {nearest(key, KEYS)}")
        if not isinstance(value, KEYS[key]) or (isinstance(value, list) and not all(_is_word(v) for v in value)):
            expected = "text" if key == "numbers" else "a list of texts"
            raise UserError(f"{where}.{key}: expected {'text or ' if key == 'run' else ''}{expected}, found {value!r}")
    for key in REQUIRED:
        if key not in content:
            none = "; `code: []` if no file counts" if key == "code" else ""
            raise UserError(f"{where}: key '{key}' is missing; expected {', '.join(REQUIRED)}{none}")
    run = _words(content["run"], f"{where}.run")
    named = placeholders(run)
    if "out" not in named:
        raise UserError(f"{where}.run: it has no {{out}}, the folder that the program is to write its numbers into")
    if seeds > 1 and "seed" not in named:
        raise UserError(f"{where}.run: it has no {{seed}}, so the study's {seeds} seeds would be one run {seeds} times")
    numbers = content["numbers"].removeprefix("{out}/")
    if Path(numbers).suffix not in FORMATS:
        raise UserError(f"{where}.numbers: expected a file that ends with .json or .csv, found '{numbers}'")
    for key, inside in (("numbers", [numbers]), ("keep", content.get("keep", []))):
        for name in inside:
            if not name or Path(name).is_absolute() or ".." in Path(name).parts or "{" in name:
                raise UserError(f"{where}.{key}: expected what lies in {{out}}, named from there, found '{name}'")
    lists = {key: tuple(content.get(key, ())) for key in ("code", "keep", "data")}
    return Command(run, numbers, **lists)


def measured(content: dict[str, Any], factors: Iterable[str], source: str) -> dict[str, str]:
    """The `measure` of a study over a command: number -> "higher" or "lower". Raises UserError."""
    where = f"{source}: measure"
    found = flatten({str(key): value for key, value in content.items()})
    if not found:
        raise UserError(f"{where}: name a number that the program writes and which way is better: {{accuracy: higher}}")
    for name, better in found.items():
        if better not in BETTER:
            raise UserError(f"{where}: {name}: which way is better? Expected {' or '.join(BETTER)}, found {better!r}")
        if name in (*COLUMNS, *factors):
            raise UserError(f"{where}: '{name}' is another column's name already (of a factor, or ablab's own)")
        if not name.isascii() or not all(c.isalnum() or c in "_-./ " for c in name) or len(name) > 200:
            raise UserError(f"{where}: '{name}': expected letters, digits, spaces and _ - . / (MLflow's names)")
    return found


def configure(
    command: Command, overrides: Iterable[Override], source: str, known: dict[str, dict[str, Any]]
) -> dict[str, Any]:
    """A variant's configuration: arguments (placeholder -> value), command, and the shared groups as composed.

    known: shared groups that were composed already, by what was asked of them; composing takes milliseconds.

    Raises UserError for a key that the program does not take, and a placeholder without a value.
    """
    named = [name for name in placeholders(command.run) if name not in FILLED_IN]
    shared = []
    arguments: dict[str, Any] = {}
    for override in overrides:
        if override.key.partition(".")[0] in SHARED and override.key not in named:
            shared.append(override)
            continue
        for key, value in flatten({override.key: override.value}).items():
            _check_argument(key, value, named, override.source)
            arguments[key] = value
    for name in named:
        if name not in arguments:
            raise UserError(f"{source}: command.run: {{{name}}} has no value: give it one under `base`")
    asked = repr(shared)
    if asked not in known:
        known[asked] = compose(shared).resolved
    described: dict[str, Any] = {"run": text(command), "numbers": command.numbers}
    described |= {key: list(getattr(command, key)) for key in ("keep", "code", "data")}
    return {"arguments": arguments, "command": described, **{key: known[asked][key] for key in SHARED}}


def part(
    command: Command, measure: Iterable[str], config: dict[str, Any], seed: int, code: dict[str, str], source: str
) -> dict[str, Any]:
    """What the stage is handed: the words with all filled in but {out} and {work}, which are known when it runs.

    code: digests of the files that count. Raises UserError for a program that cannot be started here.
    """
    threads = config["engine"]["threads"]
    words = fill(command.run, config["arguments"] | {"seed": seed, "threads": threads})
    if shutil.which(words[0], path=search_path()) is None:
        raise UserError(f"{source}: command.run: '{words[0]}' is no program that can be started here")
    told = {"run": words, "numbers": command.numbers, "keep": list(command.keep), "measure": list(measure)}
    return {"command": told | {"code": code}, "data": data_group(command), "engine": {"threads": threads}}


def text(command: Command) -> str:
    """The words as one line, quoted only where a shell would need it; braces are ours."""
    return " ".join(word if word and not set(word) & QUOTED else shlex.quote(word) for word in command.run)


def data_group(command: Command) -> dict[str, Any]:
    """The `data` group of files and folders as they are."""
    return {"format": "files", "name": ", ".join(command.data), "paths": list(command.data)}


def code_of(command: Command, source: str) -> tuple[dict[str, str], dict[str, str]]:
    """Digests of the files that `code` names, and versions of the libraries that they import.

    Modules that Python files import from their own folder, or from the working folder, count too.
    Raises UserError for a pattern that no file matches.
    """
    waiting: list[str] = []
    for pattern in command.code:
        found = sorted(name for name in glob.glob(pattern, recursive=True) if os.path.isfile(name))
        if not found:
            raise UserError(f"{source}: command.code: no file in {Path.cwd()} matches '{pattern}'")
        waiting += found
    roots = dict.fromkeys([*(os.path.dirname(name) for name in waiting), ""])
    digests: dict[str, str] = {}
    own, foreign = set[str](), set[str]()
    while waiting:
        name = os.path.normpath(waiting.pop())
        if name in digests:
            continue
        digests[name] = file_digest(Path(name))
        if name.endswith(".py"):
            for module in imported_by(Path(name), ".".join(Path(name).parent.parts)):
                files = [file for root in roots for file in _files(module, root)]
                waiting += files
                (own if files else foreign).add(module.partition(".")[0])
    return dict(sorted(digests.items())), installed(foreign - own)


def _files(module: str, root: str) -> list[str]:
    """The files under `root` that make up a module: its packages' __init__.py, and its own."""
    parts = module.split(".")
    candidates = [os.path.join(root, *parts[:n], "__init__.py") for n in range(1, len(parts) + 1)]
    candidates.append(os.path.join(root, *parts) + ".py")
    return [file for file in candidates if os.path.isfile(file)]


def _is_word(value: Any) -> bool:
    return isinstance(value, str | int | float) and not isinstance(value, bool)


def _words(run: str | list[Any], where: str) -> tuple[str, ...]:
    try:
        words = shlex.split(run) if isinstance(run, str) else [str(word) for word in run]
        placeholders(words)
    except ValueError as error:
        raise UserError(f"{where}: {error}") from None
    if not words:
        raise UserError(f"{where}: expected a program and its arguments, found nothing")
    return tuple(words)


def _check_argument(key: str, value: Any, named: list[str], source: str) -> None:
    if key in FILLED_IN:
        raise UserError(f"{key} (from {source}): ablab itself fills in {{{key}}}; give the placeholder another name")
    if key not in named:
        known = [*named, *SHARED]
        raise UserError(f"unknown key '{key}' (from {source}): the command has no {{{key}}}. {nearest(key, known)}")
    if isinstance(value, float) and not math.isfinite(value):
        raise UserError(f"{key}={value} (from {source}): expected a finite number")
