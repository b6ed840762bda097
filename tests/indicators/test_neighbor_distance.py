"""Neighbours against scikit-learn; pools, caches and processes on a tiny sentence encoder with random weights."""

import multiprocessing
import os
import pickle
import subprocess
import sys

import numpy as np
import pytest
from datasets import Dataset, concatenate_datasets
from datasets.fingerprint import Hasher
from hypothesis import given, settings
from hypothesis import strategies as st
from scikit_neighbors import by_scikit_learn

from hf_instructmine import InstructMineError, NeighborDistance
from hf_instructmine.models import embedding_store
from hf_instructmine.models.sentence_encoder import SentenceEncoder


WORDS = [
    "red",
    "green",
    "blue",
    "one",
    "two",
    "three",
    "cat",
    "dog",
    "bird",
    "tea",
    "milk",
    "rain",
    "sun",
    "day",
    "sea",
]


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    """The folder of a tiny BERT with random weights and a window of 16 tokens."""
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.models import Pooling, Transformer
    from transformers import BertConfig, BertModel, BertTokenizer

    folder = tmp_path_factory.mktemp("encoder")
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[", "]", "sep", *WORDS, "<", ">"]
    (folder / "vocab.txt").write_text("\n".join(vocabulary))
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(vocabulary), hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64,
        initializer_range=0.5,
    )  # fmt: skip
    BertModel(config).save_pretrained(folder / "bert")
    BertTokenizer(str(folder / "vocab.txt")).save_pretrained(folder / "bert")
    transformer = Transformer(str(folder / "bert"), max_seq_length=16)
    model = SentenceTransformer(modules=[transformer, Pooling(transformer.get_embedding_dimension())], device="cpu")
    model.save(str(folder / "tiny-encoder"))
    return str(folder / "tiny-encoder")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_INSTRUCTMINE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def never_encode(monkeypatch):
    def refuse():
        def encode(self, texts):
            raise AssertionError("the encoder was asked for what the cache folder holds")

        monkeypatch.setattr(SentenceEncoder, "encode", encode)

    return refuse


def make_pool(rows: int, seed: int = 0) -> Dataset:
    choose = np.random.default_rng(seed).choice
    return Dataset.from_dict(
        {
            "prompt": [" ".join(choose(WORDS, 3)) for _ in range(rows)],
            "completion": [" ".join(choose(WORDS, 5)) for _ in range(rows)],
        }
    )


def test_a_pool_beyond_the_exact_size_is_kept_in_half_precision(encoder, never_encode):
    pytest.importorskip("faiss", reason="pip install hf-instructmine[faiss]")
    pool = make_pool(60)
    exact = NeighborDistance(encoder, i=2).fit(pool)
    never_encode()  # what is there is rounded
    knn = NeighborDistance(encoder, i=2, exact_up_to=20).fit(pool)
    assert (knn.embed(pool) == exact.embed(pool).astype(np.float16)).all()
    np.testing.assert_allclose(knn(pool[:])["knn_2"], exact(pool[:])["knn_2"], atol=2e-3)
    told = {k: v for k, v in knn.provenance().items() if k not in exact.provenance()}
    assert told == {"stored": "float16", "recall": 1.0} and knn.provenance()["search"].startswith("faiss HNSW, fp16")
    assert pickle.loads(pickle.dumps(knn)).provenance() == knn.provenance()


def test_column_against_scikit_learn(encoder):
    pool = make_pool(60)
    knn = NeighborDistance(encoder, i=3).fit(pool)
    embeddings = knn.embed(pool)
    assert embeddings.shape == (60, 32) and embeddings.dtype == np.float32
    column = pool.map(knn, batched=True)["knn_3"][:]
    np.testing.assert_allclose(column, by_scikit_learn(embeddings, 3), atol=1e-6)


def test_embeddings_are_the_encoders_own(encoder):
    from sentence_transformers import SentenceTransformer

    pool = Dataset.from_dict({"instruction": ["red cat", "sun"], "input": ["blue", ""], "output": ["tea", "sea day"]})
    expected = SentenceTransformer(encoder).encode(
        ["red cat\n\nblue\n\ntea", "sun\n\nsea day"], normalize_embeddings=True
    )
    np.testing.assert_allclose(NeighborDistance(encoder).embed(pool), expected, atol=1e-6)


