"""One finetune: a subset in, losses out. `accelerate launch -m hf_instructmine.finetuning --config recipe.yaml`.

Loss is on the response and the end of its turn, as the chat template writes them, or with `assistant_only_loss` on all
assistant turns. It is measured on the evaluation sets after training, never between
steps. Under FSDP2 and DeepSpeed ZeRO-3, whose shards make every forward pass a joint one, all processes measure all
texts. FSDP2's shards are measured in the tests, on two CPU processes; training under either, and ZeRO-3 altogether,
has never been run on GPUs.
"""

import math
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from ..data.conversation import Conversation
from ..errors import InstructMineError, one_line
from ..models.engine import own_forward
from ..models.loading import LoadedModel
from .evaluation import EncodedSet, EvaluationLoss, evaluation_loss
from .recipe import Arguments, FinetuningArguments
from .training_data import TrainingSet, encode_training_set


if TYPE_CHECKING:
    import torch
    from trl import SFTConfig

    from .trainer import Trainer


@dataclass
class FinetuningResult:
    """What one finetune gave.

    Attributes:
        losses (`dict[str, float]`): Σ NLL / Σ tokens on each evaluation set, in nats.
        examples (`dict[str, dict[str, list]]`): For each set, `nll` (Σ, nats) and `tokens` of each example.
        train_loss (`float`): Mean loss over the training steps, in nats per token.
        steps (`int`): Optimiser steps.
        epochs (`float`): Passes over the subset.
        train_tokens (`int`): Response tokens trained on, repeats included; from the epochs where training was resumed.
        subset_tokens (`int`): Response tokens in the subset.
        truncated (`int`): Training texts cut to `max_length`.
        seconds (`float`): In all.
        seconds_training (`float`): Of these, in training.
        seconds_evaluating (`float`): Of these, in measuring the losses.
        peak_memory (`int`): Bytes: of the GPU where there is one, else the process's largest resident set so far.
        processes (`int`): How many trained together.
        budget (`str`): What was fixed: `"epochs"`, `"steps"` or `"tokens"`.
        seed (`int`): Of data order, adapters and dropout.
    """

    losses: dict[str, float]
    examples: dict[str, dict[str, list]] = field(repr=False)
    train_loss: float
    steps: int
    epochs: float
    train_tokens: int
    subset_tokens: int
    truncated: int
    seconds: float
    seconds_training: float
    seconds_evaluating: float
    peak_memory: int
    processes: int
    budget: str
    seed: int


def train(
    loaded: LoadedModel,
    subset: TrainingSet,
    arguments: Arguments,
    embeddings: "Sequence[torch.Tensor] | None" = None,
) -> "Trainer":
    """Trains the model in place with TRL's `SFTTrainer` and returns the trainer, with the trained model in it.

    Args:
        embeddings (`Sequence[torch.Tensor]`, *optional*): What the model is fed in place of `subset.input_ids`.

    Raises:
        [`InstructMineError`]: Where TRL refuses the recipe, the loss is not finite, or another number of processes
            runs than asked for.
    """
    from datasets import Dataset
    from transformers import set_seed
    from trl import get_peft_config

    from .trainer import Trainer

    set_seed(arguments.sft.seed)  # before TRL 1.15 its trainer makes the adapters first, and sets the seed then
    rows = {"input_ids": subset.input_ids, "labels": subset.labels, "row": list(range(len(subset.labels)))}
    try:
        trainer = Trainer(
            embeddings,
            model=loaded.model,
            args=_prepared(arguments, subset),
            train_dataset=Dataset.from_dict(rows),
            processing_class=loaded.tokenizer,
            peft_config=get_peft_config(arguments.model),
        )
    except (ImportError, RuntimeError, ValueError) as error:
        raise InstructMineError(f"TRL refuses the recipe: {one_line(error)}") from error
    check_processes(arguments.own, trainer.accelerator.num_processes)
    loss = trainer.train(resume_from_checkpoint=arguments.sft.resume_from_checkpoint).training_loss
    if not math.isfinite(loss):
        raise InstructMineError(f"the training loss became {loss}: lower the learning rate")
    return trainer


def check_processes(own: FinetuningArguments, running: int) -> None:
    """Looks whether as many processes run as the recipe expects.

    Raises:
        [`InstructMineError`]: Where another number does.
    """
    if own.expect_processes not in (None, running):
        raise InstructMineError(
            f"the number of processes should be {own.expect_processes}, but is {running}: launch with `instructmine "
            f"finetune --num-processes {own.expect_processes} …` (`accelerate launch --cpu` starts one, always), or "
            "change expect_processes"
        )


