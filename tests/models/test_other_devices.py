"""Every tensor that meets a model is on the model's device.

PyTorch's meta device, which has no values, stands in for a GPU: what stays behind on the CPU cannot be used with it.
"""

from contextlib import nullcontext

import pytest
import torch
from tiny_models import (
    byte_tokenizer,
    causal_model,
    reward_classifier,
    t5_model,
    unigram_tokenizer,
    wordpiece_tokenizer,
)

from hf_instructmine.finetuning import trunk
from hf_instructmine.indicators.reward import rewards
from hf_instructmine.indicators.unieval import yes_probabilities
from hf_instructmine.models import engine
from hf_instructmine.models.beginning import Beginning
from hf_instructmine.models.checks import check_causal
from hf_instructmine.models.engine import pad_with_mask, response_nll
from hf_instructmine.models.loading import LoadedModel


TOKENIZER = byte_tokenizer(pad="<|endoftext|>")
# All begin alike, and differ in length.
SEQUENCES = [[*range(12), 40 + i, *range(200, 203 + i)] for i in range(4)]


def tensors_in(value):
    """The tensors in arguments, caches included."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, dict):
        yield from tensors_in(list(value.values()))
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from tensors_in(item)
    elif hasattr(value, "layers"):
        yield from tensors_in([(layer.keys, layer.values) for layer in value.layers])


def devices_met(model, run) -> set[str]:
    """Runs something that feeds a model until a value is asked for, and says where all it was fed with was."""
    met = set()
    for module in model.modules():
        module.register_forward_pre_hook(
            lambda _, args, kwargs: met.update(t.device.type for t in tensors_in([args, kwargs])), with_kwargs=True
        )
    # There are no values to copy, or to look for those that are true.
    with pytest.raises((NotImplementedError, RuntimeError), match="meta"):
        run()
    return met


def elsewhere(model, tokenizer=TOKENIZER, **kwargs):
    return LoadedModel(model.to("meta"), tokenizer, 1000, **kwargs)


@pytest.fixture
def positions(monkeypatch):
    """Where the positions are at which the head runs."""
    devices, head_on = set(), engine.head_on

    def noted(model, where):
        devices.add(where.device.type)
        return head_on(model, where)

    monkeypatch.setattr(engine, "head_on", noted)
    return devices


def test_tokens(positions):
    loaded = elsewhere(causal_model("llama", TOKENIZER), reads_cache=False)
    assert devices_met(loaded.model, lambda: response_nll(loaded, SEQUENCES, [13] * 4)) == {"meta"}
    assert positions == {"meta"}


def test_what_a_trunk_gives(positions):
    loaded = elsewhere(causal_model("llama", TOKENIZER))
    vectors = [torch.zeros(len(ids), 32) for ids in SEQUENCES]  # read from disk
    assert devices_met(loaded.model, lambda: response_nll(loaded, SEQUENCES, [13] * 4, vectors)) == {"meta"}
    assert positions == {"meta"}


def test_a_beginning_that_is_shared(positions):
    loaded = elsewhere(causal_model("llama", TOKENIZER), reads_cache=True)
    beginning = Beginning.shared_by(loaded, SEQUENCES, [13] * 4)
    assert beginning.length == 12
    assert {t.device.type for t in tensors_in(beginning.cache(4))} == {"meta"}
    assert devices_met(loaded.model, lambda: response_nll(loaded, SEQUENCES, [13] * 4)) == {"meta"}
    assert positions == {"meta"}


def test_the_frozen_layers_of_a_trunk(monkeypatch):
    monkeypatch.setattr(trunk, "evaluating", lambda *_: nullcontext())  # autocast knows no meta device
    loaded = elsewhere(causal_model("llama", TOKENIZER))
    assert devices_met(loaded.model, lambda: trunk._lower_layers(loaded, 1, SEQUENCES, bf16=False)) == {"meta"}


def test_the_check_on_loading():
    model = causal_model("llama", TOKENIZER).to("meta")
    assert devices_met(model, lambda: check_causal(model, "m")) == {"meta"}


@pytest.mark.parametrize("kind", ["llama", "bert"])
def test_rewards(kind):
    loaded = elsewhere(reward_classifier(kind, TOKENIZER, pad_token_id=0))
    assert devices_met(loaded.model, lambda: rewards(loaded, SEQUENCES)) == {"meta"}


def test_questions_to_an_encoder_and_decoder():
    tokenizer = unigram_tokenizer()
    loaded = elsewhere(t5_model(tokenizer, tied=True), tokenizer)
    assert devices_met(loaded.model, lambda: yes_probabilities(loaded, [[5, 6, 7, 1], [8, 1]])) == {"meta"}


def test_sentences(tmp_path):
    pytest.importorskip("sentence_transformers")
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.models import Pooling, Transformer
    from tiny_models import save
    from transformers import BertConfig, BertModel

    from hf_instructmine.models.sentence_encoder import SentenceEncoder

    tokenizer = wordpiece_tokenizer()
    small = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 4}
    words = Transformer(save(tmp_path, BertModel(BertConfig(vocab_size=len(tokenizer), **small)), tokenizer))
    encoder = SentenceEncoder(SentenceTransformer(modules=[words, Pooling(32, "mean")], device="cpu"), 1000)
    model = encoder.load().model.to("meta")
    assert devices_met(model[0].model, lambda: encoder.encode(["a b", "c"])) == {"meta"}


def test_a_mask_is_where_its_ids_are():
    ids, mask = pad_with_mask(SEQUENCES, torch.device("meta"))
    assert ids.device.type == mask.device.type == "meta"
