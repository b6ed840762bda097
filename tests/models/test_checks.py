"""What a model is, looked at once on loading: whether it sees the future, and whether the tokenizer is its own."""

import pytest
import torch
from tiny_kinds import CAUSAL, SEES_ALL, larger, tiny_kind
from tiny_models import (
    CHATML,
    ROWS,
    byte_tokenizer,
    causal_model,
    conversations_of,
    metaspace_tokenizer,
    reward_classifier,
    save,
    t5_model,
    unigram_tokenizer,
)
from transformers import AddedToken

from hf_instructmine import InstructMineError, NeighborDistance, Perplexity, Reward, UniEval
from hf_instructmine.finetuning.base_model import load_base
from hf_instructmine.finetuning.recipe import Recipe
from hf_instructmine.models.checks import check_causal, check_vocabulary, embedding_rows


BATCH = conversations_of(ROWS)


def base_of(folder: str):
    settings = {"model_name_or_path": folder, "dtype": "float32", "bf16": False, "use_cpu": True}
    return load_base(Recipe(settings).arguments())


# Whether it sees the future


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", CAUSAL)
def test_what_reads_from_left_to_right_is_taken(kind, dtype):
    model = tiny_kind(kind).to(dtype)
    check_causal(model, kind)
    check_causal(larger(model), kind)


@pytest.mark.parametrize("kind", SEES_ALL)
def test_what_sees_the_whole_text_is_refused(kind):
    with pytest.raises(InstructMineError, match=rf"the model '{kind}' .* is no causal language model: it sees the"):
        check_causal(tiny_kind(kind), kind)


@pytest.mark.parametrize("kind", SEES_ALL)
def test_it_is_refused_in_half_precision_too(kind):
    with pytest.raises(InstructMineError, match=r"is no causal language model"):
        check_causal(larger(tiny_kind(kind), 10).bfloat16(), kind)


def test_an_encoder_that_is_told_to_read_from_left_to_right_is_taken():
    check_causal(tiny_kind("bert", is_decoder=True), "bert")


def test_every_way_to_a_language_model_is_looked_at(tmp_path):
    tokenizer = byte_tokenizer(chat_template=CHATML)
    model = tiny_kind("bert")
    folder = save(tmp_path / "bert", model, tokenizer)
    for way in (lambda: Perplexity(model, tokenizer), lambda: Perplexity(folder)(BATCH), lambda: base_of(folder)):
        with pytest.raises(InstructMineError, match=r"\(BertLMHeadModel\) is no causal language model") as error:
            way()
        assert "\n" not in str(error.value)


def test_a_reward_model_and_an_encoder_and_decoder_may_see_the_whole_text():
    tokenizer, pieces = byte_tokenizer(pad="<|endoftext|>", chat_template=CHATML), unigram_tokenizer()
    assert Reward(reward_classifier("bert", tokenizer), tokenizer)(conversations_of(ROWS[:1]))["reward"]
    assert UniEval(t5_model(pieces, tied=False), pieces)(conversations_of(ROWS[:1]))["coherence"]


def test_a_model_that_cannot_run_a_text_is_named_in_one_line(monkeypatch):
    model = causal_model("llama", byte_tokenizer())

    def refuse(*_, **__):
        raise ValueError("Input language unknown.\nPlease call `set_default_language()`")

    monkeypatch.setattr(model, "forward", refuse)
    with pytest.raises(InstructMineError, match=r"^the model 'm' cannot run a plain text: Input language unknown.$"):
        check_causal(model, "m")


# Whether the tokenizer is the model's


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, str]:
    root, pieces = tmp_path_factory.mktemp("models"), unigram_tokenizer()
    tokenizer = byte_tokenizer(chat_template=CHATML)
    large = metaspace_tokenizer()
    large.chat_template = CHATML
    large.save_pretrained(root / "large")
    # As after a tokenizer was copied beside a model that it does not belong to.
    mixed = save(root / "mixed", causal_model("llama", tokenizer), large)
    return {
        "perplexity": save(root / "llama", causal_model("llama", tokenizer), tokenizer),
        "reward": save(root / "reward", reward_classifier("llama", tokenizer), tokenizer),
        "unieval": save(root / "t5", t5_model(pieces, tied=False), pieces),
        "large": str(root / "large"),
        "mixed": mixed,
    }


