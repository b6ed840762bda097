"""Embeddings by text: a folder that grows by pieces, each written whole and checked, shared by processes."""

import logging
from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import InstructMineError
from ..outputs.digests import fast_digest, row_digest
from ..outputs.files import remove_leftovers, writing, written_whole
from ..outputs.reading import read_array, read_text
from ..outputs.records import Records
from ..outputs.room import check_room


logger = logging.getLogger(__name__)

PIECE = 4096  # texts encoded between two writes to disk: what a killed run loses, and what one process claims
_OPEN = 128  # files that are mapped at a time: each counts against the system's limit
_DIGEST = np.dtype("S32")

# Positions of texts to their vectors of length 1, float32 `(n, dimensions)`, and whether each was truncated, `(n,)`.
Encode = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]


class StoredVectors:
    """Vectors that lie in pieces on the disk, read where they are asked for.

    Args:
        paths (`Sequence[Path]`): The files of the pieces.
        places (`np.ndarray`): For each row the number of its piece and its row there, int32 `(n, 2)`.
    """

    def __init__(self, paths: Sequence[Path], places: np.ndarray):
        self.paths, self.places = list(paths), places
        self._open: OrderedDict[int, np.ndarray] = OrderedDict()
        self.shape, self.stored = (len(places), self._piece(0).shape[1]), self._piece(0).dtype

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, rows: slice | np.ndarray) -> np.ndarray:
        """Copies of rows, float32 of shape `(*rows.shape, dimensions)`; of a slice `(n, dimensions)`."""
        places = self.places[rows]
        pieces, inner = places[..., 0].ravel(), places[..., 1].ravel()
        found = np.empty((len(pieces), self.shape[1]), np.float32)
        order = pieces.argsort(kind="stable")
        bounds = np.flatnonzero(np.diff(pieces[order])) + 1
        for part in np.split(order, bounds) if len(order) else ():
            found[part] = self._piece(int(pieces[part[0]]))[inner[part]]
        return found.reshape(*places.shape[:-1], self.shape[1])

    def _piece(self, number: int) -> np.ndarray:
        if number in self._open:
            self._open.move_to_end(number)
        else:
            path = self.paths[number]
            self._open[number] = read_array(path, f"remove '{path.parent}', and start again", mmap_mode="r")
            if len(self._open) > _OPEN:
                self._open.popitem(last=False)
        return self._open[number]