def test_a_loaded_model_gives_what_its_folder_gives(encoder):
    from sentence_transformers import SentenceTransformer

    pool = make_pool(20)
    by_folder = NeighborDistance(encoder, i=2).fit(pool)
    loaded = SentenceTransformer(encoder, device="cpu")
    by_object = NeighborDistance(loaded, i=2).fit(pool)
    assert by_object(pool[:]) == by_folder(pool[:])
    narrower = SentenceTransformer(encoder, device="cpu")
    narrower.max_seq_length = 4
    assert NeighborDistance(narrower, i=2).fit(pool)(pool[:]) != by_folder(pool[:])


def test_real_encoder(minilm):
    texts = ["The cat sat on the mat.", "A cat is sitting on a mat.", "Interest rates rose.", "The bank raised rates."]
    pool = Dataset.from_dict({"prompt": ["Say something."] * 5, "completion": [*texts, "Bonjour tout le monde !"]})
    distances = pool.map(NeighborDistance(minilm, i=1).fit(pool), batched=True)["knn_1"][:]
    assert distances[0] == distances[1] and distances[2] == distances[3]  # each other's nearest
    assert max(distances) == distances[4]


def test_special_tokens_in_the_data_are_text(encoder):
    texts = ["red [SEP] cat", "red [ sep ] cat", "red cat"]
    written, spelled, without = NeighborDistance(encoder).embed(
        Dataset.from_dict({"prompt": [""] * 3, "completion": texts})
    )
    np.testing.assert_allclose(written, spelled, atol=1e-6)
    assert np.abs(written - without).max() > 1e-3


def test_a_library_that_reads_special_tokens_from_the_data_is_found_out(encoder, monkeypatch):
    from sentence_transformers import SentenceTransformer

    encode = SentenceTransformer.encode
    monkeypatch.setattr(
        SentenceTransformer, "encode", lambda *args, processing_kwargs=None, **kwargs: encode(*args, **kwargs)
    )
    with pytest.raises(
        InstructMineError, match=r"reads '\[.*\]' in a text as a special token, also where it is asked"
    ):
        SentenceEncoder(encoder, 512).load()


def test_copies_in_the_pool_are_neighbours_at_zero(encoder):
    distinct = make_pool(10)
    pool = concatenate_datasets([distinct, distinct, distinct.select([4])])
    first = NeighborDistance(encoder, i=1).fit(pool)(pool[:])["knn_1"]
    second = NeighborDistance(encoder, i=2).fit(pool)(pool[:])["knn_2"]
    assert first == [0.0] * 21
    assert [row for row, distance in enumerate(second) if distance == 0] == [4, 14, 20]


def test_a_pool_of_one_text(encoder):
    pool = Dataset.from_dict({"prompt": ["red"] * 8, "completion": ["cat"] * 8})
    assert NeighborDistance(encoder, i=6).fit(pool)(pool[:])["knn_6"] == [0.0] * 8


def test_a_row_from_outside_gets_its_ith_nearest(encoder):
    pool, others = make_pool(40), make_pool(7, seed=1)
    knn = NeighborDistance(encoder, i=3).fit(pool)
    expected = by_scikit_learn(knn.embed(pool), 3, knn.embed(others))
    np.testing.assert_allclose(knn(others[:])["knn_3"], expected, atol=1e-6)
    mixed = concatenate_datasets([others, pool])
    np.testing.assert_allclose(knn(mixed[:])["knn_3"], [*expected, *knn(pool[:])["knn_3"]], atol=1e-6)


@settings(max_examples=10, deadline=None)
@given(st.randoms(), st.integers(1, 30))
def test_neither_order_nor_batches_change_a_value(encoder, tmp_path_factory, random, size):
    pool = make_pool(30)
    order = random.sample(range(30), 30)
    whole = NeighborDistance(encoder, i=2).fit(pool)(pool[:])["knn_2"]
    shuffled = pool.select(order)
    with pytest.MonkeyPatch.context() as patch:  # a cache folder of its own: everything is computed anew
        patch.setenv("HF_INSTRUCTMINE_CACHE", str(tmp_path_factory.mktemp("cache")))
        knn = NeighborDistance(encoder, i=2).fit(shuffled)
        parts = [value for start in range(0, 30, size) for value in knn(shuffled[start : start + size])["knn_2"]]
    assert parts == [whole[row] for row in order]


