"""Micro-batches: every item once, in the caller's order, within the budget; memory running out halves the budget."""

from types import SimpleNamespace
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_kinds import larger, tiny_kind
from tiny_models import byte_tokenizer, causal_model

from hf_instructmine import InstructMineError
from hf_instructmine.models.beginning import cache_argument
from hf_instructmine.models.engine import (
    LOGIT_ROWS,
    any_shape,
    logit_rows,
    own_forward,
    pad_with_mask,
    response_nll,
    run_sorted,
    token_nll,
)
from hf_instructmine.models.loading import LoadedModel


def budget_of(tokens):
    return SimpleNamespace(token_budget=tokens, alone_from=float("inf"), device=torch.device("cpu"))


@given(st.lists(st.integers(1, 60), max_size=40), st.integers(1, 200))
def test_results_come_in_the_callers_order_from_batches_within_the_budget(lengths, budget):
    batches = []

    def forward(batch):
        batches.append(batch)
        return [f"item {i}" for i in batch]

    assert run_sorted(budget_of(budget), lengths, forward) == [f"item {i}" for i in range(len(lengths))]
    assert all(len(b) == 1 or len(b) * max(lengths[i] for i in b) <= budget for b in batches)
    assert [lengths[i] for b in batches for i in b] == sorted(lengths, reverse=True)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"),
        RuntimeError("MPS backend out of memory"),
        MemoryError(),
    ],
)
def test_out_of_memory_halves_the_budget_until_it_suffices(error):
    lengths = [10] * 16

    def forward(batch):
        if len(batch) * 10 > 45:
            raise error
        return batch

    loaded = budget_of(10_000)
    assert run_sorted(loaded, lengths, forward) == list(range(16))
    assert loaded.token_budget == 40  # 160, 80, 40: what had been tried is halved, not a budget that was never reached