class EmbeddingStore:
    """All texts that one configuration of an encoder has encoded, whatever pool they were of.

    A piece holds up to 4,096 texts: their digests, their vectors, whether each was truncated. A text that a piece
    holds is not encoded again. Processes that encode the same texts each take other pieces of them.

    Args:
        folder (`Path`): Of this configuration and precision alone.
        dtype (`str`): Precision of the vectors on the disk, `"float32"` or `"float16"`.
        finer (`EmbeddingStore`, *optional*): One of float32, whose vectors are taken where it has them.
    """

    def __init__(self, folder: Path, dtype: str, finer: "EmbeddingStore | None" = None):
        self.records = Records(folder)
        self.folder, self.dtype, self.finer = folder / "pieces", dtype, finer
        remove_leftovers(self.folder, r"[0-9a-f]{32}\.(npy|texts\.npy|digest)")
        self._sound: set[str] = set()

    def add(self, digests: np.ndarray, encode: Encode, dimensions: Callable[[], int]) -> None:
        """Encodes the texts that no piece holds, in the order of their digests.

        Args:
            digests (`np.ndarray`): Of the texts, distinct and sorted, `(n,)`.
            encode (`Callable`): Encodes the texts at some positions of `digests`.
            dimensions (`Callable`): Of a vector: asked where something is missing.

        Raises:
            [`InstructMineError`]: Before anything is encoded, where the disk lacks room.
        """
        from datasets.utils import tqdm

        missing = np.flatnonzero(self.find(digests)[1][:, 0] < 0)
        if not len(missing):
            return
        with writing(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
        check_room(
            self.folder, len(missing) * (dimensions() * np.dtype(self.dtype).itemsize + _DIGEST.itemsize + 1),
            f"the embeddings of {len(missing):,} texts take",
            "or name a folder of another disk in HF_INSTRUCTMINE_CACHE",
        )  # fmt: skip
        # Whatever the order of the pool, the same texts are encoded together. Pieces that another process has finished
        # meanwhile leave all others as they are.
        waiting = [missing[start : start + PIECE] for start in range(0, len(missing), PIECE)]
        with tqdm(total=len(missing), unit="text", desc="Embedding") as progress:
            while waiting:
                taken = []
                for rows in waiting:
                    if not self._finish(digests[rows], rows, encode):
                        taken.append(rows)
                    else:
                        progress.update(len(rows))
                if len(taken) == len(waiting):  # all by others: one of them ends, or is killed
                    with self.records.lock(_name(digests[taken[0]]), patience=-1):
                        pass
                waiting = taken

    def find(self, digests: np.ndarray) -> tuple[list[Path], np.ndarray, np.ndarray]:
        """Where some texts are.

        Args:
            digests (`np.ndarray`): Of the texts, distinct and sorted, `(n,)`.

        Returns:
            The files of the pieces that hold some of them, for each text the number of its piece and its row there,
            int32 `(n, 2)`, -1 where there is none, and whether each was truncated, `(n,)`.
        """
        paths: list[Path] = []
        places = np.full((len(digests), 2), -1, np.int32)
        truncated = np.zeros(len(digests), bool)
        for vouching in sorted(self.folder.glob("*.digest")):
            path = vouching.with_suffix(".npy")
            texts = self._texts(path)
            if texts is None or not len(digests):
                continue
            at = np.searchsorted(digests, texts["digest"]).clip(max=len(digests) - 1)
            held = np.flatnonzero((digests[at] == texts["digest"]) & (places[at, 0] < 0))
            if not len(held) or not self._is_sound(path, texts):
                continue
            places[at[held], 0], places[at[held], 1] = len(paths), held
            truncated[at[held]] = texts["truncated"][held]
            paths.append(path)
        return paths, places, truncated

    def _finish(self, digests: np.ndarray, rows: np.ndarray, encode: Encode) -> bool:
        """Sees to it that a piece is there; False where another process is at it."""
        name = _name(digests)
        path = self.folder / f"{name}.npy"
        with self.records.lock(name, patience=0) as mine:
            if mine and not path.with_suffix(".digest").exists():
                vectors, truncated = self._encoded(digests, rows, encode)
                self._write(path, digests, vectors.astype(self.dtype), truncated)
        if mine:  # whoever still waits for it finds the piece
            with suppress(OSError):
                (self.records.folder / "locks" / f"{name}.lock").unlink()
        return mine

    def _encoded(self, digests: np.ndarray, rows: np.ndarray, encode: Encode) -> tuple[np.ndarray, np.ndarray]:
        if self.finer is None:
            return encode(rows)
        paths, places, truncated = self.finer.find(digests)
        there = places[:, 0] >= 0
        encoded = encode(rows[~there]) if not there.all() else None
        if not there.any():
            assert encoded is not None  # a piece has a text
            return encoded
        kept = StoredVectors(paths, places[there])[:]
        vectors = np.empty((len(rows), kept.shape[1]), np.float32)
        vectors[there] = kept
        if encoded is not None:
            vectors[~there], truncated[~there] = encoded
        return vectors, truncated

    def _write(self, path: Path, digests: np.ndarray, vectors: np.ndarray, truncated: np.ndarray) -> None:
        texts = np.empty(len(digests), [("digest", _DIGEST), ("truncated", bool)])
        texts["digest"], texts["truncated"] = digests, truncated
        save_array(path, vectors)
        save_array(path.with_suffix(".texts.npy"), texts)
        with written_whole(path.with_suffix(".digest")) as partial:  # last: where it is, all is
            partial.write_text(_checksum(vectors, texts), "ascii")

    def _texts(self, path: Path) -> np.ndarray | None:
        try:
            texts = read_array(path.with_suffix(".texts.npy"), "")
        except InstructMineError:
            texts = None
        if texts is None or texts.dtype.names != ("digest", "truncated"):
            self._drop(path)
            return None
        return texts

    def _is_sound(self, path: Path, texts: np.ndarray) -> bool:
        """Whether a piece is what was written; looked at once."""
        if path.name in self._sound:
            return True
        try:
            vectors = read_array(path, "", mmap_mode="r")
            sound = read_text(path.with_suffix(".digest"), "") == _checksum(vectors, texts)
        except InstructMineError:
            sound = False
        if sound:
            self._sound.add(path.name)
        else:
            self._drop(path)
        return sound

    def _drop(self, path: Path) -> None:
        logger.warning("'%s' is damaged: its texts are encoded again", path)
        with writing(path):
            path.with_suffix(".digest").unlink(missing_ok=True)


def save_array(path: Path, array: np.ndarray) -> None:
    """Writes an array as `.npy`, whole."""
    with written_whole(path) as partial, partial.open("wb") as file:
        np.save(file, array)


def text_digest(text: str | bytes) -> bytes:
    """What a text is known by: 32 hexadecimal digits."""
    return row_digest(text).hex().encode()


def _name(digests: np.ndarray) -> str:
    return text_digest(np.ascontiguousarray(digests, _DIGEST).tobytes()).decode()


def _checksum(*arrays: Any) -> str:
    return fast_digest([np.ascontiguousarray(array).view(np.uint8).reshape(-1) for array in arrays])