def test_rows_without_a_response_are_neither_scored_nor_neighbours(encoder):
    pool = make_pool(12)
    holes = Dataset.from_dict({"prompt": ["red cat"] * 3, "completion": ["", None, " \n"]})
    knn = NeighborDistance(encoder, i=2).fit(
        concatenate_datasets([pool.select([0]), holes, pool.select(range(1, 12))])
    )
    assert knn.pool == NeighborDistance(encoder, i=2).fit(pool).pool
    assert np.isnan(knn(holes[:])["knn_2"]).all()
    assert knn.notes == {"empty response": 2, "missing response": 1}
    assert np.isnan(knn.embed(concatenate_datasets([holes, pool]))).any(axis=1).tolist() == [True] * 3 + [False] * 12
    with pytest.raises(InstructMineError, match="nothing to embed"):
        knn.embed(holes)


def test_what_the_window_cuts_is_counted(encoder):
    fits, cut = "cat " * 13, "cat " * 14  # with "red", [CLS] and [SEP]: 16 and 17 tokens
    pool = Dataset.from_dict({"prompt": ["red"] * 3, "completion": [fits, cut, "dog"]})
    knn = NeighborDistance(encoder, i=1).fit(pool)
    knn(pool[:])
    assert knn.notes == {"truncated embedding": 1}
    knn({"prompt": ["red"], "completion": [cut + "dog"]})
    assert knn.notes == {"truncated embedding": 2}


def test_another_i_encodes_nothing(encoder, never_encode):
    pool = make_pool(30)
    second = NeighborDistance(encoder, i=2).fit(pool)(pool[:])["knn_2"]
    never_encode()
    fourth = NeighborDistance(encoder, i=4).fit(pool)(pool[:])["knn_4"]
    assert all(b > a for a, b in zip(second, fourth))


def test_a_killed_run_goes_on_where_it_was(encoder, cache, monkeypatch):
    monkeypatch.setattr(embedding_store, "PIECE", 8)
    pool, asked = make_pool(30), []
    unbroken = NeighborDistance(encoder, i=2).fit(pool)(pool[:])
    monkeypatch.setenv("HF_INSTRUCTMINE_CACHE", str(cache / "another"))
    encode = SentenceEncoder.encode

    def dies_at_the_third_chunk(self, texts):
        asked.append(len(texts))
        if len(asked) == 3:
            raise KeyboardInterrupt
        return encode(self, texts)

    monkeypatch.setattr(SentenceEncoder, "encode", dies_at_the_third_chunk)
    with pytest.raises(KeyboardInterrupt):
        NeighborDistance(encoder, i=2).fit(pool)
    resumed = NeighborDistance(encoder, i=2).fit(pool)
    assert asked == [8, 8, 8, 8, 6]
    assert resumed(pool[:]) == unbroken
    assert not list((cache / "another").rglob(".*"))  # nothing half written is left behind


