"""A digest of each tensor of a model tells whether it is what it was."""

import pytest
import torch

from hf_instructmine.sweep.weights import checksum, weight_digests


class Model(torch.nn.Module):
    """Weights of several kinds; the head is the embeddings."""

    def __init__(self):
        super().__init__()
        self.embed = torch.nn.Embedding(5, 3)
        self.head = torch.nn.Linear(3, 5, bias=False)
        self.head.weight = self.embed.weight
        self.rounded = torch.nn.Parameter(torch.ones(7, dtype=torch.bfloat16), requires_grad=False)
        self.register_buffer("positions", torch.arange(4), persistent=False)
        self.register_buffer("flag", torch.tensor(True))


def test_every_parameter_and_buffer_has_a_digest_and_a_change_of_any_is_seen():
    model = Model()
    before = weight_digests(model)
    assert set(before) == {"embed.weight", "head.weight", "rounded", "positions", "flag"}
    assert weight_digests(model) == before
    tensors = {"embed.weight": model.embed.weight, "rounded": model.rounded, "positions": model.positions}
    for name, tensor in tensors.items():
        with torch.no_grad():
            tensor.view(-1)[-1] += 1
        now = weight_digests(model)
        assert [key for key in before if now[key] != before[key]] == [name]
        with torch.no_grad():
            tensor.view(-1)[-1] -= 1
    model.flag.logical_not_()
    assert weight_digests(model)["flag"] != before["flag"]


def test_tied_weights_that_came_apart_are_seen_though_they_are_equal():
    model = Model()
    before = weight_digests(model)
    assert before["head.weight"] == "that of embed.weight"
    model.head.weight = torch.nn.Parameter(model.embed.weight.detach().clone())
    now = weight_digests(model)
    assert now["head.weight"] != before["head.weight"] and now["embed.weight"] == before["embed.weight"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int64, torch.uint8])
def test_the_checksum_of_an_accelerator_sees_each_word_and_its_place(dtype, monkeypatch):
    from hf_instructmine.sweep import weights

    monkeypatch.setattr(weights, "_WORDS", 8)  # several parts, the last of them not full
    values = torch.arange(21).to(dtype)
    sums = {int(checksum(values))}
    for place in range(21):
        changed = values.clone()
        changed[place] += 1
        sums.add(int(checksum(changed)))
    sums.add(int(checksum(values.flip(0))))
    assert len(sums) == 23
    assert int(checksum(values.clone())) == int(checksum(values))
    assert int(checksum(values[:0])) == 0