@pytest.mark.parametrize("make", [Perplexity, Reward, UniEval], ids=lambda make: make.__name__.lower())
def test_a_tokenizer_of_a_larger_vocabulary_is_refused_and_both_are_named(folders, make):
    model = folders[make.__name__.lower()]
    message = rf"the tokenizer '{folders['large']}' gives ids up to 505 \('<0xFF>'\), but the model '{model}' has "
    with pytest.raises(InstructMineError, match=message) as error:
        make(model, folders["large"])(BATCH)
    assert "\n" not in str(error.value)


def test_a_loaded_model_and_a_base_model_are_looked_at_too(folders):
    with pytest.raises(InstructMineError, match=r"embeddings for 330 tokens: pass the model's own tokenizer"):
        Perplexity(causal_model("llama", byte_tokenizer()), metaspace_tokenizer())
    with pytest.raises(InstructMineError, match=r"gives ids up to 505"):
        base_of(folders["mixed"])


def test_a_sentence_encoder_is_looked_at_too(tmp_path):
    pytest.importorskip("sentence_transformers")
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.models import Pooling, Transformer
    from tiny_models import wordpiece_tokenizer
    from transformers import BertConfig, BertModel

    small = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 4}
    tokenizer = wordpiece_tokenizer()
    for size, folder in ((len(tokenizer), tmp_path / "fits"), (50, tmp_path / "small")):
        words = Transformer(save(folder, BertModel(BertConfig(vocab_size=size, **small)), tokenizer))
        encoder = SentenceTransformer(modules=[words, Pooling(32, "mean")], device="cpu")
        if size == len(tokenizer):
            NeighborDistance(encoder, i=1)
            continue
        with pytest.raises(InstructMineError, match=r"but the model '.*' has embeddings for 50 tokens"):
            NeighborDistance(encoder, i=1)


def test_embeddings_beyond_the_vocabulary_are_no_fault():
    tokenizer = byte_tokenizer()
    check_vocabulary(tiny_kind("llama", vocab_size=512), tokenizer, "padded to a round size")


def test_a_special_token_that_nothing_writes_needs_no_embedding():
    tokenizer = byte_tokenizer(chat_template=CHATML)
    model = causal_model("llama", tokenizer)
    tokenizer.add_special_tokens({"additional_special_tokens": [AddedToken("<picture>", special=True)]})
    check_vocabulary(model, tokenizer, "Gemma 3's smallest")
    # It does where the template writes it, ...
    tokenizer.chat_template = "<picture>" + CHATML
    with pytest.raises(InstructMineError, match=r"gives ids up to 330 \('<picture>'\)"):
        check_vocabulary(model, tokenizer, "m")
    # ... and so does one that pads, where texts are padded with it.
    padded = byte_tokenizer(chat_template=CHATML)
    padded.add_special_tokens({"pad_token": "[PAD]"})
    check_vocabulary(model, padded, "m")
    with pytest.raises(InstructMineError, match=r"gives ids up to 330 \('\[PAD\]'\)"):
        check_vocabulary(model, padded, "m", pads=True)


def test_an_added_token_that_any_text_may_hold_needs_one():
    tokenizer = byte_tokenizer()
    model = causal_model("llama", tokenizer)
    tokenizer.add_tokens(["<think>"])
    with pytest.raises(InstructMineError, match=r"gives ids up to 330 \('<think>'\)"):
        check_vocabulary(model, tokenizer, "m")


def test_the_rows_of_the_embeddings_are_counted():
    assert embedding_rows(causal_model("gpt2", byte_tokenizer())) == len(byte_tokenizer())
