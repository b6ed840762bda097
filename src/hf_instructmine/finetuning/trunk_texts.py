"""Which texts a cached trunk holds, and where: another trunk of the same model takes their vectors from it."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..errors import InstructMineError
from ..outputs.digests import row_digest
from ..outputs.reading import read_array


TEXTS = "texts"  # the file in a trunk's folder
# A file, and the first of a text's vectors in it and the one after its last.
Place = tuple[Path, int, int]
_KIND = [("digest", "S32"), ("tokens", np.int64)]


def text_digests(sequences: Sequence[Sequence[int]]) -> np.ndarray:
    """What each text is known by (`digest`), and its `tokens`.

    Args:
        sequences (`Sequence[Sequence[int]]`): Token ids of each text.
    """
    rows = [(row_digest(np.asarray(ids, np.int64).tobytes()).hex().encode(), len(ids)) for ids in sequences]
    return np.array(rows, _KIND)


def held_beside(folder: Path, texts_per_file: int) -> dict[bytes, Place]:
    """Where the trunks beside `folder` hold a text, by its digest. A file that is not whole counts for nothing."""
    known: dict[bytes, Place] = {}
    for index in sorted(folder.parent.glob(f"*/{TEXTS}")):
        texts = _read(index) if index.parent != folder else None
        if texts is None or texts.dtype != np.dtype(_KIND):
            continue
        for start in range(0, len(texts), texts_per_file):
            part = texts[start : start + texts_per_file]
            path = index.parent / f"{start:09d}-{len(part)}.npy"
            ends = np.cumsum(part["tokens"]).tolist()
            vectors = _read(path) if path.exists() else None
            if vectors is not None and len(vectors) == ends[-1]:
                known.update(zip(part["digest"].tolist(), ((path, a, b) for a, b in zip([0, *ends], ends))))
    return known


def _read(path: Path) -> np.ndarray | None:
    try:
        return read_array(path, "", mmap_mode="r")
    except InstructMineError:
        return None
