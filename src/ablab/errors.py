"""Mistakes that a person can mend, told in one message."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

MANY = 100  # names that nobody wants to read


class UserError(Exception):
    """The user's mistake: the command line prints its message alone and exits with 2.

    The message names the file or key, what was found, what was expected and the nearest valid name.
    """


class OutOfMemoryError(UserError):
    """Memory ran out: with fewer stages at a time, or with the keys lowered that the message names, it may do."""


def nearest(name: object, choices: Iterable[object]) -> str:
    """A sentence that helps with a name that is none of `choices`; of more than a hundred it tells the nearest alone.

    >>> nearest("focsu", ["focus", "conv6x6"])
    "Did you mean 'focus'? There are: conv6x6, focus."
    >>> nearest("resnet81", [f"resnet{depth}" for depth in range(1000, 1200)])
    "Did you mean 'resnet1181'? There are 200, such as: resnet1181, resnet1081, resnet1199, resnet1198, resnet1197."
    """
    known = sorted(map(str, choices))
    close = get_close_matches(str(name), known, n=5, cutoff=0.5)
    hint = f"Did you mean '{close[0]}'? " if close else ""
    if len(known) > MANY:
        return f"{hint}There are {len(known)}, such as: {', '.join(close or known[:5])}."
    return f"{hint}There are: {', '.join(known) or 'none'}."
