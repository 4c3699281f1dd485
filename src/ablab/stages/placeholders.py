"""Words with placeholders, `--depth {depth}`: filled word by word, so that a value with spaces stays one word.

`{{` and `}}` stand for braces. No shell ever sees the words.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from string import Formatter
from typing import Any


def placeholders(words: Iterable[str]) -> list[str]:
    """The names between braces, in order, each once. Raises ValueError for braces that do not pair or name nothing."""
    found: dict[str, None] = {}
    for word in words:
        for _, name, form, conversion in Formatter().parse(word):
            if name is None:
                continue
            if not name or form or conversion or set(name) & set("[]"):
                raise ValueError(f"'{word}': expected a name between braces, as in {{depth}}; braces are {{{{ and }}}}")
            found[name] = None
    return list(found)


def fill(words: Iterable[str], values: Mapping[str, Any]) -> list[str]:
    """The words with these values put in; placeholders of other names stay, so that they can be filled later.

    >>> fill(["--depth={depth}", "{out}/a{{b}}"], {"depth": 3})
    ['--depth=3', '{out}/a{{b}}']
    """
    return ["".join(_pieces(word, values)) for word in words]


def plain(words: Iterable[str]) -> list[str]:
    """Words in which nothing is left to fill, as a program is given them.

    >>> plain(["a{{b}}"])
    ['a{b}']
    """
    return [word.format() for word in words]


def _pieces(word: str, values: Mapping[str, Any]) -> Iterable[str]:
    for text, name, _, _ in Formatter().parse(word):
        yield _escaped(text)
        if name is not None:
            yield _escaped(shown(values[name])) if name in values else f"{{{name}}}"


def _escaped(text: str) -> str:
    return text.replace("{", "{{").replace("}", "}}")


def shown(value: Any) -> str:
    """A value as a program reads it: text as it is, everything else as JSON (true, null, [1,2])."""
    return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))
