"""A folder of records: one file per run, written whole or not at all, checked when read."""

import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from ..errors import InstructMineError
from .digests import digest
from .files import writing, written_whole
from .reading import read_json, typed


logger = logging.getLogger(__name__)

# Whoever asks for the state of a sweep holds a run's lock for an instant: that must not cost the run its turn.
_PATIENCE = 0.5


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Names what differs between two requests as `name: before → now`; a key that one of them lacks is None there."""
    plain = json.loads(json.dumps(now, default=str))
    names = dict.fromkeys([*plain, *before])
    return [f"{n}: {before.get(n)} → {plain.get(n)}" for n in names if before.get(n) != plain.get(n)]


class Records:
    """A folder that belongs to one piece of work: a file says which, and `runs/` may hold a record for each run.

    Args:
        folder (`str` or `Path`): Made where absent.
        kinds (`Mapping`, *optional*): What a record has to hold, as for [`typed`], by the name of its file; those in
            `runs/` are `"runs"`. A record of another kind is damaged.
    """

    def __init__(self, folder: str | Path, kinds: Mapping[str, Any] | None = None):
        self.folder, self.kinds = Path(folder), kinds or {}
        self._reported: set[Path] = set()

    def claim(
        self,
        name: str,
        request: Mapping[str, Any],
        what: str,
        describe: Callable[[Mapping[str, Any], Mapping[str, Any]], Sequence[str]] = differences,
        beside: Sequence[str] = (),
    ) -> None:
        """Makes the folder this work's, or checks that it is.

        Args:
            name (`str`): The file that says what the folder is of.
            request (`Mapping[str, Any]`): What is asked for: plain data.
            what (`str`): What the error calls the work: `"sweep"`.
            describe (`Callable`, *optional*): Names what differs between the request there and this one.
            beside (`Sequence[str]`, *optional*): See [`check_unclaimed`].

        Raises:
            [`InstructMineError`]: Where it holds work of another request (names what differs), or other files.
        """
        self.check_unclaimed(name, beside)
        path = self.folder / name
        with self.lock("claim", patience=-1):
            before = self.read(path)
            if before is None and path.exists():
                raise InstructMineError(
                    f"'{path}' is damaged, so what this folder is of cannot be told: restore it, or choose another "
                    "output_dir"
                )
            if before is None:
                self.write(path, request)
            elif changed := describe(before, request):
                raise InstructMineError(
                    f"'{self.folder}' holds another {what} ({'; '.join(changed)}): choose another output_dir, or undo "
                    "the change"
                )

    def check_unclaimed(self, name: str, beside: Sequence[str] = ()) -> None:
        """Looks whether the folder can be claimed, without claiming it.

        Args:
            name (`str`): The file that says what the folder is of.
            beside (`Sequence[str]`, *optional*): Files that may be there before it.

        Raises:
            [`InstructMineError`]: Where the folder holds other files, or is a file itself.
        """
        if self.folder.exists() and not self.folder.is_dir():
            raise InstructMineError(f"'{self.folder}' is a file: choose another output_dir")
        if not self.folder.exists() or (self.folder / name).exists():
            return
        # What a kill may have left of the first instants, half written files included.
        begun = ("locks", name, *beside)
        others = [p.name for p in self.folder.iterdir() if not any(part in p.name for part in begun)]
        if others:
            raise InstructMineError(
                f"'{self.folder}' holds other files ('{min(others)}', …): choose an empty output_dir"
            )

    def write(self, path: Path, content: Mapping[str, Any]) -> None:
        """Writes a JSON file with a checksum, whole.

        Raises:
            [`InstructMineError`]: Where the disk is full or the folder read-only; what is finished is kept.
        """
        plain = json.loads(json.dumps(content, sort_keys=True, default=str))
        with written_whole(path) as partial:
            partial.write_text(json.dumps({"checksum": digest(plain), **plain}), "utf-8")

    def path_of(self, run_id: str) -> Path:
        """The file that holds, or will hold, the record of a run."""
        return self.folder / "runs" / f"{run_id}.json"

    def read(self, path: Path) -> dict[str, Any] | None:
        """Reads a record; None where there is none. One that is damaged is reported, and counts as none."""
        if not path.exists():
            return None
        try:
            content = read_json(path, "it counts as missing", nan=True)
            if content.pop("checksum", None) != digest(content):
                raise TypeError
            kind = self.kinds.get("runs" if path.parent.name == "runs" else path.name, dict[str, Any])
            return typed(content, kind, nan=True)
        except (InstructMineError, TypeError) as error:
            if isinstance(error.__cause__, OSError):  # what may not be read is no damage, and not to be written anew
                raise
            if path not in self._reported:
                logger.warning("'%s' is damaged: it counts as missing", path)
            self._reported.add(path)
            return None

    def all(self) -> dict[str, dict[str, Any]]:
        """Reads every sound record, by run id."""
        paths = sorted((self.folder / "runs").glob("*.json"))
        return {path.stem: record for path in paths if (record := self.read(path)) is not None}

    @contextmanager
    def lock(self, name: str, patience: float = _PATIENCE) -> Iterator[bool]:
        """Yields whether this process now holds the run of that name. The lock of a killed process is free again.

        Args:
            patience (`float`, defaults to 0.5): Seconds to wait for it; negative: as long as it takes.
        """
        path = self.folder / "locks" / f"{name}.lock"
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            lock, held = FileLock(path), True
            try:
                lock.acquire(timeout=patience)
            except Timeout:
                held = False
        try:
            yield held
        finally:
            if held:
                lock.release()

    def is_running(self, run_id: str) -> bool:
        """Whether some process holds the run now."""
        if not (self.folder / "locks" / f"{run_id}.lock").exists():
            return False
        with self.lock(run_id, patience=0) as free:
            return not free
