"""A terminal for a child process, and what stands on its screen: the few control codes that rich sends."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable
from pathlib import Path

TOKENS = re.compile(r"\x1b\[\??([\d;]*)([A-Za-z])|\r|\n|[^\x1b\r\n]+")


class Screen:
    """Lines as they stand after some output; nothing scrolls away."""

    def __init__(self, output: str) -> None:
        self.lines = [""]
        self.row = self.column = 0
        self.cursor = True
        self.styles: set[str] = set()
        for token in TOKENS.finditer(output):
            argument, code = token.group(1), token.group(2)
            if token.group() == "\r":
                self.column = 0
            elif token.group() == "\n":
                self.row += 1
                self.lines += [""] * (self.row + 1 - len(self.lines))
            elif code == "A":
                self.row -= int(argument or 1)
            elif code == "K":
                self.lines[self.row] = ""
            elif code in ("h", "l") and argument == "25":
                self.cursor = code == "h"
            elif code == "m":
                self.styles.add(argument)
            elif code is None:
                line = self.lines[self.row].ljust(self.column)
                self.lines[self.row] = line[: self.column] + token.group() + line[self.column + len(token.group()) :]
                self.column += len(token.group())
            else:
                raise AssertionError(f"a control code that this terminal does not know: {token.group()!r}")

    def text(self) -> str:
        return "\n".join(self.lines).rstrip()


class Terminal:
    """Runs a Python program with a terminal of 80 by 24 as its stderr."""

    def __init__(self, program: str, folder: Path, **environment: str) -> None:
        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
        kept = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "FORCE_COLOR", "COLUMNS", "LINES")}
        self.process = subprocess.Popen(
            [sys.executable, "-c", program],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=slave,
            cwd=folder,
            env=kept | {"TERM": "xterm-256color", "PYTHONPATH": os.pathsep.join(sys.path)} | environment,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        os.close(slave)
        self.screen = Screen("")
        self._output = b""

    def until(self, holds: Callable[[Screen], bool], at_most: float = 60.0) -> Screen:
        """Read until something holds on the screen; what stands there at the end of output must hold too."""
        end = time.monotonic() + at_most
        while not holds(self.screen):
            assert time.monotonic() < end, f"not seen in {at_most} s:\n{self.screen.text()}"
            if not self._read():
                assert holds(self.screen), self.screen.text()
        return self.screen

    def close(self) -> tuple[int, Screen]:
        """Exit code, and the screen after all output."""
        while self._read():
            pass
        code = self.process.wait()
        os.close(self._master)
        return code, self.screen

    def hang_up(self) -> None:
        """Close the terminal while the program runs."""
        os.close(self._master)

    def _read(self) -> bool:
        if not select.select([self._master], [], [], 0.5)[0]:
            return True
        try:
            data = os.read(self._master, 65536)
        except OSError:  # Linux's way to say that nobody writes any more
            return False
        self._output += data
        self.screen = Screen(self._output.decode(errors="ignore"))  # from the start: a code may come in two pieces
        return True
