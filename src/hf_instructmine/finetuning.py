"""One finetune: a subset in, losses out. `accelerate launch -m hf_instructmine.finetuning --config recipe.yaml`.

Loss is on the response and its EOS token alone, and is measured on the evaluation sets after training, never between
steps. Under FSDP2 and DeepSpeed ZeRO-3, whose shards make every forward pass a joint one, all processes measure all
texts. FSDP2's shards are measured in the tests, on two CPU processes; training under either, and ZeRO-3 altogether,
has never been run on GPUs.
"""

import argparse
import gc
import json
import math
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from .conversation import Conversation
from .engine import own_forward
from .errors import InstructMineError
from .evaluation.loss import EncodedSet, EvaluationLoss, EvaluationSet, evaluation_loss
from .files import written_whole
from .models import LoadedModel, check_dtype, load_tokenizer
from .recipe import FinetuningArguments, Recipe
from .training_data import TrainingSet, encode_training_set, read_training_data


if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase
    from trl import ModelConfig, SFTConfig

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
        seconds, seconds_training, seconds_evaluating (`float`): In all, and the two parts that are the point of it.
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


def load_base(own: FinetuningArguments, sft: "SFTConfig", model: "ModelConfig") -> LoadedModel:
    """Loads the base model as the recipe says, quantised or not, with the layers that do not train frozen.

    Raises:
        [`InstructMineError`]: Where the model cannot be had, or the recipe needs an accelerator that is not there.
    """
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.integrations.fsdp import is_fsdp_enabled
    from trl import get_quantization_config

    quantization = get_quantization_config(model)
    if quantization is not None and not torch.cuda.is_available():
        raise InstructMineError("this recipe loads a quantised model, which needs a CUDA GPU: none is visible")
    name = model.model_name_or_path
    tokenizer = load_tokenizer(name, model.model_revision, sft.trust_remote_code)
    try:
        base, info = AutoModelForCausalLM.from_pretrained(
            name,
            revision=model.model_revision,
            trust_remote_code=sft.trust_remote_code,
            attn_implementation=model.attn_implementation,
            dtype=model.dtype,
            quantization_config=quantization,
            output_loading_info=True,
            **(sft.model_init_kwargs or {}),
        )
    except (ImportError, OSError, TypeError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise InstructMineError(f"cannot load the base model '{name}': {reason}") from error
    if info["missing_keys"]:  # transformers fills them with random numbers and a warning
        raise InstructMineError(f"the base model '{name}' is no language model: it lacks {min(info['missing_keys'])}")
    if quantization is None:
        check_dtype(base, model.dtype, name)
    _set_template(tokenizer, sft)
    if own.train_last_layers is not None:
        freeze_all_but_last(base, own.train_last_layers)
    # What is quantised is on its GPU already; FSDP and DeepSpeed spread the weights themselves.
    stays = quantization is not None or sft.deepspeed_plugin is not None or is_fsdp_enabled()
    return LoadedModel(base if stays else base.to(sft.device), tokenizer, own.eval_token_budget)


def _set_template(tokenizer: "PreTrainedTokenizerBase", sft: "SFTConfig") -> None:
    """Applies `eos_token` and `chat_template_path`, which TRL's trainer would after the texts are tokenised."""
    if sft.eos_token is not None:
        if sft.eos_token not in tokenizer.get_vocab():
            raise InstructMineError(f"eos_token '{sft.eos_token}' is not in the vocabulary of the tokenizer")
        tokenizer.eos_token = sft.eos_token
    if sft.chat_template_path is None:
        return
    path = Path(sft.chat_template_path)
    if path.is_file():
        tokenizer.chat_template = path.read_text(encoding="utf-8")
        return
    source = load_tokenizer(sft.chat_template_path)
    unknown = [token.content for token in source.added_tokens_decoder.values() if token.content not in tokenizer.vocab]
    if unknown:
        raise InstructMineError(
            f"the chat template of '{sft.chat_template_path}' comes with tokens that the base model does not have "
            f"({unknown[0]}): name a .jinja file that uses the base model's own"
        )
    tokenizer.chat_template, tokenizer.eos_token = source.get_chat_template(), source.eos_token


def decoder_layers(model: "PreTrainedModel") -> "torch.nn.ModuleList":
    """The stack of decoder layers.

    Raises:
        [`InstructMineError`]: Where the architecture keeps it under another name than `layers`.
    """
    layers = dict(model.base_model.named_children()).get("layers")
    if layers is None:
        raise InstructMineError(
            f"train_last_layers does not know where {type(model).__name__} keeps its layers: use LoRA (use_peft)"
        )
    return layers


def freeze_all_but_last(model: "PreTrainedModel", n: int) -> None:
    """Leaves the last `n` decoder layers and the final norm to train.

    Raises:
        [`InstructMineError`]: Where the model has fewer than `n` layers.
    """
    layers = decoder_layers(model)
    if n > len(layers):
        raise InstructMineError(f"train_last_layers is {n}, but the model has {len(layers)} layers")
    model.requires_grad_(False)
    layers[-n:].requires_grad_(True)
    for name, child in model.base_model.named_children():
        if "norm" in name:
            child.requires_grad_(True)


def train(
    loaded: LoadedModel,
    subset: TrainingSet,
    own: FinetuningArguments,
    sft: "SFTConfig",
    model: "ModelConfig",
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

    set_seed(sft.seed)  # before TRL 1.15 its trainer makes the adapters first, and sets the seed then
    rows = {"input_ids": subset.input_ids, "labels": subset.labels, "row": list(range(len(subset.labels)))}
    try:
        trainer = Trainer(
            embeddings,
            model=loaded.model,
            args=_prepared(own, sft, subset),
            train_dataset=Dataset.from_dict(rows),
            processing_class=loaded.tokenizer,
            peft_config=get_peft_config(model),
        )
    except (ImportError, RuntimeError, ValueError) as error:
        raise InstructMineError(f"TRL refuses the recipe: {' '.join(str(error).split())}") from error
    check_processes(own, trainer.accelerator.num_processes)
    loss = trainer.train(resume_from_checkpoint=sft.resume_from_checkpoint).training_loss
    if not math.isfinite(loss):
        raise InstructMineError(f"the training loss became {loss}: lower the learning rate")
    return trainer


def check_processes(own: FinetuningArguments, running: int) -> None:
    """Raises:
    [`InstructMineError`]: Where another number of processes runs than the recipe expects.
    """
    if own.expect_processes not in (None, running):
        raise InstructMineError(
            f"the number of processes should be {own.expect_processes}, but is {running}: launch with `instructmine "
            f"finetune --num-processes {own.expect_processes} …` (`accelerate launch --cpu` starts one, always), or "
            "change expect_processes"
        )


def _prepared(own: FinetuningArguments, sft: "SFTConfig", subset: TrainingSet) -> "SFTConfig":
    sft.dataset_kwargs = {"skip_prepare_dataset": True}  # tokenised already
    sft.remove_unused_columns = False
    sft.chat_template_path = sft.eos_token = None  # `load_base` has set both
    sft.model_init_kwargs = None
    sft.logging_nan_inf_filter = False  # it would replace a NaN by the mean of the losses before it
    if own.budget == "tokens":
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
    own: FinetuningArguments,
    sft: "SFTConfig",
    model: "ModelConfig",
    embeddings: "Sequence[torch.Tensor] | None" = None,
    eval_embeddings: "Mapping[str, Sequence[torch.Tensor]] | None" = None,
) -> tuple[FinetuningResult, "Trainer"]:
    """Trains on a subset and measures the loss on every evaluation set.

    Raises:
        [`InstructMineError`]: Where a row cannot be learnt from, or a loss is not finite.
    """
    started = time.perf_counter()
    subset = encode_training_set(loaded, conversations, sft.max_length)
    training = time.perf_counter()
    trainer = train(loaded, subset, own, sft, model, embeddings)
    evaluating_from = time.perf_counter()
    trained = LoadedModel(trainer.accelerator.unwrap_model(trainer.model), loaded.tokenizer, loaded.token_budget)
    losses: dict[str, EvaluationLoss] = {}
    with own_forward(trained.model), evaluating(trained.model, sft.bf16):
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
        budget=own.budget,
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


def load_eval_sets(specifications: Sequence[str]) -> dict[str, EvaluationSet]:
    """Opens evaluation sets named as `name=file-or-id`.

    Raises:
        [`InstructMineError`]: Where one is not of that form, cannot be opened, or has no reference answers.
    """
    from .inputs import load_pool

    sets = {}
    for text in specifications:
        name, separator, path = text.partition("=")
        if not separator or not name.isidentifier():
            raise InstructMineError(f"the evaluation set '{text}' is not of the form name=file-or-id")
        if name in sets:
            raise InstructMineError(f"two evaluation sets have the name '{name}'")
        sets[name] = EvaluationSet.read(name, load_pool([path]))
    return sets


def run(own: FinetuningArguments, sft: "SFTConfig", model: "ModelConfig") -> FinetuningResult:
    """One finetune from arguments alone: what `accelerate launch -m hf_instructmine.finetuning` runs."""
    from .command_values import parse_mapping
    from .inputs import load_pool

    check_processes(own, sft.world_size)
    if not own.train or not own.eval_sets:
        raise InstructMineError("a finetune needs train (files, folders or Hub ids) and eval_sets (name=file)")
    started = time.perf_counter()
    conversations = read_training_data(load_pool(own.train), parse_mapping(own.columns))
    eval_sets = load_eval_sets(own.eval_sets)
    loaded = load_base(own, sft, model)
    encoded = {name: examples.encode(loaded, own.eval_max_length) for name, examples in eval_sets.items()}
    result, trainer = finetune(loaded, conversations, encoded, own, sft, model)
    result.seconds = time.perf_counter() - started
    if own.record is not None and trainer.accelerator.is_main_process:
        with written_whole(Path(own.record)) as partial:
            partial.write_text(json.dumps(asdict(result)))
    if sft.save_strategy != "no":
        trainer.save_model()  # on all processes: each may hold a part
    return result


def _leave_process_group() -> None:
    """Ends the connections to the other processes. Left to the interpreter's end, one process in many aborts there,
    and the launcher takes a finished finetune for a failed one."""
    import torch.distributed

    if torch.distributed.is_available() and torch.distributed.is_initialized():
        gc.collect()  # the trainer's model, which is part of a cycle, holds on to them
        torch.distributed.destroy_process_group()


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of `accelerate launch -m hf_instructmine.finetuning`; returns the exit code."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--config")
    args, options = parser.parse_known_args(argv)
    try:
        recipe = Recipe({} if args.config is None else Recipe.load(args.config).settings)
        arguments = recipe.arguments(*options)
    except InstructMineError as error:
        print(f"finetuning: {error}", file=sys.stderr)
        return 2
    try:
        result = run(*arguments)
    except InstructMineError as error:
        print(f"finetuning: {error}", file=sys.stderr)
        return 1
    _leave_process_group()
    if arguments[1].process_index == 0:
        for name, loss in result.losses.items():
            print(f"loss_{name}: {loss:.4f} nats per token")
        print(f"{result.steps} steps, {result.train_tokens} response tokens, {result.seconds:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
