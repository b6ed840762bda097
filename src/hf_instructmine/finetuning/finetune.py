"""One finetune: a subset in, losses out. `accelerate launch -m hf_instructmine.finetuning --config recipe.yaml`.

Loss is on the response and the end of its turn, as the chat template writes them, or with `assistant_only_loss` on all
assistant turns. It is measured on the evaluation sets after training, never between
steps. Under FSDP2 and DeepSpeed ZeRO-3, whose shards make every forward pass a joint one, all processes measure all
texts. FSDP2's shards are measured in the tests, on two CPU processes; training under either, and ZeRO-3 altogether,
has never been run on GPUs.
"""

import logging
import math
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from ..data.conversation import Conversation
from ..errors import InstructMineError, one_line
from ..models.engine import own_forward
from ..models.loading import LoadedModel
from .checkpoints import check_checkpoint, find_checkpoint
from .evaluation import EncodedSet, EvaluationLoss, evaluation_loss
from .recipe import Arguments, FinetuningArguments
from .training_data import TrainingSet, encode_training_set


if TYPE_CHECKING:
    import torch
    from trl import SFTConfig

    from .trainer import Trainer

logger = logging.getLogger(__name__)

# The option's name in one release or the other.
_CHECKPOINTING = {"gradient_checkpointing", "activation_checkpointing"}


