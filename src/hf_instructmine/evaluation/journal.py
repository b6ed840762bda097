"""A file that grows by a line for each finished piece of work: what was written before a kill is there after it."""

import json
import logging
import os
import threading
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ..errors import InstructMineError
from ..outputs.files import sync, writing
from ..outputs.reading import parse_json


logger = logging.getLogger(__name__)


class Journal:
    """JSON lines, each on the disk before [`append`] returns. Several threads may append; one process at a time.

    Args:
        path (`Path`): The file; made at the first line.
    """

    def __init__(self, path: Path):
        self.path = path
        self._lock = threading.Lock()

    def read(self) -> list[dict[str, Any]]:
        """Every whole line. A line that a kill cut short is taken off the file; a damaged one is told, and is missing.

        Raises:
            [`InstructMineError`]: Where the file cannot be read or mended.
        """
        with self._lock, writing(self.path):
            if not self.path.exists():
                return []
            content = self.path.read_bytes()
            whole = content.rfind(b"\n") + 1
            if whole < len(content):
                with self.path.open("r+b") as file:
                    file.truncate(whole)
                sync(self.path)
        return _sound(content[:whole], self.path)

    def append(self, lines: Iterable[Mapping[str, Any]]) -> None:
        """Writes lines in one piece and waits until they are on the disk.

        Raises:
            [`InstructMineError`]: Where the disk is full or the folder read-only; what was finished is kept.
        """
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        with self._lock, writing(self.path):
            is_new = not self.path.exists()
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("ab") as file:
                file.write(text.encode("utf-8", "replace"))
                file.flush()
                os.fsync(file.fileno())
            if is_new:
                sync(self.path.parent)


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Every sound line of a file of somebody else's, which stays as it is: its last line may have no line break.

    Raises:
        [`InstructMineError`]: Where the file cannot be read.
    """
    try:
        return _sound(path.read_bytes(), path)
    except OSError as error:
        raise InstructMineError(f"cannot read '{path}': {error.strerror}") from error


def _sound(content: bytes, path: Path) -> list[dict[str, Any]]:
    lines = [(number, _parsed(line)) for number, line in enumerate(content.removesuffix(b"\n").split(b"\n"), 1)]
    for number, value in lines if content else ():
        if value is None:
            logger.warning("'%s', line %d is damaged: it counts as missing", path.name, number)
    return [value for _, value in lines if value is not None]


def _parsed(line: bytes) -> dict[str, Any] | None:
    try:
        value = parse_json(line.decode("utf-8"), "it", "mend it", nan=True)
    except ValueError:  # of the encoding, or ours
        return None
    return value if isinstance(value, dict) else None
