"""What a terminal is sent: text alone, whatever the data holds."""

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from typing import Any

from ..outputs.markdown import printable_lines


# What progress bars write to go up, down and back to the beginning of a line; nothing of data is in it.
_MOVES = re.compile(r"(?:\r|\n|\x1b\[A)*")


class HarmlessStream:
    """A stream that shows "�" for control characters, so that no row and no name moves the cursor or sets a colour.

    A progress bar may still go back to the beginning of its line, and move by lines.
    """

    def __init__(self, stream: Any):
        self._stream = stream

    def write(self, text: str) -> int:
        """Writes what is harmless of a text."""
        moves = _MOVES.match(text)
        assert moves is not None  # it may be empty
        self._stream.write(moves[0] + printable_lines(text[moves.end() :]))
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def harmless_output() -> Iterator[None]:
    """Lets nothing but text reach the terminal while a verb runs: results, errors, warnings, logs and bars."""
    with redirect_stdout(HarmlessStream(sys.stdout)), redirect_stderr(HarmlessStream(sys.stderr)):
        yield