@dataclass
class FinetuningResult:
    """What one finetune gave.

    Attributes:
        losses (`dict[str, float]`): Σ NLL / Σ tokens on each evaluation set, in nats.
        examples (`dict[str, dict[str, list]]`): For each set, `nll` (Σ, nats) and `tokens` of each example.
        base_losses (`dict[str, float]`): The same of the base model. Empty where training was resumed from a
            checkpoint of an earlier release, which does not say them.
        train_loss (`float`, *optional*): Mean loss over all training steps, in nats per token, those before a
            resumption included. None where the checkpoint is of an earlier release, which does not say theirs.
        steps (`int`): Optimiser steps.
        epochs (`float`): Passes over the subset.
        train_tokens (`int`): Response tokens trained on, repeats included; from the epochs where training was resumed
            from such a checkpoint.
        asked_tokens (`int`, *optional*): What `budget: tokens` asked for.
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
    base_losses: dict[str, float]
    train_loss: float | None
    steps: int
    epochs: float
    train_tokens: int
    asked_tokens: int | None
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
    measure: "Callable[[Trainer], dict[str, EvaluationLoss]] | None" = None,
    base_losses: Mapping[str, float] | None = None,
) -> "Trainer":
    """Trains the model in place with TRL's `SFTTrainer` and returns the trainer, with the trained model in it.

    Args:
        embeddings (`Sequence[torch.Tensor]`, *optional*): What the model is fed in place of `subset.input_ids`.
        measure (`Callable`, *optional*): Measures the trainer's model, before the first step and after the last.
        base_losses (`Mapping[str, float]`, *optional*): What it would give before the first, where that is known.

    Raises:
        [`InstructMineError`]: Where TRL refuses the recipe, the checkpoint to go on from is not one of this finetune,
            the loss is not finite, or another number of processes runs than asked for.
    """
    from datasets import Dataset
    from transformers import set_seed
    from trl import get_peft_config

    from .trainer import Trainer

    set_seed(arguments.sft.seed)  # before TRL 1.15 its trainer makes the adapters first, and sets the seed then
    rows = {"input_ids": subset.input_ids, "labels": subset.labels, "row": list(range(len(subset.labels)))}
    checkpoint = find_checkpoint(arguments.sft)
    try:
        trainer = Trainer(
            embeddings,
            measure,
            base_losses,
            model=loaded.model,
            args=_prepared(arguments, subset),
            train_dataset=Dataset.from_dict(rows),
            processing_class=loaded.tokenizer,
            peft_config=get_peft_config(arguments.model),
        )
    except (ImportError, RuntimeError, ValueError) as error:
        raise InstructMineError(f"TRL refuses the recipe: {one_line(error)}") from error
    check_processes(arguments.own, trainer.accelerator.num_processes)
    if checkpoint is not None:
        check_checkpoint(trainer, checkpoint)
    loss = trainer.train(resume_from_checkpoint=checkpoint).training_loss
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
        logger.info(_granularity(own.train_tokens, subset, sft))
    if os.environ.get("ACCELERATE_USE_FSDP") == os.environ.get("FSDP_ACTIVATION_CHECKPOINTING") == "true":
        # FSDP does it itself, without gathering all weights once more, and both at once are an error.
        for name in _CHECKPOINTING & vars(sft).keys():
            setattr(sft, name, False)
    return sft


def _granularity(asked: int, subset: TrainingSet, sft: "SFTConfig") -> str:
    rows = sft.per_device_train_batch_size * sft.gradient_accumulation_steps * sft.world_size
    step = subset.response_tokens * min(rows / len(subset.labels), 1)
    return (
        f"budget: tokens: {asked:,} response tokens are asked for, and an optimiser step has about {step:,.0f}: what "
        "is trained comes out within about one step of that"
    )


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
    """Trains on a subset and measures the loss on every evaluation set, before (unless that is known) and after.

    Raises:
        [`InstructMineError`]: Where a row cannot be learnt from, or a loss is not finite.
    """
    started, sft = time.perf_counter(), arguments.sft
    subset = encode_training_set(loaded, conversations, sft.max_length, sft.assistant_only_loss)
    training = time.perf_counter()

    def measure(trainer: "Trainer") -> dict[str, EvaluationLoss]:
        model = trainer.accelerator.unwrap_model(trainer.model)
        trained = LoadedModel(model, loaded.tokenizer, loaded.token_budget)
        with own_forward(model), evaluating(model, bool(sft.bf16)):
            return {n: evaluation_loss(trained, e, (eval_embeddings or {}).get(n)) for n, e in eval_sets.items()}

    trainer = train(loaded, subset, arguments, embeddings, measure, _known_losses(arguments.own))
    ended = time.perf_counter()
    state, measured = trainer.state, trainer.measured
    wrong = next(((n, m.loss) for n, m in measured.after.items() if not math.isfinite(m.loss)), None)
    if wrong is not None:
        raise InstructMineError(f"the loss on '{wrong[0]}' is {wrong[1]} after training: lower the learning rate")
    tokens = trainer.trained_tokens()
    result = FinetuningResult(
        losses={name: m.loss for name, m in measured.after.items()},
        examples=describe_examples(measured.after),
        base_losses=measured.before,
        train_loss=trainer.train_loss(),
        steps=state.global_step,
        epochs=state.epoch,
        train_tokens=round(subset.response_tokens * state.epoch) if tokens is None else tokens,
        asked_tokens=arguments.own.train_tokens if arguments.own.budget == "tokens" else None,
        subset_tokens=subset.response_tokens,
        truncated=subset.truncated,
        seconds=ended - started,
        seconds_training=ended - training - measured.seconds,
        seconds_evaluating=measured.seconds,
        peak_memory=peak_memory(),
        processes=trainer.accelerator.num_processes,
        budget=arguments.own.budget,
        seed=sft.seed,
    )
    if result.train_loss is None:
        logger.warning("train_loss is not known: the checkpoint, of an earlier release, does not say what came before")
    return result, trainer


def describe_examples(measured: Mapping[str, EvaluationLoss]) -> dict[str, dict[str, list]]:
    """By evaluation set, each example's Σ NLL (nats, to four digits) and response tokens, as they are recorded."""
    return {n: {"nll": np.round(m.nll, 4).tolist(), "tokens": m.tokens.tolist()} for n, m in measured.items()}


def _known_losses(own: FinetuningArguments) -> dict[str, float]:
    known = dict(text.partition("=")[::2] for text in own.base_losses)
    try:
        return {name: float(loss) for name, loss in known.items()}
    except ValueError as error:
        raise InstructMineError(f"base_losses are not of the form name=loss: {one_line(error)}") from error


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