@pytest.mark.skipif(sys.platform == "win32", reason="processes are forked")
def test_killed_and_gone_on_with_by_two_processes_at_once(encoder, cache, monkeypatch):
    monkeypatch.setattr(embedding_store, "PIECE", 4)
    pool, fork = make_pool(60), multiprocessing.get_context("fork")
    unbroken = NeighborDistance(encoder, i=2).fit(pool)
    monkeypatch.setenv("HF_INSTRUCTMINE_CACHE", str(cache / "another"))
    encode, asked = SentenceEncoder.encode, []

    def dies(self, texts):
        asked.append(texts)
        return encode(self, texts) if len(asked) < 4 else os._exit(9)

    with monkeypatch.context() as patch:
        patch.setattr(SentenceEncoder, "encode", dies)
        processes = [fork.Process(target=NeighborDistance(encoder, i=2).fit, args=(pool,)) for _ in range(2)]
        for process in processes:
            process.start()
        for process in processes:
            process.join(60)
    assert [process.exitcode for process in processes] == [9, 9]
    processes = [fork.Process(target=NeighborDistance(encoder, i=2).fit, args=(pool,)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0]
    found = NeighborDistance(encoder, i=2).fit(pool)
    assert found.pool == unbroken.pool
    assert found(pool[:]) == unbroken(pool[:])


def test_one_more_row_encodes_one_row(encoder, monkeypatch):
    encode, asked = SentenceEncoder.encode, []
    monkeypatch.setattr(SentenceEncoder, "encode", lambda self, texts: (asked.append(texts), encode(self, texts))[1])
    pool = make_pool(30)
    NeighborDistance(encoder, i=2).fit(pool)
    assert sum(map(len, asked)) == 30
    asked.clear()
    more = concatenate_datasets([Dataset.from_dict({"prompt": ["red"], "completion": ["sea"]}), pool])
    found = NeighborDistance(encoder, i=2).fit(more)
    assert asked == [["red\n\nsea"]]
    embeddings = found.embed(more)
    NeighborDistance(encoder).embed(pool.select(range(5, 20)))
    assert len(asked) == 1  # nor does a part of what there is
    np.testing.assert_allclose(found(more[:])["knn_2"], by_scikit_learn(embeddings, 2), atol=1e-6)


def test_it_must_be_fitted_first(encoder):
    with pytest.raises(InstructMineError, match=r"fit\(pool\)"):
        NeighborDistance(encoder)(make_pool(3)[:])


def test_an_i_as_large_as_the_pool_is_refused(encoder, never_encode):
    never_encode()
    with pytest.raises(InstructMineError, match="i=6 needs a pool of at least 7 rows with a response, this one has 6"):
        NeighborDistance(encoder, i=6).fit(make_pool(6))
    with pytest.raises(InstructMineError, match="at least 1"):
        NeighborDistance(encoder, i=0)


def test_a_pool_beyond_the_exact_size_needs_faiss(encoder, never_encode, monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    never_encode()
    with pytest.raises(InstructMineError, match=r"pip install hf-instructmine\[faiss\]"):
        NeighborDistance(encoder, i=2, exact_up_to=20).fit(make_pool(30))


def test_pickle_holds_the_digest_of_the_pool_alone(encoder, never_encode):
    pool = make_pool(200)
    knn = NeighborDistance(encoder, i=2).fit(pool)
    values = knn(pool[:])
    sent = pickle.dumps(knn)
    assert len(sent) < 1500
    assert Hasher.hash(knn) == Hasher.hash(pickle.loads(sent)) == Hasher.hash(NeighborDistance(encoder, i=2).fit(pool))
    assert Hasher.hash(knn) != Hasher.hash(NeighborDistance(encoder, i=2).fit(pool.select(range(199))))
    never_encode()
    assert pickle.loads(sent)(pool[:]) == values


def test_another_process_hashes_alike(encoder, tmp_path):
    pool = make_pool(20)
    pool.to_parquet(tmp_path / "pool.parquet")
    code = f"""
from datasets import Dataset
from datasets.fingerprint import Hasher
from hf_instructmine import NeighborDistance
pool = Dataset.from_parquet({str(tmp_path / "pool.parquet")!r}, cache_dir={str(tmp_path / "datasets")!r})
print(Hasher.hash(NeighborDistance({encoder!r}, i=2).fit(pool)))
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == Hasher.hash(NeighborDistance(encoder, i=2).fit(pool))


def test_worker_processes(encoder):
    pool = make_pool(30)
    knn = NeighborDistance(encoder, i=2).fit(pool)
    parallel = pool.map(knn, batched=True, batch_size=8, num_proc=2)["knn_2"][:]
    assert parallel == knn(pool[:])["knn_2"]


def test_embeddings_that_are_gone_are_asked_for_again(encoder, cache):
    import shutil

    knn = NeighborDistance(encoder, i=2).fit(make_pool(10))
    shutil.rmtree(cache)
    with pytest.raises(InstructMineError, match=r"call fit\(pool\) again"):
        knn(make_pool(10)[:])


def test_provenance_names_the_encoder_and_no_path(encoder):
    record = NeighborDistance(encoder, i=2).fit(make_pool(10)).provenance()
    assert record.pop("weights").startswith("xxh64:")
    assert record == {
        "indicator": "NeighborDistance", "model": "tiny-encoder", "dtype": "float32", "i": 2, "search": "exact",
    }  # fmt: skip


def test_an_encoder_that_is_not_there(tmp_path):
    with pytest.raises(InstructMineError, match="cannot load the sentence encoder"):
        NeighborDistance(str(tmp_path / "none"), i=2).fit(make_pool(10))


def test_reasonings_of_one_answer_are_no_copies(encoder):
    def row(text):
        answer = {"role": "assistant", "content": "one", "thinking": text}
        return {"messages": [{"role": "user", "content": "red"}, answer]}

    pool = Dataset.from_list([row(text) for text in ("cat", "dog", "cat")])
    distances = pool.map(NeighborDistance(encoder, 1).fit(pool), batched=True)["knn_1"][:]
    assert distances[0] == distances[2] == pytest.approx(0, abs=1e-6)
    assert distances[1] > 1e-3