def _prepared(arguments: Arguments, subset: TrainingSet) -> "SFTConfig":
    own, sft = arguments.own, arguments.sft
    sft.dataset_kwargs = {"skip_prepare_dataset": True}  # tokenised already
    sft.assistant_only_loss = False  # the labels say what is learnt
    sft.remove_unused_columns = False
    sft.chat_template_path = sft.eos_token = None  # `load_base` has set both
    sft.model_init_kwargs = None
    sft.logging_nan_inf_filter = False  # it would replace a NaN by the mean of the losses before it
    if own.budget == "tokens":
        assert own.train_tokens is not None  # a recipe without it is refused
        sft.num_train_epochs = own.train_tokens / subset.response_tokens
    return sft


@contextmanager
def evaluating(model: "torch.nn.Module", bf16: bool) -> Iterator[None]:
    """Evaluation mode, in bfloat16 where the recipe trains in it; training mode afterwards where it was on."""
    import torch

    training = model.training
    model.eval()
    try:
        with torch.autocast(next(model.parameters()).device.type, torch.bfloat16, enabled=bf16):
            yield
    finally:
        model.train(training)


def finetune(
    loaded: LoadedModel,
    conversations: Sequence[Conversation],
    eval_sets: Mapping[str, EncodedSet],
    arguments: Arguments,
    embeddings: "Sequence[torch.Tensor] | None" = None,
    eval_embeddings: "Mapping[str, Sequence[torch.Tensor]] | None" = None,
) -> tuple[FinetuningResult, "Trainer"]:
    """Trains on a subset and measures the loss on every evaluation set.

    Raises:
        [`InstructMineError`]: Where a row cannot be learnt from, or a loss is not finite.
    """
    started, sft = time.perf_counter(), arguments.sft
    subset = encode_training_set(loaded, conversations, sft.max_length, sft.assistant_only_loss)
    training = time.perf_counter()
    trainer = train(loaded, subset, arguments, embeddings)
    evaluating_from = time.perf_counter()
    trained = LoadedModel(trainer.accelerator.unwrap_model(trainer.model), loaded.tokenizer, loaded.token_budget)
    losses: dict[str, EvaluationLoss] = {}
    with own_forward(trained.model), evaluating(trained.model, bool(sft.bf16)):
        for name, encoded in eval_sets.items():
            losses[name] = evaluation_loss(trained, encoded, (eval_embeddings or {}).get(name))
    for name, measured in losses.items():
        if not math.isfinite(measured.loss):
            raise InstructMineError(f"the loss on '{name}' is {measured.loss} after training: lower the learning rate")
    ended = time.perf_counter()
    state = trainer.state
    tokens = int(trainer.accelerator.reduce(trainer.response_tokens))
    if sft.resume_from_checkpoint:
        tokens = round(subset.response_tokens * state.epoch)
    result = FinetuningResult(
        losses={name: measured.loss for name, measured in losses.items()},
        examples={n: {"nll": np.round(m.nll, 4).tolist(), "tokens": m.tokens.tolist()} for n, m in losses.items()},
        train_loss=state.log_history[-1]["train_loss"],
        steps=state.global_step,
        epochs=state.epoch,
        train_tokens=tokens,
        subset_tokens=subset.response_tokens,
        truncated=subset.truncated,
        seconds=ended - started,
        seconds_training=evaluating_from - training,
        seconds_evaluating=ended - evaluating_from,
        peak_memory=peak_memory(),
        processes=trainer.accelerator.num_processes,
        budget=arguments.own.budget,
        seed=sft.seed,
    )
    return result, trainer


def measure_base(
    loaded: LoadedModel,
    eval_sets: Mapping[str, EncodedSet],
    bf16: bool,
    eval_embeddings: "Mapping[str, Sequence[torch.Tensor]] | None" = None,
) -> dict[str, EvaluationLoss]:
    """The base model's loss on each set, measured as a finetuned one's is, without any trainer."""
    with evaluating(loaded.model, bf16):
        return {n: evaluation_loss(loaded, e, (eval_embeddings or {}).get(n)) for n, e in eval_sets.items()}


def peak_memory() -> int:
    """Bytes: the GPU's most allocated memory where there is one, else the process's largest resident set."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    import resource  # not on Windows

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
