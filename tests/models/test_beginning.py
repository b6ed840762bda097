"""What several texts begin with is run once where the model remembers every token, and not at all elsewhere."""

import numpy as np
import pytest
import torch
from tiny_kinds import CAUSAL, RECURRENT, larger, tiny_kind

from hf_instructmine.models.beginning import Beginning, alike, remembers_every_token
from hf_instructmine.models.engine import response_nll
from hf_instructmine.models.loading import LoadedModel


SEQUENCES = [[*range(1, 31), 40 + i, *range(200, 200 + i)] for i in range(8)]
# By windows or by states.
OTHERWISE = {*RECURRENT, "cohere2", "gemma2", "gemma3_text", "gpt_oss", "mistral", "modernbert-decoder"}


def nll_alone(model, ids, start):
    with torch.no_grad():
        log_probabilities = model(torch.tensor([ids]), use_cache=False).logits[0].double().log_softmax(-1)
    return [-log_probabilities[t - 1, ids[t]].item() for t in range(start, len(ids))]


@pytest.mark.parametrize("kind", CAUSAL)
def test_each_kind_of_memory_gives_the_values_of_plain_forward_passes(kind, caplog):
    model = larger(tiny_kind(kind), 3)
    loaded = LoadedModel(model, None, 1000)
    for ids, nll in zip(SEQUENCES, response_nll(loaded, SEQUENCES, [31] * 8)):
        np.testing.assert_allclose(nll, nll_alone(model, ids, 31), rtol=1e-4, atol=1e-5)
    # Told from the configuration, not from a forward pass that fails or gives something else.
    assert loaded.reads_cache is (None if kind in OTHERWISE else True)
    assert not [record for record in caplog.records if record.name.startswith("hf_instructmine")]


def test_a_model_without_a_layer_that_attends_is_not_even_asked_to_remember(monkeypatch):
    model = tiny_kind("jamba")
    monkeypatch.setattr(Beginning, "_run", pytest.fail)
    assert not remembers_every_token(model)
    assert Beginning.shared_by(LoadedModel(model, None, 1000), SEQUENCES, [31] * 8) is None


def test_a_model_that_puts_a_prompt_of_its_own_before_every_text_has_no_beginning_to_share():
    prompted = {"dim_head": 8, "dim_ff": 48, "prompt_length": 4, "prompt_types": 4, "segment_types": 4}
    loaded = LoadedModel(tiny_kind("cpmant", **prompted), None, 1000)
    assert Beginning.shared_by(loaded, SEQUENCES, [31] * 8) is None


def test_texts_are_alike_where_most_begin_with_the_same_tokens():
    texts = [[*range(9), 50], [*range(9), 51], [*range(20, 30)], [*range(9), 52]]
    assert alike(texts, [9] * 4, range(4), least=1) == [0, 1, 3]
    assert alike(texts, [9, 9, 9, 5], range(4), least=1) == [0, 1]  # the last one's response starts too early
    assert alike(texts, [9] * 4, range(4), least=3) == []
    assert alike(texts, [9] * 4, [], least=0) == []