def test_without_padding_all_of_one_length_come_at_once_and_memory_is_kept_to_within():
    loaded, asked = budget_of(60), []

    def forward(batch):
        asked.append([lengths[i] for i in batch])
        if min(loaded.token_budget // asked[-1][0], len(batch)) > 2:
            raise MemoryError
        return batch

    lengths = [10, 4, 10, 10, 4, 10]
    assert run_sorted(loaded, lengths, forward, padded=False) == list(range(6))
    assert asked == [[10] * 4] * 2 + [[4, 4]] and loaded.token_budget == 20
    with pytest.raises(InstructMineError, match="one text of 3 tokens does not fit"):
        run_sorted(budget_of(100), [3] * 5, Mock(side_effect=MemoryError), padded=False)


def test_one_text_too_long_for_memory_says_what_to_do():
    def forward(batch):
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(InstructMineError, match="one text of 7 tokens does not fit into memory: lower max_length"):
        run_sorted(budget_of(100), [3, 7], forward)


def test_any_other_error_is_the_callers_to_see():
    def forward(batch):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        run_sorted(budget_of(100), [3, 7], forward)


def test_nothing_to_run_runs_nothing():
    assert run_sorted(budget_of(100), [], pytest.fail) == []


def test_token_nll_is_the_log_softmax_of_the_target_in_blocks_of_any_size():
    logits, targets = torch.randn(1300, 17), torch.randint(17, (1300,))
    expected = -logits.double().log_softmax(-1)[torch.arange(1300), targets]
    torch.testing.assert_close(token_nll(logits, targets).double(), expected, atol=1e-6, rtol=1e-5)


def test_blocks_of_logits_fit_a_cpus_cache_and_fill_a_gpu():
    assert logit_rows(torch.zeros(1, 49152)) == LOGIT_ROWS
    elsewhere = logit_rows(torch.zeros(1, 49152, device="meta"))
    assert elsewhere * 49152 * 4 <= 2**29 < 2 * elsewhere * 49152 * 4
    assert logit_rows(torch.zeros(1, 2**28, device="meta")) == 1


@pytest.mark.parametrize("preferred", [True, False])
def test_a_gpu_prepares_no_attention_for_each_shape_and_is_left_as_it_was(preferred):
    before = torch.backends.cuda.cudnn_sdp_enabled()
    torch.backends.cuda.enable_cudnn_sdp(preferred)
    try:
        with pytest.raises(KeyError), any_shape(torch.device("cuda")):
            assert not torch.backends.cuda.cudnn_sdp_enabled()
            raise KeyError
        assert torch.backends.cuda.cudnn_sdp_enabled() is preferred
        with any_shape(torch.device("cpu")):
            assert torch.backends.cuda.cudnn_sdp_enabled() is preferred
    finally:
        torch.backends.cuda.enable_cudnn_sdp(before)


def test_token_nll_of_half_precision_logits_is_computed_in_single():
    logits = torch.randn(5, 9).bfloat16()
    assert token_nll(logits, torch.zeros(5, dtype=torch.long)).dtype == torch.float32


def test_logits_of_other_positions_than_the_targets_are_no_scores():
    with pytest.raises(ValueError, match=r"logits of shape \(32, 9\) for 16 targets"):
        token_nll(torch.randn(32, 9), torch.zeros(16, dtype=torch.long))


def test_padding_stands_on_the_right_and_is_hidden():
    ids, mask = pad_with_mask([[5, 6, 7], [8]], torch.device("cpu"), pad_id=3)
    assert ids.tolist() == [[5, 6, 7], [8, 3, 3]]
    assert mask.tolist() == [[1, 1, 1], [1, 0, 0]]


_TOKENIZER = byte_tokenizer()
_MODELS = {kind: causal_model(kind, _TOKENIZER) for kind in ("llama", "gpt2", "qwen2")}


@pytest.mark.parametrize("kind", _MODELS)
@given(
    st.lists(st.tuples(st.lists(st.integers(0, 329), min_size=2, max_size=40), st.floats(0, 1)), max_size=8),
    st.integers(1, 300),
)
@settings(deadline=None, max_examples=15)
def test_each_response_token_has_the_nll_of_a_forward_pass_alone(kind, items, budget):
    model = _MODELS[kind]
    sequences = [ids for ids, _ in items]
    starts = [max(1, round(share * (len(ids) - 1))) for ids, share in items]
    scored = response_nll(LoadedModel(model, _TOKENIZER, budget), sequences, starts)
    for ids, start, nll in zip(sequences, starts, scored):
        with torch.no_grad():
            log_probabilities = model(torch.tensor([ids])).logits[0].double().log_softmax(-1)
        expected = [-log_probabilities[t - 1, ids[t]].item() for t in range(start, len(ids))]
        np.testing.assert_allclose(nll, expected, rtol=1e-4, atol=1e-5)


def nll_alone(model, ids, start):
    with torch.no_grad():
        log_probabilities = model(torch.tensor([ids])).logits[0].double().log_softmax(-1)
    return [-log_probabilities[t - 1, ids[t]].item() for t in range(start, len(ids))]


@pytest.mark.parametrize("kind", _MODELS)
@pytest.mark.parametrize("budget", [1, 60, 1000])
def test_a_beginning_that_is_shared_changes_no_score(kind, budget):
    rng = np.random.default_rng(0)
    beginning = rng.integers(330, size=20).tolist()
    ends = [rng.integers(330, size=size).tolist() for size in (1, 2, 5, 30, 30)]
    sequences = [beginning + end for end in ends] + [beginning + ends[0], beginning[5:] + ends[2], ends[3], [7, 7]]
    starts = [20, 20, 22, 20, 45, 12, 15, 1, 1]  # one response starts within the beginning, three rows lack it
    scored = response_nll(LoadedModel(_MODELS[kind], _TOKENIZER, budget), sequences, starts)
    for ids, start, nll in zip(sequences, starts, scored):
        np.testing.assert_allclose(nll, nll_alone(_MODELS[kind], ids, start), rtol=1e-4, atol=1e-5)


def test_a_beginning_that_is_shared_is_run_once(monkeypatch):
    run, model = [], causal_model("llama", _TOKENIZER)
    forward = model.model.forward

    def counted(input_ids, **kwargs):
        run.append(input_ids.numel())
        return forward(input_ids, **kwargs)

    monkeypatch.setattr(model.model, "forward", counted)
    loaded = LoadedModel(model, _TOKENIZER, 1000)
    sequences = [[*range(100), 200 + i, 300] for i in range(10)]
    # All but the token that predicts the first of the response; and the last token predicts nothing. The first time
    # four texts are run from the cache and in one piece besides, to see that both agree.
    response_nll(loaded, sequences, [100] * 10)
    assert run == [99, *[2, 101] * 4, 10 * 2]
    run.clear()
    response_nll(loaded, sequences, [100] * 10)
    assert run == [99, 10 * 2]


SHARING = [[*range(30), 40 + i, *range(200, 210)] for i in range(8)]


def prepared(model, mixed_precision):
    """A model as a trainer leaves it: Accelerate has wrapped its `forward`."""
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(reset_partial_state=True)
    return Accelerator(cpu=True, mixed_precision=mixed_precision).prepare_model(model)


@pytest.mark.parametrize("mixed_precision", ["no", "bf16"])
def test_a_model_that_accelerate_prepared_gives_the_values_it_had(mixed_precision, caplog):
    model = prepared(causal_model("llama", _TOKENIZER), mixed_precision)
    with own_forward(model):
        scored = response_nll(LoadedModel(model, _TOKENIZER, 1000), SHARING, [31] * len(SHARING))
    for ids, nll in zip(SHARING, scored):
        np.testing.assert_allclose(nll, nll_alone(causal_model("llama", _TOKENIZER), ids, 31), rtol=1e-4, atol=1e-5)
    assert not caplog.records


def test_a_forward_whose_renamed_arguments_are_no_longer_translated_changes_no_score(caplog):
    # As `Accelerator.unwrap_model(keep_fp32_wrapper=False)` leaves it: below transformers' own decorators too.
    model = prepared(causal_model("llama", _TOKENIZER), "bf16")
    forward = type(model).forward
    while hasattr(forward, "__wrapped__"):
        forward = forward.__wrapped__
    model.forward = forward.__get__(model)
    scored = response_nll(LoadedModel(model, _TOKENIZER, 1000), SHARING, [31] * len(SHARING))
    for ids, nll in zip(SHARING, scored):
        np.testing.assert_allclose(nll, nll_alone(causal_model("llama", _TOKENIZER), ids, 31), rtol=1e-4, atol=1e-5)
    assert not caplog.records


def test_a_model_wrapped_for_several_processes_gives_the_values_it_had(caplog):
    import torch.distributed as dist

    store = dist.HashStore()
    dist.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        model = causal_model("llama", _TOKENIZER)
        wrapped = torch.nn.parallel.DistributedDataParallel(model)
        assert cache_argument(wrapped) == cache_argument(model) is not None
        scored = response_nll(LoadedModel(wrapped.module, _TOKENIZER, 1000), SHARING, [31] * len(SHARING))
    finally:
        dist.destroy_process_group()
    for ids, nll in zip(SHARING, scored):
        np.testing.assert_allclose(nll, nll_alone(model, ids, 31), rtol=1e-4, atol=1e-5)
    assert not caplog.records


@pytest.mark.parametrize("first_seen", ["when it is loaded", "later"])
def test_a_library_that_ignores_the_cache_changes_no_score(monkeypatch, caplog, first_seen):
    model = causal_model("llama", _TOKENIZER)
    forward = type(model).forward

    def ignoring(self, input_ids=None, use_cache=None, **kwargs):
        kwargs.pop(cache_argument(model), None)
        return forward(self, input_ids=input_ids, use_cache=use_cache, **kwargs)

    ignoring.__wrapped__ = forward
    loaded = LoadedModel(model, _TOKENIZER, 1000)
    if first_seen == "later":
        loaded.reads_cache = True
    monkeypatch.setattr(type(model), "forward", ignoring)
    for _ in range(2):
        scored = response_nll(loaded, SHARING, [31] * len(SHARING))
        for ids, nll in zip(SHARING, scored):
            np.testing.assert_allclose(nll, nll_alone(model, ids, 31), rtol=1e-4, atol=1e-5)
    (said,) = [record.getMessage() for record in caplog.records]
    assert said.startswith("LlamaForCausalLM does not read the cache that it is given as")


def test_a_model_whose_positions_start_anew_after_its_cache_changes_no_score(monkeypatch, caplog):
    model = causal_model("llama", _TOKENIZER)
    forward = model.model.forward

    def misplaced(input_ids=None, **kwargs):
        kwargs["position_ids"] = torch.arange(input_ids.shape[1])[None]
        return forward(input_ids=input_ids, **kwargs)

    monkeypatch.setattr(model.model, "forward", misplaced)
    scored = response_nll(LoadedModel(model, _TOKENIZER, 1000), SHARING, [31] * len(SHARING))
    for ids, nll in zip(SHARING, scored):
        np.testing.assert_allclose(nll, nll_alone(model, ids, 31), rtol=1e-4, atol=1e-5)
    assert "LlamaForCausalLM gives other values where the beginning of a text is cached" in caplog.text


def test_a_model_with_another_memory_than_keys_and_values_runs_every_token():
    from transformers import MistralConfig, MistralForCausalLM

    torch.manual_seed(0)
    config = MistralConfig(
        vocab_size=330, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, sliding_window=6,
    )  # fmt: skip
    model = MistralForCausalLM(config).eval()
    sequences = [[*range(20), 100 + i, *range(200, 210)] for i in range(4)]
    for ids, nll in zip(sequences, response_nll(LoadedModel(model, _TOKENIZER, 1000), sequences, [21] * 4)):
        np.testing.assert_allclose(nll, nll_alone(model, ids, 21), rtol=1e-4, atol=1e-5)


def test_the_models_attention_is_as_before_afterwards():
    model = causal_model("llama", _TOKENIZER).bfloat16()
    implementation = model.config._attn_implementation
    (nll,) = response_nll(LoadedModel(model, _TOKENIZER, 100), [[1, 2, 3, 4]], [2])
    assert model.config._attn_implementation == implementation
    np.testing.assert_allclose(nll, nll_alone(model, [1, 2, 3, 4], 2), rtol=0.1)


def test_the_budget_is_what_is_fast_on_the_device_unless_given():
    assert LoadedModel(_MODELS["llama"], _TOKENIZER).token_budget == 512
    assert LoadedModel(_MODELS["llama"], _TOKENIZER, 99).token_budget == 99
    assert LoadedModel(SimpleNamespace(device=torch.device("cuda")), _TOKENIZER).token_budget == 4096


def test_a_sequence_with_nothing_to_score_gives_nothing_and_harms_no_other():
    loaded = LoadedModel(_MODELS["llama"], _TOKENIZER, 1000)
    alone = response_nll(loaded, [[1, 2, 3]], [1])[0]
    without, empty, sound = response_nll(loaded, [[5], [], [1, 2, 3]], [1, 1, 1])
    assert len(without) == len(empty) == 0
    np.testing.assert_allclose(sound, alone, rtol=1e-5)
    assert response_nll(loaded, [], []) == []


def test_the_models_head_is_as_before_afterwards():
    model = _MODELS["llama"]
    ids = torch.tensor([[1, 2, 3, 4]])
    before = model(ids).logits
    response_nll(LoadedModel(model, _TOKENIZER, 100), [[1, 2, 3, 4]], [2])
    assert torch.equal(model(ids).logits, before)


# Rotary frequencies that depend on the longest text of a batch

_ROPE = {
    "longrope": {
        "rope_type": "longrope", "rope_theta": 10000.0, "short_factor": [1.0] * 4, "long_factor": [9.0] * 4,
        "original_max_position_embeddings": 16,
    },
    "dynamic": {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 8.0},
}  # fmt: skip


def stretched(kind):
    """A model that was first trained on 16 tokens, and reads longer texts with other frequencies."""
    settings = {"max_position_embeddings": 16 if kind == "dynamic" else 128, "rope_parameters": dict(_ROPE[kind])}
    extra = {"original_max_position_embeddings": 16} if kind == "longrope" else {}
    return larger(tiny_kind("phi3" if kind == "longrope" else "llama", **settings, **extra), 8)


@pytest.mark.parametrize("kind", _ROPE)
@pytest.mark.parametrize("order", [1, -1])
def test_a_long_text_has_one_value_whatever_its_batch(kind, order):
    rng = np.random.default_rng(0)
    # All begin alike; some are short, some a little longer than the model was first trained on, one much longer.
    sequences = [[*range(1, 11), *rng.integers(330, size=size).tolist()] for size in (3, 5, 10, 12, 12, 90)][::order]
    together = response_nll(LoadedModel(stretched(kind), _TOKENIZER, 1000), sequences, [11] * 6)
    for ids, nll in zip(sequences, together):
        np.testing.assert_allclose(nll, nll_alone(stretched(kind), ids, 11), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", _ROPE)
def test_an_earlier_batch_leaves_nothing_behind(kind):
    loaded, rng = LoadedModel(stretched(kind), _TOKENIZER, 1000), np.random.default_rng(0)
    texts = [rng.integers(330, size=size).tolist() for size in (12, 25, 100, 25, 12)]
    for ids in texts:
        (nll,) = response_nll(loaded, [ids], [3])
        np.testing.assert_allclose(nll, nll_alone(stretched(kind), ids, 3), rtol=1e-4, atol=1e-5)


def test_long_texts_run_one_by_one_and_short_ones_together():
    batches = []
    loaded = LoadedModel(stretched("longrope"), _TOKENIZER, 1000)
    run_sorted(loaded, [10, 16, 15, 40, 3], lambda batch: batches.append(batch) or batch)
    assert batches == [[3], [1], [2, 0, 4]]


@pytest.mark.parametrize(
    ("kind", "settings", "tokens"),
    [
        ("llama", {}, float("inf")),
        ("llama", {"rope_parameters": _ROPE["dynamic"]}, 128),
        ("phi3", {"rope_parameters": _ROPE["longrope"], "original_max_position_embeddings": 16}, 16),
        ("gemma3_text", {}, float("inf")),  # has settings for each kind of layer
        ("gpt2", {}, float("inf")),
    ],
)
def test_from_which_length_a_text_runs_alone_is_read_from_the_configuration(kind, settings, tokens):
    assert LoadedModel(tiny_kind(kind, **settings), _TOKENIZER).alone_from == tokens
