"""Distance to the i-th nearest other example of the pool (InstructMining, section 3: KNN_i; i = 6 in its first rule).

The paper embeds with SentenceBERT and does not settle between distance and similarity; here it is the cosine distance,
so larger means lonelier.
"""

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..data.containers import as_dataset
from ..data.conversation import Conversation, read_conversations
from ..data.fields import read_columns
from ..errors import InstructMineError
from ..models.availability import check_encoder
from ..models.neighbors import HNSW_SEARCH, import_faiss, neighbor_distances
from ..models.sentence_encoder import SentenceEncoder
from ..outputs.digests import row_digest
from ..outputs.files import cache_dir, written_whole
from ..outputs.folder import staged_folder
from ..outputs.reading import read_array
from .base import Indicator


if TYPE_CHECKING:
    from datasets import Dataset

_CHUNK = 2048  # texts encoded between two writes to disk: what a killed run loses


class NeighborDistance(Indicator):
    """Cosine distance (1 - cosine) to the i-th nearest other row of the fitted pool; column `knn_{i}`, from 0 to 2.

    What is embedded is the text of the prompt (the contents of its messages), a blank line and all that the assistant
    writes (reasoning, response, tool calls as JSON), without a chat template, cut where the encoder's window ends
    (counted). A row whose text is in the pool counts as that row: one copy of it is itself, every other copy a
    neighbour at distance 0. A row from outside the pool gets the distance to its i-th nearest row. Rows without a
    response have NaN and are not part of the pool.

    [`fit`] encodes each distinct text once, keeps the embeddings in the cache folder and finds all neighbours, so that
    mapping is a look-up, another `i` encodes nothing, and neither the order of the pool nor the size of a batch
    changes the value of a row of the pool. The same row has nearer neighbours in a larger pool.

    Args:
        model (`str` or `SentenceTransformer`): Sentence encoder: Hub id, local folder, or loaded.
        i (`int`, defaults to 6): Which neighbour, from 1 to the rows of the pool less one.
        revision (`str`, *optional*): Branch, tag or commit of the model on the Hub.
        dtype (`str`, defaults to `"float32"`): Precision of the encoder; embeddings are float32 in any case.
        device (`str`, *optional*): Of the encoder; defaults to the GPU where there is one.
        token_budget (`int`, defaults to 4096): Tokens in a forward pass, padding included.
        exact_up_to (`int`, defaults to 200,000): Distinct texts up to which neighbours are exact. Beyond, they are
            found by a faiss HNSW index (`pip install hf-instructmine[faiss]`).
        trust_remote_code (`bool`, defaults to `False`): Whether the model's repository may run code.
        columns, overwrite: See [`Indicator`].

    Raises:
        [`InstructMineError`]: Where it is called before [`fit`], or the model cannot be loaded.

    Example:
    ```python
    knn = NeighborDistance("sentence-transformers/all-MiniLM-L6-v2", i=6).fit(pool)
    pool = pool.map(knn, batched=True)
    ```
    """

    _fitted: "_Pool | None" = None

    def __init__(
        self,
        model: Any,
        i: int = 6,
        *,
        revision: str | None = None,
        dtype: Any = "float32",
        device: str | None = None,
        token_budget: int = 4096,
        exact_up_to: int = 200_000,
        trust_remote_code: bool = False,
        columns: Mapping[str, str] | None = None,
        overwrite: bool = False,
    ):
        super().__init__(columns=columns, overwrite=overwrite)
        if i < 1:
            raise InstructMineError(f"i must be at least 1 (the nearest other row), not {i!r}")
        self.i = i
        self.names = (f"knn_{i}",)
        self.encoder = SentenceEncoder(model, token_budget, revision, dtype, device, trust_remote_code)
        self.exact_up_to = exact_up_to
        self.pool: str | None = None  # digest of the encoder and of the fitted texts
        self.search: str | None = None

    def check_available(self) -> None:
        """Looks for the sentence encoder; see [`Indicator.check_available`]."""
        if not self.encoder.is_loaded:
            check_encoder(self.encoder.model, self.encoder.revision)

    def release(self) -> None:
        """Lets go of the encoder and of the fitted pool's arrays, which are read from the cache again."""
        self._fitted = None
        self.encoder.release()

    def fit(self, pool: Any) -> "NeighborDistance":
        """Embeds the pool, unless the cache folder has it, and finds every row's i-th nearest other row.

        Args:
            pool (`Dataset`, or what else [`as_dataset`] takes): In any layout that is read. Its texts are read twice
                and never held in memory at once.

        Returns:
            [`NeighborDistance`]: Itself. Its pickle holds the pool's digest alone.

        Raises:
            [`InstructMineError`]: Where the pool has no i-th other row, or needs faiss and it is not installed.
        """
        pool = as_dataset(pool, "pool", columns=self.columns)
        texts = self._texts_of(pool)
        rows = int(texts.counts.sum())
        if rows <= self.i:
            raise InstructMineError(
                f"i={self.i} needs a pool of at least {self.i + 1} rows with a response, this one has {rows}: lower i"
            )
        approximate = len(texts.digests) > self.exact_up_to
        if approximate:
            import_faiss(len(texts.digests))
        folder = self._embedded(pool, texts)
        self.search = HNSW_SEARCH if approximate else "exact"
        self.pool = folder.name
        if not (folder / self._distances_file).exists():
            distances = neighbor_distances(
                _open(folder, "vectors"), self.i, counts=texts.counts, approximate=approximate
            )
            _write(folder / self._distances_file, distances)
        self._fitted = None
        return self

    def embed(self, dataset: Any) -> np.ndarray:
        """Embeddings of a dataset's rows, from the cache folder where it has them.

        Args:
            dataset (`Dataset`, or what else [`as_dataset`] takes): Rows in any layout that [`read_turns`] knows.

        Returns:
            `np.ndarray`: float32 of shape `(rows, dimensions)`, each row of length 1, or NaN without a response.
        """
        dataset = as_dataset(dataset, "dataset", columns=self.columns)
        texts = self._texts_of(dataset)
        vectors = _open(self._embedded(dataset, texts), "vectors")
        embeddings = np.full((len(dataset), vectors.shape[1]), np.nan, np.float32)
        sound = texts.rows != b""
        embeddings[sound] = vectors[np.searchsorted(texts.digests, texts.rows[sound])]
        return embeddings

    def score(self, conversations: list[Conversation]) -> tuple[np.ndarray, np.ndarray, list[str | None]]:
        """Distances `(n, 1)`, weights of 1 `(n,)`, and the note "truncated embedding"; see [`Indicator.score`]."""
        pool = self._open_pool()
        texts = [_text(conversation) for conversation in conversations]
        digests = np.array([_digest(text) for text in texts])
        places = np.searchsorted(pool.digests, digests).clip(max=len(pool.digests) - 1)
        values, truncated = pool.distances[places], pool.truncated[places]
        outside = np.flatnonzero(pool.digests[places] != digests)
        if len(outside):
            vectors, cut = self.encoder.encode([texts[row] for row in outside])
            values[outside] = neighbor_distances(pool.vectors, self.i, vectors, counts=pool.counts)
            truncated[outside] = cut
        return values[:, None], np.ones(len(texts)), ["truncated embedding" if cut else None for cut in truncated]

    def provenance(self) -> dict[str, Any]:
        """Model, `i` and how neighbours were searched; not the pool, so that a rule can be applied to another one."""
        record = {"indicator": "NeighborDistance", **self.encoder.describe(), "i": self.i}
        return record if self.search is None else {**record, "search": self.search}

    @property
    def _distances_file(self) -> str:
        return f"knn_{self.i}_{'exact' if self.search == 'exact' else 'hnsw'}.npy"

    def _open_pool(self) -> "_Pool":
        if self.pool is None:
            raise InstructMineError(
                "NeighborDistance needs the whole pool first: pool.map(NeighborDistance(…).fit(pool), batched=True)"
            )
        if self._fitted is None:
            folder = cache_dir() / "embeddings" / self.pool
            if not (folder / self._distances_file).exists():
                raise InstructMineError(
                    f"the fitted pool's embeddings are no longer in '{folder}': call fit(pool) again"
                )
            arrays = {name: _open(folder, name) for name in ("digests", "counts", "truncated", "vectors")}
            self._fitted = _Pool(**arrays, distances=read_array(folder / self._distances_file, _mend(folder)))
        return self._fitted

    def _read(self, dataset: "Dataset") -> "Dataset":
        names = [name for name in dataset.column_names if name not in self.names]
        return dataset.select_columns(read_columns(names, self.columns)).with_format(None)

    def _texts_of(self, dataset: "Dataset") -> "_Texts":
        dataset = self._read(dataset)
        rows = np.zeros(len(dataset), "S32")
        for start in range(0, len(dataset), _CHUNK):
            read = read_conversations(dataset[start : start + _CHUNK], self.columns, first_row=start)
            rows[start : start + _CHUNK] = [b"" if c.problem else _digest(_text(c)) for c in read]
        sound = np.flatnonzero(rows != b"")
        digests, first, counts = np.unique(rows[sound], return_index=True, return_counts=True)
        return _Texts(rows, digests, sound[first], counts)

    def _embedded(self, dataset: "Dataset", texts: "_Texts") -> Path:
        """The folder that holds the embeddings of the distinct texts; makes it, or goes on where a run was killed."""
        from datasets.utils import tqdm

        if not len(texts.digests):
            raise InstructMineError("no row of the dataset has a response: there is nothing to embed")
        record = json.dumps(self.encoder.describe(), sort_keys=True).encode()
        key = _digest(record + texts.digests.tobytes() + texts.counts.tobytes()).decode()
        folder = cache_dir() / "embeddings" / key
        if folder.exists():
            return folder
        partial = folder.with_suffix(".partial")
        partial.mkdir(parents=True, exist_ok=True)
        dataset = self._read(dataset)
        chunks = []
        # In the order of their digests: whatever the order of the pool, the same texts are encoded together, and a
        # text's embedding is the same to the last bit.
        with tqdm(total=len(texts.digests), unit="text", desc="Embedding") as progress:
            for start in range(0, len(texts.digests), _CHUNK):
                rows = texts.first_rows[start : start + _CHUNK]
                chunks.append(partial / f"{start:012d}.npy")
                if not chunks[-1].exists():
                    read = read_conversations(dataset[rows.tolist()], self.columns)
                    vectors, truncated = self.encoder.encode([_text(conversation) for conversation in read])
                    _write(chunks[-1], np.column_stack([vectors, truncated]))
                progress.update(len(rows))
        _assemble(chunks, texts, folder)
        shutil.rmtree(partial)
        return folder


