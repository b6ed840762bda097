"""Whether the disk has room for what is to be written: known before hours of work, not after."""

import shutil
from pathlib import Path

from ..errors import InstructMineError


def check_room(folder: Path, needed: int, what: str, mend: str) -> str:
    """How large something will be, in words.

    Args:
        folder (`Path`): Where it is to be written; it is there.
        needed (`int`): Bytes.
        what (`str`): What the error calls it: `"the cached trunk takes"`.
        mend (`str`): What to do besides making room: the end of the error.

    Raises:
        [`InstructMineError`]: Where the disk of the folder has less room.
    """
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise InstructMineError(
            f"{what} {in_bytes(needed)}, but the disk of '{folder}' has {in_bytes(free)} left: make room, {mend}"
        )
    return in_bytes(needed)


def in_bytes(size: int) -> str:
    """A number of bytes in words."""
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"
