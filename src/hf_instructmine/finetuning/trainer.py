"""TRL's trainer, with what a finetune here needs besides."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from trl import SFTConfig, SFTTrainer

from ..errors import InstructMineError
from ..models.engine import LOGIT_ROWS, head_on, own_forward, token_nll
from ..versions import check_versions
from .training_data import MASKED


check_versions("accelerate", "peft", "trl")


class ResponseNLL(torch.autograd.Function):
    """[`~engine.token_nll`] with a gradient that takes the place of the logits: what PyTorch's would allocate and fill
    anew in every step is several times their size."""

    @staticmethod
    def forward(ctx: Any, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """The negative log-likelihood of each target."""
        nll = token_nll(logits, targets)
        ctx.save_for_backward(logits, targets, nll)
        return nll

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        """The gradient of the logits, written over them; targets have none."""
        logits, targets, nll = ctx.saved_tensors
        targets = targets[:, None]
        log_normalizers = nll[:, None] + logits.gather(1, targets)
        parts = (values.split(LOGIT_ROWS) for values in (logits, targets, log_normalizers, gradient[:, None]))
        for rows, wanted, log_normalizer, weight in zip(*parts):
            gradient_here = (rows - log_normalizer).exp_().mul_(weight)
            rows.copy_(gradient_here.scatter_add_(1, wanted, -weight))
        return logits, None


class Trainer(SFTTrainer):
    """TRL's trainer, fed with embeddings where there are some, and with logits for responses alone on a CPU.

    Args:
        embeddings (`Sequence[torch.Tensor]`, *optional*): For each row, what the model is fed in place of its
            `input_ids`: `(tokens, hidden)`.
        kwargs: See `SFTTrainer`. The data is tokenised already, with `labels`, and has a column `row`.

    Attributes:
        response_tokens (`torch.Tensor`): Labels that this process has trained on, repeats included.
    """

    args: SFTConfig  # transformers' trainer declares less

    def __init__(self, embeddings: Sequence[torch.Tensor] | None = None, **kwargs: Any):
        super().__init__(**kwargs)
        self.embeddings = embeddings
        self.pad_batch, self.data_collator = self.data_collator, self.collate
        self.response_tokens = torch.zeros((), dtype=torch.long, device=self.args.device)
        self.is_plain_nll = self.args.loss_type == "nll" and self.label_smoother is None and not self.aux_loss_enabled

    def collate(self, examples: list[dict[str, Any]]) -> dict[str, Any]:
        """Pads to a batch.

        Raises:
            [`InstructMineError`]: Where TRL learns other tokens than the labels say.
        """
        batch = self.pad_batch(examples)
        learnt = sum(label != MASKED for example in examples for label in example["labels"])
        if int((batch["labels"] != MASKED).sum()) != learnt:
            raise InstructMineError("this release of TRL does not learn the labels it is given: install a tested one")
        if self.embeddings is not None:
            rows = [self.embeddings[example["row"]] for example in examples]
            batch["inputs_embeds"] = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
            del batch["input_ids"]
        return batch

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        """The mean loss of a batch's labels. On a CPU TRL's fused head scores every position, prompts and padding
        included; this is the same loss from the responses alone."""
        if return_outputs or not self.is_plain_nll or inputs["labels"].device.type != "cpu":
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        labels = inputs.pop("labels")
        inputs.pop("attention_mask", None)  # padding is on the right, where a causal model does not look
        predicted = (labels != MASKED).roll(-1, dims=1)
        predicted[:, -1] = False
        own = self.accelerator.unwrap_model(model)
        with own_forward(own), self.accelerator.autocast(), head_on(own, predicted):
            logits = model(**inputs, use_cache=False).logits.squeeze(0)
        targets = labels.roll(-1, dims=1)[predicted]
        count = len(targets) if num_items_in_batch is None else num_items_in_batch
        loss = ResponseNLL.apply(logits, targets).sum() / count
        average = self.args.average_tokens_across_devices and num_items_in_batch is not None
        return loss * self.accelerator.num_processes if average else loss

    def _get_num_items_in_batch(self, batch_samples: list[dict[str, Any]], device: torch.device) -> Any:
        self._mask_repeats(batch_samples)
        self.response_tokens += sum((batch["labels"] != MASKED).sum() for batch in batch_samples)
        return super()._get_num_items_in_batch(batch_samples, device)

    def _mask_repeats(self, batch_samples: list[dict[str, Any]]) -> None:
        # So that all processes have equally many rows, Accelerate fills an epoch's last batch up with its first rows.
        # They count for nothing: a run has the same losses on any number of processes.
        state = self.accelerator.gradient_state
        if self.accelerator.num_processes == 1 or not batch_samples or not state.end_of_dataloader:
            return
        if state.remainder > 0:
            labels = batch_samples[-1]["labels"]
            labels[max(0, state.remainder - self.accelerator.process_index * len(labels)) :] = MASKED

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Logs, and stops a run that has diverged.

        Raises:
            [`InstructMineError`]: Where the loss is not finite.
        """
        super().log(logs, *args, **kwargs)
        if not math.isfinite(logs.get("loss", 0.0)):
            raise InstructMineError(
                f"the training loss became {logs['loss']} at step {self.state.global_step}: lower the learning rate"
            )
