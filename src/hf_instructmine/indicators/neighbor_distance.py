"""Distance to the i-th nearest other example of the pool (InstructMining, section 3: KNN_i; i = 6 in its first rule).

The paper embeds with SentenceBERT and does not settle between distance and similarity; here it is the cosine distance,
so larger means lonelier.
"""

import json
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
from ..models.embedding_store import EmbeddingStore, StoredVectors, save_array, text_digest
from ..models.neighbors import approximate_distances, approximate_search, import_faiss, neighbor_distances
from ..models.sentence_encoder import SentenceEncoder
from ..outputs.files import cache_dir
from ..outputs.folder import staged_folder
from ..outputs.reading import read_array
from ..outputs.records import Records
from .base import Indicator


if TYPE_CHECKING:
    from datasets import Dataset

_CHUNK = 2048  # rows read at a time


class NeighborDistance(Indicator):
    """Cosine distance (1 - cosine) to the i-th nearest other row of the fitted pool; column `knn_{i}`, from 0 to 2.

    What is embedded is the text of the prompt (the contents of its messages), a blank line and all that the assistant
    writes (reasoning, response, tool calls as JSON), without a chat template, cut where the encoder's window ends
    (counted). A row whose text is in the pool counts as that row: one copy of it is itself, every other copy a
    neighbour at distance 0. A row from outside the pool gets the distance to its i-th nearest row. Rows without a
    response have NaN and are not part of the pool.

    [`fit`] encodes each distinct text once, keeps the embeddings in the cache folder by text and finds all neighbours,
    so that mapping is a look-up, another `i` encodes nothing and one more row encodes one row. Processes that fit the
    same pool share the work. Neither the order of the pool nor the size of a batch changes the value of a row of the
    pool, but for the last bits on a GPU: there a vector is as the batch had it that its text was first in. The same
    row has nearer neighbours in a larger pool.

    Args:
        model (`str` or `SentenceTransformer`): Sentence encoder: Hub id, local folder, or loaded.
        i (`int`, defaults to 6): Which neighbour, from 1 to the rows of the pool less one.
        revision (`str`, *optional*): Branch, tag or commit of the model on the Hub.
        dtype (`str`, defaults to `"float32"`): Precision of the encoder; embeddings are float32 in any case.
        device (`str`, *optional*): Of the encoder; defaults to the GPU where there is one.
        token_budget (`int`, *optional*): Tokens in a forward pass, padding included; defaults to 4096, on a CPU to 512
            in batches of one length.
        exact_up_to (`int`, defaults to 200,000): Distinct texts up to which neighbours are exact. Beyond, embeddings
            are kept in half precision and neighbours found by faiss (`pip install hf-instructmine[faiss]`): by an HNSW
            index, from a million texts on by lists (IVF). Which share was found is told, and recorded as `recall`.
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
        token_budget: int | None = None,
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
        self.recall: float | None = None  # of an approximate search

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
        approximate = self._is_approximate(texts)
        if approximate:
            import_faiss(len(texts.digests))
        folder = self._embedded(pool, texts)
        self.search = approximate_search(len(texts.digests)) if approximate else "exact"
        self.pool = f"{folder.parents[1].name}/{folder.name}"
        # Of processes that fit the same pool one searches, and the others find what it has found.
        with Records(folder.parents[1]).lock(f"{folder.name}-{self._distances_file}", patience=-1):
            if not (folder / self._distances_file).exists():
                self._search(folder, texts.counts)
        self.recall = _recall(folder / self._distances_file) if approximate else None
        self._fitted = None
        return self

    def embed(self, dataset: Any) -> np.ndarray:
        """Embeddings of a dataset's rows, from the cache folder where it has them.

        Args:
            dataset (`Dataset`, or what else [`as_dataset`] takes): Rows in any layout that [`read_turns`] knows.

        Returns:
            `np.ndarray`: float32 of shape `(rows, dimensions)`, each row of length 1, or NaN without a response. Of
            more texts than `exact_up_to`, rounded to half precision.
        """
        dataset = as_dataset(dataset, "dataset", columns=self.columns)
        texts = self._texts_of(dataset)
        vectors = _open_vectors(self._embedded(dataset, texts))
        embeddings = np.full((len(dataset), vectors.shape[1]), np.nan, np.float32)
        sound = np.flatnonzero(texts.rows != b"")
        for start in range(0, len(sound), _CHUNK):
            rows = sound[start : start + _CHUNK]
            embeddings[rows] = vectors[np.searchsorted(texts.digests, texts.rows[rows])]
        return embeddings

    def score(self, conversations: list[Conversation]) -> tuple[np.ndarray, np.ndarray, list[str | None]]:
        """Distances `(n, 1)`, weights of 1 `(n,)`, and the note "truncated embedding"; see [`Indicator.score`]."""
        pool = self._open_pool()
        texts = [_text(conversation) for conversation in conversations]
        digests = np.array([text_digest(text) for text in texts])
        places = np.searchsorted(pool.digests, digests).clip(max=len(pool.digests) - 1)
        values, truncated = pool.distances[places], pool.truncated[places]
        outside = np.flatnonzero(pool.digests[places] != digests)
        if len(outside):
            vectors, cut = self.encoder.encode([texts[row] for row in outside])
            vectors = vectors.astype(pool.vectors.stored)  # as precise as what they are compared with
            values[outside] = neighbor_distances(pool.vectors, self.i, vectors, counts=pool.counts)
            truncated[outside] = cut
        return values[:, None], np.ones(len(texts)), ["truncated embedding" if cut else None for cut in truncated]

    def provenance(self) -> dict[str, Any]:
        """Model, `i` and how neighbours were searched; not the pool, so that a rule can be applied to another one."""
        record = {"indicator": "NeighborDistance", **self.encoder.describe(), "i": self.i}
        if self.search in (None, "exact"):
            return record if self.search is None else {**record, "search": self.search}
        return {**record, "search": self.search, "stored": "float16", "recall": self.recall}

    @property
    def _distances_file(self) -> str:
        return f"knn_{self.i}_{'exact' if self.search == 'exact' else 'approximate'}.npy"

    def _search(self, folder: Path, counts: np.ndarray) -> None:
        path, vectors = folder / self._distances_file, _open_vectors(folder)
        if self.search == "exact":
            save_array(path, neighbor_distances(vectors, self.i, counts=counts))
            return
        distances, recall = approximate_distances(vectors, self.i, counts)
        save_array(path.with_suffix(".recall.npy"), np.array(recall))
        save_array(path, distances)

    def _open_pool(self) -> "_Pool":
        if self.pool is None:
            raise InstructMineError(
                "NeighborDistance needs the whole pool first: pool.map(NeighborDistance(…).fit(pool), batched=True)"
            )
        if self._fitted is None:
            folder = _folder_of(self.pool)
            if not (folder / self._distances_file).exists():
                raise InstructMineError(
                    f"the fitted pool's embeddings are no longer in '{folder}': call fit(pool) again"
                )
            arrays = {name: _open(folder, name) for name in ("digests", "counts", "truncated")}
            vectors = _open_vectors(folder)
            self._fitted = _Pool(
                **arrays, vectors=vectors, distances=read_array(folder / self._distances_file, _mend(folder))
            )
        return self._fitted

    def _read(self, dataset: "Dataset") -> "Dataset":
        names = [name for name in dataset.column_names if name not in self.names]
        return dataset.select_columns(read_columns(names, self.columns)).with_format(None)

    def _texts_of(self, dataset: "Dataset") -> "_Texts":
        dataset = self._read(dataset)
        rows = np.zeros(len(dataset), "S32")
        for start in range(0, len(dataset), _CHUNK):
            read = read_conversations(dataset[start : start + _CHUNK], self.columns, first_row=start)
            rows[start : start + _CHUNK] = [b"" if c.problem else text_digest(_text(c)) for c in read]
        sound = np.flatnonzero(rows != b"")
        digests, first, counts = np.unique(rows[sound], return_index=True, return_counts=True)
        return _Texts(rows, digests, sound[first], counts)

    def _embedded(self, dataset: "Dataset", texts: "_Texts") -> Path:
        """The folder of the distinct texts; encodes those that no pool before had."""
        if not len(texts.digests):
            raise InstructMineError("no row of the dataset has a response: there is nothing to embed")
        record = json.dumps(self.encoder.describe(), sort_keys=True).encode()
        folder = cache_dir() / "embeddings" / text_digest(record).decode()
        store = EmbeddingStore(folder, "float32")
        if self._is_approximate(texts):
            folder = folder.with_name(f"{folder.name}-float16")
            store = EmbeddingStore(folder, "float16", finer=store)
        dataset = self._read(dataset)

        def encode(positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            read = read_conversations(dataset[texts.first_rows[positions].tolist()], self.columns)
            return self.encoder.encode([_text(conversation) for conversation in read])

        store.add(texts.digests, encode, self.encoder.dimensions)
        paths, places, truncated = store.find(texts.digests)
        # What lies in other pieces may differ in its last bits: it is another pool, with distances of its own.
        names = "".join(path.stem for path in paths).encode()
        key = text_digest(texts.digests.tobytes() + texts.counts.tobytes() + places.tobytes() + names).decode()
        pool = folder / "pools" / key
        if not pool.exists():
            arrays = {
                "digests": texts.digests, "counts": texts.counts, "truncated": truncated, "places": places,
                "pieces": np.array([path.stem for path in paths], "S32"),
            }  # fmt: skip
            # Another process may finish first; its arrays are the same.
            with staged_folder(pool, overwrite=True) as stage:
                for name, array in arrays.items():
                    np.save(stage / f"{name}.npy", array)
        return pool

    def _is_approximate(self, texts: "_Texts") -> bool:
        return len(texts.digests) > self.exact_up_to


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
    vectors: StoredVectors
    distances: np.ndarray


def _text(conversation: Conversation) -> str:
    return "\n\n".join(part for part in (conversation.prompt_text, conversation.written) if part)


def _recall(distances: Path) -> float:
    return round(float(read_array(distances.with_suffix(".recall.npy"), _mend(distances.parent))), 2)


def _folder_of(pool: str) -> Path:
    encoder, _, key = pool.partition("/")
    return cache_dir() / "embeddings" / encoder / "pools" / key


def _open(folder: Path, name: str) -> np.ndarray:
    return read_array(folder / f"{name}.npy", _mend(folder), mmap_mode="r")


def _open_vectors(folder: Path) -> StoredVectors:
    pieces = folder.parents[1] / "pieces"
    paths = [pieces / f"{name.decode()}.npy" for name in _open(folder, "pieces").tolist()]
    return StoredVectors(paths, _open(folder, "places"))


def _mend(folder: Path) -> str:
    return f"remove '{folder}', and start again"
