"""TRL's trainer, with what a finetune here needs besides."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from transformers import TrainerCallback
from trl import SFTConfig, SFTTrainer

from ..errors import InstructMineError
from ..models.engine import any_shape, head_on, logit_rows, own_forward, token_nll
from ..versions import check_versions
from .evaluation import EvaluationLoss
from .training_data import MASKED


check_versions("accelerate", "peft", "trl")

# In the history of a checkpoint: the sum of the losses of the steps up to it.
SUMMED_LOSS = "summed_loss"


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
        split = (values.split(logit_rows(logits)) for values in (logits, targets, log_normalizers, gradient[:, None]))
        for rows, wanted, log_normalizer, weight in zip(*split):
            gradient_here = (rows - log_normalizer).exp_().mul_(weight)
            rows.copy_(gradient_here.scatter_add_(1, wanted, -weight))
        return logits, None


class Measurements(TrainerCallback):
    """The losses on the evaluation sets before the first step and after the last, measured and logged while the
    trackers of `report_to` still listen.

    Args:
        trainer ([`Trainer`]): Whose model is measured. This has to be its first callback: the others include the
            trackers, which stop listening at the end of training.
        measure (`Callable`): Measures the trainer's model on every set.
        before (`Mapping[str, float]`, *optional*): The base model's losses, where they are known.

    Attributes:
        before (`dict[str, float]`): The base model's losses; empty until training begins, and where training was
            resumed from a checkpoint that does not say them.
        after (`dict[str, EvaluationLoss]`): The trained model's.
        seconds (`float`): Spent on measuring.
    """

    def __init__(
        self,
        trainer: "Trainer",
        measure: Callable[["Trainer"], dict[str, EvaluationLoss]],
        before: Mapping[str, float] | None = None,
    ):
        self.trainer, self.measure = trainer, measure
        self.before = dict(before or {})
        self.after: dict[str, EvaluationLoss] = {}
        self.seconds = 0.0
        self.begun = False

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Training may begin more than once, with ever smaller batches."""
        self.begun = False

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Before the first step, when all trackers have begun."""
        if self.begun:
            return
        self.begun = True
        if state.global_step > 0:  # a checkpoint's model, not the base model
            logged = [entry for entry in state.log_history if entry["step"] == 0]
            self.before = self.before or {k[5:]: v for e in logged for k, v in e.items() if k.startswith("loss_")}
            return
        if not self.before:
            self.before = {name: measured.loss for name, measured in self._measured().items()}
        self._log(self.before)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """After the last step, before any tracker ends."""
        self.after = self._measured()
        self._log({name: measured.loss for name, measured in self.after.items()})

    def _measured(self) -> dict[str, EvaluationLoss]:
        started = time.perf_counter()
        measured = self.measure(self.trainer)
        self.seconds += time.perf_counter() - started
        return measured

    def _log(self, losses: Mapping[str, float]) -> None:
        if losses:
            self.trainer.log({f"loss_{name}": loss for name, loss in losses.items()})


class Resumption(TrainerCallback):
    """Goes on with the sums that a checkpoint holds, so that what is told of a resumed training is of all of it.

    Args:
        trainer ([`Trainer`]): Whose sums they are.
    """

    def __init__(self, trainer: "Trainer"):
        self.trainer = trainer

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Where training goes on from a checkpoint, its history has been read by now."""
        self.trainer.loss_sum.zero_()  # of a try with a larger batch (auto_find_batch_size)
        self.trainer.response_tokens.zero_()
        if state.global_step == 0:
            return
        held = [entry for entry in state.log_history if entry["step"] == state.global_step and SUMMED_LOSS in entry]
        self.trainer.loss_sum += held[-1][SUMMED_LOSS] if held else math.nan
        self.trainer.resumed_tokens = held[-1]["response_tokens"] if held else None


class Trainer(SFTTrainer):
    """TRL's trainer, fed with embeddings where there are some, and with logits for responses alone on a CPU.

    Args:
        embeddings (`Sequence[torch.Tensor]`, *optional*): For each row, what the model is fed in place of its
            `input_ids`: `(tokens, hidden)`.
        measure (`Callable`, *optional*): Measures this trainer's model, before the first step and after the last.
        base_losses (`Mapping[str, float]`, *optional*): What it would give before the first, where that is known.
        kwargs: See `SFTTrainer`. The data is tokenised already, with `labels`, and has a column `row`.

    Attributes:
        measured ([`Measurements`]): What `measure` gave.
        response_tokens (`torch.Tensor`): Labels that this process has trained on, repeats included, since training
            began or was resumed.
        resumed_tokens (`int`, *optional*): Those of all processes before it was resumed; None where the checkpoint
            does not say.
        loss_sum (`torch.Tensor`): Of the losses of the steps, on this process. Where training was resumed, it begins
            with that of before, or with NaN where the checkpoint does not say.
    """

    args: SFTConfig  # transformers' trainer declares less

    def __init__(
        self,
        embeddings: Sequence[torch.Tensor] | None = None,
        measure: "Callable[[Trainer], dict[str, EvaluationLoss]] | None" = None,
        base_losses: Mapping[str, float] | None = None,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self.embeddings = embeddings
        self.measured = Measurements(self, measure or (lambda _: {}), base_losses)
        self.pad_batch, self.data_collator = self.data_collator, self.collate
        self.response_tokens = torch.zeros((), dtype=torch.long, device=self.args.device)
        self.resumed_tokens: int | None = 0
        self.loss_sum = torch.zeros((), device=self.args.device)
        self.callback_handler.callbacks.insert(0, self.measured)
        self.add_callback(Resumption(self))
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
            with any_shape(inputs["labels"].device):
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

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """One forward and backward pass; its loss joins the sum."""
        loss = super().training_step(*args, **kwargs)
        self.loss_sum += loss.detach()
        return loss

    def train_loss(self) -> float | None:
        """Mean loss over all training steps, those before a resumption included; None where the checkpoint does not
        say theirs. All processes have to ask."""
        mean = float(self.accelerator.reduce(self.loss_sum, "mean")) / self.state.global_step
        return None if self.resumed_tokens is None else mean

    def trained_tokens(self) -> int | None:
        """Response tokens that all processes have trained on, repeats included; None as in [`train_loss`]."""
        here = int(self.accelerator.reduce(self.response_tokens))
        return None if self.resumed_tokens is None else self.resumed_tokens + here

    def _save_checkpoint(self, *args: Any, **kwargs: Any) -> None:
        summed, tokens = float(self.accelerator.reduce(self.loss_sum, "mean")), self.trained_tokens()
        if tokens is not None:
            entry = {SUMMED_LOSS: summed, "response_tokens": tokens, "step": self.state.global_step}
            self.state.log_history.append(entry)
        super()._save_checkpoint(*args, **kwargs)

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """Writes none: TRL's says neither the data nor the losses, and names no base model that is a folder. Ours is
        written with the final model."""

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
