"""Output folders that are either complete or absent."""

import os
import re
import shutil
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from ..errors import InstructMineError
from .files import sync


_OLD = 24 * 3600.0  # seconds
# Where it is, all files beside it are of one selection.
_VOUCHES = "selection.json"


def check_output_folder(folder: str | Path, overwrite: bool = False) -> None:
    """Finds out whether [`staged_folder`] would succeed, before hours of work that would end there.

    Raises:
        [`InstructMineError`]: Where the folder cannot be written, is a file, or holds files already and `overwrite` is
            `False`.
    """
    target = resolved(folder)
    absent = [parent for parent in target.parents if not parent.exists()]
    _make_stage(target, overwrite).rmdir()
    for parent in absent:
        parent.rmdir()


def refuse_input(folder: str | Path, inputs: Sequence[str | Path]) -> None:
    """Refuses to write where the rows are read from: what is written would take their place.

    Args:
        folder (`str` or `Path`): Where it is to be written.
        inputs (`Sequence` of `str` or `Path`): Files, folders or Hub ids that are read, with `:split` or without.

    Raises:
        [`InstructMineError`]: Where one of them is the folder, or is in its `data`.
    """
    target = resolved(folder).resolve()
    for name in [str(name) for name in inputs if "\0" not in str(name)]:  # which no file has
        for place in (Path(os.path.realpath(os.path.expanduser(path))) for path in (name, name.partition(":")[0])):
            if os.path.exists(place) and (place == target or target / "data" in (place, *place.parents)):
                raise InstructMineError(f"'{folder}' is where the rows are read from: name another output folder")


def refuse_foreign(folder: str | Path, file: str, kind: str) -> None:
    """Refuses to replace a README that is of something else.

    Args:
        folder (`str` or `Path`): Where a README and `file` are to be written.
        file (`str`): What stands beside a README of ours.
        kind (`str`): What that is, such as `"rule"`.

    Raises:
        [`InstructMineError`]: Where there is a README without that file.
    """
    target = resolved(folder)
    if (target / "README.md").exists() and not (target / file).exists():
        raise InstructMineError(f"'{folder}' holds a README.md that is of no {kind}: name another folder")


@contextmanager
def staged_folder(
    folder: str | Path, overwrite: bool = False, check: Callable[[], None] | None = None
) -> Iterator[Path]:
    """Gives a hidden folder to write to, and moves what was written to `folder` once the block ends without an error.

    A new folder appears by one rename. In a folder that exists, files are replaced one by one, `README.md` last, and
    files of other names stay as they are; but a `data` folder that is written to may hold none, because `load_dataset`
    would read them too. Of several processes that write to one folder at once, the files of one are moved after the
    other's.

    Args:
        folder (`str` or `Path`): Where the files are to be.
        overwrite (`bool`, *optional*, defaults to `False`): Whether `folder` may hold files already.
        check (`Callable`, *optional*): Called again before the first file is moved: refuses what the folder may have
            come to hold meanwhile.

    Raises:
        [`InstructMineError`]: As [`check_output_folder`] does, before the block is entered and again before the files
            are moved; and where writing fails.
    """
    target = resolved(folder)
    stage = _make_stage(target, overwrite)
    try:
        yield stage
        for file in _files(stage):
            sync(file)
        if not _appears(stage, target):
            with _locked(target):
                _refuse_held(target, overwrite)
                if check is not None:
                    check()
                _refuse_mixture(stage, target)
                _move(stage, target)
    except OSError as error:
        raise InstructMineError(f"could not write '{target}', nothing was kept: {error}") from error
    finally:
        shutil.rmtree(stage, ignore_errors=True)


def resolved(folder: str | Path) -> Path:
    """Where a folder is, with `~` for the home folder.

    Raises:
        [`InstructMineError`]: Where its name holds a zero byte, or there is no such home folder.
    """
    if "\0" in str(folder):
        raise InstructMineError(f"{str(folder)!r:.80} holds a zero byte, which no name of a file may: name another")
    found = os.path.expanduser(folder)
    if found.startswith("~"):
        raise InstructMineError(
            f"'{folder}' is in the home folder of nobody here: name another, or write './{folder}'"
        )
    return Path(found).absolute()


def _files(folder: Path) -> list[Path]:
    return [file for file in folder.rglob("*") if file.is_file()]


def _appears(stage: Path, target: Path) -> bool:
    """Whether the stage could take its place by one rename: not where a folder is, be it another process's since."""
    try:
        os.rename(stage, target)
    except OSError:
        if target.is_dir():
            return False
        raise
    sync(target.parent)
    return True


def _refuse_mixture(stage: Path, target: Path) -> None:
    written, held = (
        {file.relative_to(folder / "data") for file in _files(folder / "data")} for folder in (stage, target)
    )
    if written and held - written:
        raise InstructMineError(
            f"'{target / 'data'}' holds a file that is not of a selection ({min(held - written).name}): remove it, or "
            "name another folder"
        )


def _move(stage: Path, target: Path) -> None:
    """Moves file by file. Killed in between, what is there is opened as no selection, neither the old nor the new."""
    if (stage / _VOUCHES).exists():
        (target / _VOUCHES).unlink(missing_ok=True)
    for file in sorted(_files(stage), key=lambda file: (file.name == "README.md", file.name == _VOUCHES)):
        destination = target / file.relative_to(stage)
        destination.parent.mkdir(parents=True, exist_ok=True)
        os.replace(file, destination)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Held while files are moved into a folder; that of a killed process is free again, and no file is left of it."""
    if os.name == "nt":  # where folders cannot be opened
        yield
        return
    import fcntl

    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # some network file systems lock no folders
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _refuse_held(target: Path, overwrite: bool) -> None:
    held = sorted(entry.name for entry in target.iterdir()) if target.is_dir() else []
    held = [name for name in held if not _is_stage(name, target)]
    if held and not overwrite:
        some = ", ".join(held[:3]) + (", …" if len(held) > 3 else "")
        raise InstructMineError(
            f"'{target}' already holds files ({some}): name another folder, or pass overwrite=True to replace them"
        )


def _is_stage(name: str, target: Path) -> bool:
    return re.fullmatch(rf"\.{re.escape(target.name)}\.[0-9a-f]{{8}}\.tmp", name) is not None


def _remove_leftovers(target: Path) -> None:
    """Removes what a killed process left, once it is so old that no process can still write to it."""
    for folder in (target, target.parent):
        found = [entry for entry in folder.iterdir() if _is_stage(entry.name, target)] if folder.is_dir() else []
        for stage in found:
            with suppress(FileNotFoundError):  # of a process that has just ended well
                if time.time() - stage.stat().st_mtime > _OLD:
                    shutil.rmtree(stage, ignore_errors=True)


def _make_stage(target: Path, overwrite: bool) -> Path:
    try:
        if target.exists() and not target.is_dir():
            raise InstructMineError(f"'{target}' is a file: name a folder, for files cannot be written into it")
        _remove_leftovers(target)
        _refuse_held(target, overwrite)
        # Inside a folder that exists: its parent may be read-only or another file system.
        stage = (target if target.is_dir() else target.parent) / f".{target.name}.{uuid.uuid4().hex[:8]}.tmp"
        stage.mkdir(parents=True)
    except OSError as error:
        raise InstructMineError(f"cannot write to '{target}' ({error.strerror}): name another folder") from error
    return stage
