"""Vectors by text: what is there is not encoded again, by whomever it was, and what is damaged is."""

import threading
from collections import Counter

import numpy as np
import pytest

from hf_instructmine import InstructMineError
from hf_instructmine.models import embedding_store
from hf_instructmine.models.embedding_store import EmbeddingStore, StoredVectors, text_digest


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch):
    monkeypatch.setattr(embedding_store, "PIECE", 4)


class Texts:
    """Distinct texts, an encoder of them, and how often it was asked for each."""

    def __init__(self, *names: str):
        self.digests = np.sort(np.array([text_digest(name) for name in names]))
        self.asked: Counter = Counter()

    def encode(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        self.asked.update(self.digests[rows].tolist())
        return vectors_of(self.digests[rows]), rows % 3 == 0

    def add(self, store: EmbeddingStore) -> None:
        store.add(self.digests, self.encode, lambda: 6)

    def read(self, store: EmbeddingStore) -> np.ndarray:
        paths, places, _ = store.find(self.digests)
        return StoredVectors(paths, places)[:]


def vectors_of(digests: np.ndarray) -> np.ndarray:
    drawn = [np.random.default_rng(int(digest[:8], 16)).normal(size=6) for digest in digests]
    return np.array([v / np.linalg.norm(v) for v in drawn], np.float32)


def names(count: int) -> list[str]:
    return [f"text {k}" for k in range(count)]


def test_vectors_are_what_was_encoded(tmp_path):
    texts, store = Texts(*names(11)), EmbeddingStore(tmp_path, "float32")
    texts.add(store)
    assert (texts.read(store) == vectors_of(texts.digests)).all()
    paths, places, truncated = store.find(texts.digests)
    assert (truncated == (np.arange(11) % 3 == 0)).all() and len(paths) == 3
    stored, near = StoredVectors(paths, places), np.array([[10, 0], [3, 3], [7, 2]])
    assert stored.shape == (11, 6) and len(stored) == 11
    assert (stored[near] == vectors_of(texts.digests)[near]).all()
    assert (stored[2:9] == vectors_of(texts.digests)[2:9]).all()


def test_more_files_than_may_be_open_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr(embedding_store, "_OPEN", 2)
    texts, store = Texts(*names(30)), EmbeddingStore(tmp_path, "float32")
    texts.add(store)
    order = np.random.default_rng(0).permutation(30)
    paths, places, _ = store.find(texts.digests)
    stored = StoredVectors(paths, places)
    assert (stored[order] == vectors_of(texts.digests)[order]).all()
    assert len(stored._open) == 2


def test_only_what_is_missing_is_encoded(tmp_path):
    few, all_of_them = Texts(*names(9)), Texts(*names(12))
    few.add(EmbeddingStore(tmp_path, "float32"))
    all_of_them.add(EmbeddingStore(tmp_path, "float32"))
    assert few.asked.total() == 9 and set(all_of_them.asked.values()) == {1}
    assert all_of_them.asked.keys() == {*all_of_them.digests.tolist()} - {*few.digests.tolist()}
    assert (all_of_them.read(EmbeddingStore(tmp_path, "float32")) == vectors_of(all_of_them.digests)).all()


def test_two_at_once_share_the_work(tmp_path):
    both = threading.Barrier(2, timeout=20)
    one, other = Texts(*names(40)), Texts(*names(40))

    def encode_together(texts):
        def encode(rows):
            if not texts.asked:
                both.wait()  # each is at a piece of its own, or it would wait here for ever
            return Texts.encode(texts, rows)

        return encode

    def work(texts):
        EmbeddingStore(tmp_path, "float32").add(texts.digests, encode_together(texts), lambda: 6)

    threads = [threading.Thread(target=work, args=(texts,)) for texts in (one, other)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert set((one.asked + other.asked).values()) == {1} and one.asked and other.asked
    assert (one.read(EmbeddingStore(tmp_path, "float32")) == vectors_of(one.digests)).all()
    assert not list((tmp_path / "locks").iterdir())


def test_pieces_are_the_same_whoever_stopped_where(tmp_path):
    whole, broken = Texts(*names(18)), Texts(*names(18))
    whole.add(EmbeddingStore(tmp_path / "whole", "float32"))
    pieces = []

    def stops(rows):
        pieces.append(rows)
        if len(pieces) == 2:
            raise KeyboardInterrupt
        return broken.encode(rows)

    with pytest.raises(KeyboardInterrupt):
        EmbeddingStore(tmp_path / "broken", "float32").add(broken.digests, stops, lambda: 6)
    broken.add(EmbeddingStore(tmp_path / "broken", "float32"))
    assert set(broken.asked.values()) == {1}
    contents = [{p.name: p.read_bytes() for p in (tmp_path / k / "pieces").iterdir()} for k in ("whole", "broken")]
    assert contents[0] == contents[1]


@pytest.mark.parametrize("suffix", [".npy", ".texts.npy", ".digest"])
@pytest.mark.parametrize("damage", ["gone", "cut"])
def test_a_damaged_piece_is_encoded_again(tmp_path, caplog, suffix, damage):
    texts = Texts(*names(12))
    texts.add(EmbeddingStore(tmp_path, "float32"))
    path = min((tmp_path / "pieces").glob(f"{'[0-9a-f]' * 32}{suffix}"))
    path.unlink() if damage == "gone" else path.write_bytes(path.read_bytes()[:-3])
    texts.add(EmbeddingStore(tmp_path, "float32"))
    assert sorted(texts.asked.values()) == [1] * 8 + [2] * 4
    assert (texts.read(EmbeddingStore(tmp_path, "float32")) == vectors_of(texts.digests)).all()
    vouched_for = (suffix, damage) != (".digest", "gone")  # else a kill was first, which is no damage
    assert ("is damaged: its texts are encoded again" in caplog.text) == vouched_for


def test_half_precision_halves_the_disk_and_takes_what_was_encoded(tmp_path):
    few, texts = Texts(*names(5)), Texts(*names(8))
    fine = EmbeddingStore(tmp_path / "fine", "float32")
    few.add(fine)
    half = EmbeddingStore(tmp_path / "half", "float16", finer=fine)
    texts.add(half)
    assert texts.asked.total() == 3
    assert (texts.read(half) == vectors_of(texts.digests).astype(np.float16)).all()
    assert texts.read(half).dtype == np.float32
    (array,) = {
        np.load(path).dtype for path in (tmp_path / "half" / "pieces").glob("*.npy") if ".texts" not in path.name
    }
    assert array == np.float16


def test_a_disk_too_small_is_told_before_anything_is_encoded(tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda folder: type("Usage", (), {"free": 10_000_000})())
    texts = Texts(*names(8))
    store = EmbeddingStore(tmp_path, "float32")
    with pytest.raises(
        InstructMineError,
        match=r"^the embeddings of 8 texts take 12\.8 GB, but the disk of .* has "
        r"10\.0 MB left: make room, or name a folder of another disk in HF_INSTRUCTMINE_CACHE$",
    ):
        store.add(texts.digests, texts.encode, lambda: 400_000_000)
    assert not texts.asked
