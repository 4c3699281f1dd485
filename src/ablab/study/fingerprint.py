"""Fingerprints: a hash of everything that can change a stage's result.

Code counts by a canonical form of its syntax tree, without comments and docstrings and equal on every Python that
ablab supports; only the modules that a stage's module (and the `_target_`s in its configuration) import count,
inside ablab, the user's working folder and the packages of the `_target_`s.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.metadata
import importlib.util
import json
import sys
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from ablab.config import PACKAGE
from ablab.errors import UserError

# They can word an error or start a stage, but not change a number.
IRRELEVANT = ("ablab.errors", "ablab.cli", "ablab.config", "ablab.machine", "ablab.stages.declare", "ablab.study")


def digest(content: Any) -> str:
    """SHA-256 of a JSON-able value in canonical form (sorted keys, no spaces)."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def versions(distributions: Iterable[str]) -> dict[str, str]:
    """Installed versions, read without importing anything; local parts such as +cu128 stay."""
    return {name: _version(name) for name in distributions}


@cache
def _version(distribution: str) -> str:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return "absent"


def libraries_of(modules: Iterable[str], known: Iterable[str] = ()) -> dict[str, str]:
    """Versions of the libraries that these modules import themselves, in addition to those `known` by now."""
    return _libraries_of(tuple(sorted(set(modules))), frozenset(known), Path.cwd())


@cache
def _libraries_of(modules: tuple[str, ...], known: frozenset[str], folder: Path) -> dict[str, str]:
    tops: set[str] = set()
    for module in modules:
        top = module.partition(".")[0]
        ours = top == PACKAGE.name
        root = PACKAGE.parent if ours else _root(top) or folder
        if (ours or "site-packages" not in root.parts) and (file := _file(module, root)):
            tops |= {name.partition(".")[0] for name in _scan(file, module)[1]}
    return installed(tops - known - {PACKAGE.name, ""})


def targets(config: Any) -> Iterator[str]:
    """Modules that `_target_` entries of a configuration name."""
    if isinstance(config, dict):
        target = config.get("_target_")
        if isinstance(target, str):
            yield target.rpartition(".")[0]
    elif not isinstance(config, list):
        return
    for value in config.values() if isinstance(config, dict) else config:
        if isinstance(value, (dict, list)):  # most are numbers
            yield from targets(value)


def code(modules: Iterable[str]) -> str:
    """Digest of the given modules and of all that they import in ablab, the working folder and their own packages.

    A module that was installed (in site-packages) counts by its distribution's version.
    """
    return _code(tuple(sorted(set(modules))), Path.cwd())[0]


def modules_of(modules: Iterable[str]) -> dict[str, str]:
    """What `code` digests: module -> digest of its syntax tree (version, if it was installed).

    One dictionary for all that ask for the same modules: not to be changed.
    """
    return _code(tuple(sorted(set(modules))), Path.cwd())[1]


@cache
def _code(modules: tuple[str, ...], folder: Path) -> tuple[str, dict[str, str]]:
    roots = {module.partition(".")[0]: _root(module.partition(".")[0]) for module in modules}
    seen: dict[str, str] = {}
    waiting = list(modules)
    while waiting:
        module = waiting.pop()
        if module in seen or module.startswith(IRRELEVANT):
            continue
        top = module.partition(".")[0]
        root = PACKAGE.parent if top == PACKAGE.name else roots.get(top) or folder
        if "site-packages" in root.parts and top != PACKAGE.name:
            seen[top] = " ".join(map(_version, _holders().get(top, [])))
            continue
        file = _file(module, root)
        if file is None:
            continue
        seen[module], imported = _scan(file, module)
        waiting.extend(imported)
        package = module.rpartition(".")[0]
        if package:
            waiting.append(package)
    return digest(seen), seen


def _root(top: str) -> Path | None:
    """The folder that holds a top-level module, wherever Python finds it; nothing is imported for that."""
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError):
        return None
    if spec is None:
        return None
    if spec.submodule_search_locations:
        return Path(next(iter(spec.submodule_search_locations))).parent
    return Path(spec.origin).parent if spec.origin and spec.has_location else None


def _file(module: str, root: Path) -> Path | None:
    path = root.joinpath(*module.split("."))
    for file in (path.with_suffix(".py"), path / "__init__.py"):
        if file.is_file():
            return file
    return None


def file_digest(file: Path) -> str:
    """Digest of one file as it is now: of a Python file its syntax tree, of any other its bytes.

    Raises UserError for a file that is not there, or is not valid Python.
    """
    try:
        content = file.read_bytes()
    except OSError as error:
        raise UserError(f"{file}: cannot be read: {error.strerror}") from None
    return _digest_of(parse(file, content)) if file.suffix == ".py" else hashlib.sha256(content).hexdigest()


def imported_by(file: Path, package: str) -> tuple[str, ...]:
    """Names that a Python file of the package `package` imports anywhere; some may be of what is in a module."""
    return tuple(_imports(parse(file, file.read_bytes()), package))


def installed(modules: Iterable[str]) -> dict[str, str]:
    """Versions of the distributions that hold these top-level modules, of those that are installed."""
    tops = set(modules) - sys.stdlib_module_names
    return versions(sorted({name for top in tops for name in _holders().get(top, [])}))


@cache
def _holders() -> Mapping[str, list[str]]:
    """The distributions that hold each top-level module: to find out takes half a second."""
    return importlib.metadata.packages_distributions()


def _scan(file: Path, module: str) -> tuple[str, tuple[str, ...]]:
    """(digest of the syntax tree, modules that are imported anywhere in it)."""
    return _scanned(file.read_bytes(), file, module if file.name == "__init__.py" else module.rpartition(".")[0])


@cache
def _scanned(content: bytes, file: Path, package: str) -> tuple[str, tuple[str, ...]]:
    tree = parse(file, content)
    return _digest_of(tree), tuple(_imports(tree, package))


def parse(file: Path, content: bytes) -> ast.Module:
    """The syntax tree of a Python file. Raises UserError that names file and line where it is none."""
    try:
        return ast.parse(content, str(file))
    except (SyntaxError, ValueError) as error:  # ValueError: a null byte
        raise UserError(f"{file}: not valid Python at line {getattr(error, 'lineno', '?')}: {error}") from None


def _digest_of(tree: ast.Module) -> str:
    return hashlib.sha256(repr(_canonical(tree)).encode()).hexdigest()


def _imports(tree: ast.AST, package: str) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*parents, base] if base else parents)
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)


def _canonical(node: Any) -> Any:
    """The tree as tuples: no positions, docstrings or type comments, no field that is empty.

    Python versions differ in which empty fields a node has, so an empty field and an absent one are the same.
    """
    if isinstance(node, ast.AST):
        fields = []
        for name, value in ast.iter_fields(node):
            if name in ("ctx", "type_comment", "type_ignores", "kind") or value is None or value == []:
                continue
            if isinstance(node, ast.JoinedStr):  # Python 3.12.1 puts empty strings between the parts of an f-string
                value = [part for part in value if not (isinstance(part, ast.Constant) and part.value == "")]
            if name == "body" and isinstance(value, list) and _is_docstring(node, value[0]):
                value = value[1:]
            fields.append((name, _canonical(value)))
        return (type(node).__name__, *fields)
    if isinstance(node, list):
        return [_canonical(item) for item in node]
    return repr(node)


def _is_docstring(node: ast.AST, first: Any) -> bool:
    owner = isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef))
    return (
        owner
        and isinstance(first, ast.Expr)
        and isinstance(first.value, ast.Constant)
        and isinstance(first.value.value, str)
    )
