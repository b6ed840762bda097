"""The trainer's loss: PyTorch's own, without the copies of the logits that make it slow."""

import pytest
import torch
from tiny_finetunes import finetuned, tiny_base

from hf_instructmine import InstructMineError
from hf_instructmine.finetuning import trainer as module
from hf_instructmine.finetuning.trainer import ResponseNLL
from hf_instructmine.models.engine import LOGIT_ROWS, token_nll


@pytest.mark.parametrize("rows", [1, LOGIT_ROWS, 2 * LOGIT_ROWS + 3])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.bfloat16, 2**-8)])
def test_the_gradient_is_that_of_pytorch(rows, dtype, tolerance):
    generator = torch.Generator().manual_seed(rows)
    hidden = torch.randn(rows, 8, generator=generator)
    head = torch.randn(50, 8, generator=generator)
    targets = torch.randint(50, (rows,), generator=generator)
    weights = torch.rand(rows, generator=generator)  # every token may count differently
    losses, gradients = [], []
    for nll in (token_nll, ResponseNLL.apply):
        inputs = hidden.clone().requires_grad_()
        loss = (nll((inputs @ head.T).to(dtype), targets) * weights).sum()
        loss.backward()
        losses.append(loss.detach())
        gradients.append(inputs.grad)
    torch.testing.assert_close(*losses)
    torch.testing.assert_close(*gradients, rtol=tolerance, atol=tolerance)


def test_the_loss_in_bf16_sees_logits_in_bf16_and_accelerates_forward_is_back_afterwards(tmp_path, monkeypatch):
    seen = []

    class Spy:
        @staticmethod
        def apply(logits, targets):
            seen.append(logits.dtype)
            return ResponseNLL.apply(logits, targets)

    monkeypatch.setattr(module, "ResponseNLL", Spy)
    forwards = []
    compute_loss = module.Trainer.compute_loss

    def watched(self, model, *args, **kwargs):
        before = model.__dict__["forward"]
        loss = compute_loss(self, model, *args, **kwargs)
        forwards.append(model.__dict__["forward"] is before)
        return loss

    monkeypatch.setattr(module.Trainer, "compute_loss", watched)
    finetuned(tiny_base(tmp_path / "base"), tmp_path / "run", bf16=True)
    assert set(seen) == {torch.bfloat16}
    assert forwards
    assert all(forwards)


def test_a_library_that_learns_other_tokens_than_the_labels_is_found_out(tmp_path, monkeypatch):
    init = module.SFTTrainer.__init__

    def built(self, *args, **kwargs):
        init(self, *args, **kwargs)
        pad_batch = self.data_collator
        # As a collator does that knows no column `labels`: it learns prompts too.
        self.data_collator = lambda rows: pad_batch([{**row, "labels": row["input_ids"]} for row in rows])

    monkeypatch.setattr(module.SFTTrainer, "__init__", built)
    with pytest.raises(InstructMineError, match="does not learn the labels it is given: install a tested one"):
        finetuned(tiny_base(tmp_path / "base"), tmp_path / "run")
