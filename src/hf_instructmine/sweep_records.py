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
from .files import writing, written_whole


logger = logging.getLogger(__name__)

# Where `instructmine sweep` keeps what it designed.
DESIGN, MIXTURES = "design.json", "mixtures.parquet"
_PACKAGES = ("hf-instructmine", "torch", "transformers", "trl", "peft", "accelerate", "datasets")
# Whoever asks for the state of a sweep holds a run's lock for an instant: that must not cost the run its turn.
_PATIENCE = 0.5


class Records:
    """The folder of a sweep: `runs/` with a record per run, `locks/`, and `sweep.json`, which says what it is of.

    Args:
        folder (`str` or `Path`): Made where absent.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        self._reported: set[Path] = set()

    def claim(self, manifest: Mapping[str, Any]) -> None:
        """Makes the folder this sweep's, or checks that it is.

        Raises:
            [`InstructMineError`]: Where it holds a sweep of another pool, recipe, base model or evaluation set (names
                which), or other files.
        """
        self.check_unclaimed()
        path = self.folder / "sweep.json"
        with self.lock("sweep", patience=-1):
            before = self.read(path)
            if before is None and path.exists():
                raise InstructMineError(
                    f"'{path}' is damaged, so what this folder is of cannot be told: restore it, or choose another "
                    "output_dir"
                )
            if before is None:
                self.write(path, manifest)
            elif changed := describe_difference(before, manifest):
                raise InstructMineError(
                    f"'{self.folder}' holds a sweep with another {changed}: "
                    "choose another output_dir, or undo the change"
                )

    def check_unclaimed(self) -> None:
        """Raises:
        [`InstructMineError`]: Where the folder holds files, and these are not a sweep's.
        """
        if not self.folder.exists() or (self.folder / "sweep.json").exists():
            return
        # What a kill may have left of a sweep's first instants, half written files included.
        begun = ("locks", "sweep.json", DESIGN, MIXTURES)
        others = [p.name for p in self.folder.iterdir() if not any(name in p.name for name in begun)]
        if others:
            raise InstructMineError(
                f"'{self.folder}' holds other files ('{min(others)}', …): choose an empty output_dir"
            )

    def write(self, path: Path, content: Mapping[str, Any]) -> None:
        """Writes a JSON file with a checksum, whole.

        Raises:
            [`InstructMineError`]: Where the disk is full or the folder read-only; what is finished is kept.
        """
        body = json.dumps(content, sort_keys=True, default=str)
        with written_whole(path) as partial:
            partial.write_text(json.dumps({"checksum": _checksum(body), **json.loads(body)}))

    def path_of(self, run_id: str) -> Path:
        return self.folder / "runs" / f"{run_id}.json"

    def read(self, path: Path) -> dict[str, Any] | None:
        """Reads a record; None where there is none. One that is damaged is reported, and counts as none."""
        try:
            content = json.loads(path.read_text())
            checksum = content.pop("checksum")
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, AttributeError, TypeError):  # not JSON, or JSON of another shape
            checksum, content = None, {}
        if checksum != _checksum(json.dumps(content, sort_keys=True)):
            if path not in self._reported:
                logger.warning("'%s' is damaged: it counts as missing", path)
            self._reported.add(path)
            return None
        return content

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
            lock = FileLock(path)
            try:
                lock.acquire(timeout=patience)
            except Timeout:
                lock = None
        try:
            yield lock is not None
        finally:
            if lock is not None:
                lock.release()

    def is_running(self, run_id: str) -> bool:
        """Whether some process holds the run now."""
        if not (self.folder / "locks" / f"{run_id}.lock").exists():
            return False
        with self.lock(run_id, patience=0) as free:
            return not free


def describe_difference(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Names what differs between two manifests: options of the recipe one by one, all else by its name."""
    from .recipe import Recipe

    parts = [f"recipe ({line})" for line in Recipe(before["recipe"]).difference(Recipe(now["recipe"]))]
    for key in sorted({*before, *now} - {"recipe"}):
        old, new = before.get(key), now.get(key)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            changed = [name for name in sorted({*old, *new}) if old.get(name) != new.get(name)]
            told = "; ".join(f"{name}: {old.get(name)} → {new.get(name)}" for name in changed)
        else:
            changed, told = old != new, f"{old} → {new}"
        if changed:
            parts.append(f"{key.replace('_', ' ')} ({told})")
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
    git = ["git", "-C", Path(__file__).parent]
    try:
        tracked = subprocess.run([*git, "ls-files", __file__], capture_output=True, text=True, check=False).stdout
        found = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=False).stdout
    except FileNotFoundError:  # no git on this machine
        return None
    return found.strip() if tracked.strip() else None


def _checksum(body: str) -> str:
    return hashlib.sha256(body.encode()).hexdigest()[:16]
