"""The records of a sweep: one file per run, written whole or not at all, checked when read."""

import hashlib
import json
import logging
import platform
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from .errors import InstructMineError
from .files import written_whole


logger = logging.getLogger(__name__)

_PACKAGES = ("hf-instructmine", "torch", "transformers", "trl", "peft", "accelerate", "datasets")


class Records:
    """The folder of a sweep: `runs/` with a record per run, `locks/`, and `sweep.json`, which says what it is of.

    Args:
        folder (`str` or `Path`): Made where absent.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)

    def claim(self, manifest: Mapping[str, Any]) -> None:
        """Makes the folder this sweep's, or checks that it is.

        Raises:
            [`InstructMineError`]: Where it holds a sweep of another pool, recipe or evaluation set; names which.
        """
        path = self.folder / "sweep.json"
        if path.exists():
            before = json.loads(path.read_text())
            changed = describe_difference(before, dict(manifest))
            if changed:
                raise InstructMineError(
                    f"'{self.folder}' holds a sweep with another {changed}: "
                    "choose another output_dir, or undo the change"
                )
            return
        if self.folder.exists() and any(self.folder.iterdir()):
            raise InstructMineError(f"'{self.folder}' holds other files: choose an empty output_dir")
        self.write(path, dict(manifest))

    def write(self, path: Path, content: Mapping[str, Any]) -> None:
        """Writes a JSON file with a checksum, whole.

        Raises:
            [`InstructMineError`]: Where the disk is full or the folder read-only; what is finished is kept.
        """
        body = json.dumps(content, sort_keys=True)
        try:
            with written_whole(path) as partial:
                partial.write_text(json.dumps({"checksum": _checksum(body), **json.loads(body)}))
        except OSError as error:
            raise InstructMineError(
                f"cannot write '{path}': {error.strerror}; finished runs are kept: mend it and start again"
            ) from error

    def path_of(self, run_id: str) -> Path:
        return self.folder / "runs" / f"{run_id}.json"

    def read(self, path: Path) -> dict[str, Any] | None:
        """Reads a record; None where there is none. One that is damaged is set aside, reported, and counts as none."""
        try:
            content = json.loads(path.read_text())
            checksum = content.pop("checksum")
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, AttributeError):
            checksum, content = None, {}
        if checksum != _checksum(json.dumps(content, sort_keys=True)):
            aside = path.with_suffix(".damaged")
            path.replace(aside)
            logger.warning(
                "the record '%s' is damaged: set aside as '%s', its run counts as missing", path, aside.name
            )
            return None
        return content

    def all(self) -> dict[str, dict[str, Any]]:
        """Reads every sound record, by run id."""
        paths = sorted((self.folder / "runs").glob("*.json"))
        return {path.stem: record for path in paths if (record := self.read(path)) is not None}

    @contextmanager
    def lock(self, run_id: str) -> Iterator[bool]:
        """Yields whether this process now holds the run. The lock of a killed process is free again."""
        (self.folder / "locks").mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.folder / "locks" / f"{run_id}.lock")
        try:
            lock.acquire(blocking=False)
        except Timeout:
            yield False
            return
        try:
            yield True
        finally:
            lock.release()


def describe_difference(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Names what differs between two manifests: options of the recipe one by one, all else by its name."""
    from .recipe import Recipe

    parts = [f"recipe ({line})" for line in Recipe(before["recipe"]).difference(Recipe(now["recipe"]))]
    for key in sorted({*before, *now} - {"recipe", "checksum"}):
        if before.get(key) != now.get(key):
            parts.append(f"{key.replace('_', ' ')} ({before.get(key)} → {now.get(key)})")
    return "; ".join(parts)


def environment() -> dict[str, Any]:
    """Versions of what a run depends on, the platform, and the commit of the package where it runs from a clone."""
    return {
        "python": platform.python_version(),
        "platform": platform.machine(),
        **{name: version(name) for name in _PACKAGES},
        "commit": _commit(),
    }


@lru_cache(maxsize=1)
def _commit() -> str | None:
    folder = Path(__file__).parent
    found = subprocess.run(["git", "-C", folder, "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    tracked = subprocess.run(["git", "-C", folder, "ls-files", __file__], capture_output=True, text=True, check=False)
    return found.stdout.strip() if tracked.stdout.strip() else None


def _checksum(body: str) -> str:
    return hashlib.sha256(body.encode()).hexdigest()[:16]