@dataclass(frozen=True)
class _Texts:
    """What a dataset holds: the digest of each row's text (`b""` without a response), the distinct ones in order, a
    row where each stands, and how often it does."""

    rows: np.ndarray
    digests: np.ndarray
    first_rows: np.ndarray
    counts: np.ndarray


@dataclass(frozen=True)
class _Pool:
    """The distinct texts of a fitted pool, in the order of their digests."""

    digests: np.ndarray
    counts: np.ndarray
    truncated: np.ndarray
    vectors: np.ndarray
    distances: np.ndarray


def _text(conversation: Conversation) -> str:
    return "\n\n".join(part for part in (conversation.prompt_text, conversation.written) if part)


def _digest(text: str | bytes) -> bytes:
    return row_digest(text).hex().encode()


def _open(folder: Path, name: str) -> np.ndarray:
    return read_array(folder / f"{name}.npy", _mend(folder), mmap_mode="r")


def _mend(folder: Path) -> str:
    return f"remove '{folder}', and start again"


def _write(path: Path, array: np.ndarray) -> None:
    with written_whole(path) as partial, partial.open("wb") as file:
        np.save(file, array)


def _assemble(chunks: list[Path], texts: _Texts, folder: Path) -> None:
    truncated = np.zeros(len(texts.digests), bool)
    shape = (len(texts.digests), read_array(chunks[0], _mend(chunks[0].parent), mmap_mode="r").shape[1] - 1)
    # Another process may finish first; its embeddings are the same.
    with staged_folder(folder, overwrite=True) as stage:
        vectors = np.lib.format.open_memmap(stage / "vectors.npy", "w+", np.float32, shape)
        start = 0
        for chunk in chunks:
            block = read_array(chunk, _mend(chunk.parent))
            vectors[start : start + len(block)] = block[:, :-1]
            truncated[start : start + len(block)] = block[:, -1]
            start += len(block)
        vectors.flush()
        for name, array in (("digests", texts.digests), ("counts", texts.counts), ("truncated", truncated)):
            np.save(stage / f"{name}.npy", array)
