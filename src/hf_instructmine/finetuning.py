"""One finetune: a subset in, losses out. `accelerate launch -m hf_instructmine.finetuning --config recipe.yaml`.

Loss is on the response and its EOS token alone. Texts are tokenised as the indicators and the evaluation tokenise
them, so no text from the data becomes a special token in training either.
"""

import json
import math
import resource
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .conversation import Conversation, check_text_columns, read_conversations
from .engine import head_on, token_nll
from .errors import InstructMineError
from .evaluation.loss import EncodedSet, EvaluationLoss, EvaluationSet, evaluation_loss
from .files import written_whole
from .indicators.perplexity import encode_pair
from .models import LoadedModel, ModelSource
from .recipe import FinetuningArguments, check_arguments


if TYPE_CHECKING:
    import torch
    from datasets import Dataset
    from transformers import PreTrainedModel
    from trl import ModelConfig, SFTConfig, SFTTrainer

MASKED = -100


@dataclass
class FinetuningResult:
    """What one finetune gave.

    Attributes:
        losses (`dict[str, float]`): Σ NLL / Σ tokens on each evaluation set, in nats.
        examples (`dict[str, dict[str, list]]`): For each set, `nll` (Σ, nats) and `tokens` of each example.
        train_loss (`float`): Mean loss over the training steps, in nats per token.
        steps (`int`): Optimiser steps.
        epochs (`float`): Passes over the subset.
        train_tokens (`int`): Response tokens trained on, repeats included.
        subset_tokens (`int`): Response tokens in the subset.
        truncated (`int`): Training texts cut to `max_length`.
        seconds, seconds_training, seconds_evaluating (`float`): In all, and the two parts that are the point of it.
        peak_memory (`int`): Bytes: of the GPU where there is one, else the process's largest resident set so far.
        processes (`int`): How many trained together.
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


@dataclass(frozen=True)
class TrainingSet:
    """A subset in token ids. `labels` hold the response and its EOS token, and -100 elsewhere."""

    input_ids: list[list[int]]
    labels: list[list[int]]
    truncated: int

    @property
    def response_tokens(self) -> int:
        return sum(label != MASKED for labels in self.labels for label in labels)


def encode_training_set(
    loaded: LoadedModel, conversations: Sequence[Conversation], max_length: int | None
) -> TrainingSet:
    """Token ids and labels of a subset. A text over `max_length` loses the start of its prompt, then the end of its
    response, and is counted.

    Raises:
        [`InstructMineError`]: Where a row has no response to learn from; names the first.
    """
    wrong = next(((i, c.problem) for i, c in enumerate(conversations) if c.problem), None)
    if wrong is not None:
        raise InstructMineError(
            f"row {wrong[0]} of the training data cannot be learnt from: {wrong[1]}; drop it first"
        )
    limit = max_length or sys.maxsize
    pairs = [encode_pair(loaded, c, True, True, limit) for c in conversations]
    masked = next((i for i, (ids, start, _) in enumerate(pairs) if len(ids) <= start), None)
    if masked is not None:
        raise InstructMineError(f"row {masked} of the training data has no token to learn: raise max_length")
    return TrainingSet(
        [ids for ids, _, _ in pairs],
        [[MASKED] * start + ids[start:] for ids, start, _ in pairs],
        sum(note is not None for _, _, note in pairs),
    )


def load_base(own: FinetuningArguments, sft: "SFTConfig", model: "ModelConfig") -> LoadedModel:
    """Loads the base model as the recipe says, quantised or not, with the layers that do not train frozen.

    Raises:
        [`InstructMineError`]: Where the model cannot be had, or the recipe needs an accelerator that is not there.
    """
    import torch
    from transformers import AutoModelForCausalLM
    from trl import get_quantization_config

    quantization = get_quantization_config(model)
    if quantization is not None and not torch.cuda.is_available():
        raise InstructMineError("this recipe loads a quantised model, which needs a CUDA GPU: none is visible")
    source, _ = ModelSource.of(
        model.model_name_or_path, None, "AutoModelForCausalLM", own.eval_token_budget,
        revision=model.model_revision, trust_remote_code=sft.trust_remote_code,
    )  # fmt: skip
    tokenizer = source.load_tokenizer()
    try:
        base = AutoModelForCausalLM.from_pretrained(
            model.model_name_or_path,
            revision=model.model_revision,
            trust_remote_code=sft.trust_remote_code,
            attn_implementation=model.attn_implementation,
            dtype=model.dtype,
            quantization_config=quantization,
        )
    except (OSError, ValueError) as error:
        raise InstructMineError(
            f"cannot load the base model '{model.model_name_or_path}': {str(error).strip().splitlines()[0]}"
        ) from error
    if own.train_last_layers is not None:
        freeze_all_but_last(base, own.train_last_layers)
    return LoadedModel(base if quantization is not None else base.to(sft.device), tokenizer, own.eval_token_budget)


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
) -> "SFTTrainer":
    """Trains the model in place with TRL's `SFTTrainer` and returns the trainer, with the trained model in it.

    Args:
        embeddings (`Sequence[torch.Tensor]`, *optional*): What the model is fed in place of `subset.input_ids`.

    Raises:
        [`InstructMineError`]: Where the loss is not finite, or another number of processes runs than asked for.
    """
    from datasets import Dataset
    from transformers import set_seed
    from trl import get_peft_config

    set_seed(sft.seed)  # before adapters are initialised
    trainer = _trainer_class()(
        model=loaded.model,
        args=_with_budget(own, sft, subset),
        train_dataset=Dataset.from_dict(
            {"input_ids": subset.input_ids, "labels": subset.labels, "row": list(range(len(subset.labels)))}
        ),
        processing_class=loaded.tokenizer,
        peft_config=get_peft_config(model),
    )
    trainer.embeddings = embeddings
    check_processes(own, trainer.accelerator.num_processes)
    loss = trainer.train().training_loss
    if not math.isfinite(loss):
        raise InstructMineError(f"the training loss became {loss}: lower the learning rate")
    return trainer


def check_processes(own: FinetuningArguments, running: int) -> None:
    """Raises:
    [`InstructMineError`]: Where another number of processes runs than the recipe expects.
    """
    if own.expect_processes not in (None, running):
        raise InstructMineError(
            f"{own.expect_processes} processes were asked for, but {running} runs: on CPUs launch with "
            f"`ACCELERATE_USE_CPU=true accelerate launch --multi_gpu --num_processes {own.expect_processes} …`"
        )


def _with_budget(own: FinetuningArguments, sft: "SFTConfig", subset: TrainingSet) -> "SFTConfig":
    sft.dataset_kwargs = {"skip_prepare_dataset": True}  # tokenised already
    sft.remove_unused_columns = False
    sft.save_strategy = "no" if sft.save_strategy == "steps" and sft.save_steps == 500 else sft.save_strategy
    if own.budget == "tokens":
        sft.num_train_epochs = own.train_tokens / subset.response_tokens
    return sft


def _trainer_class() -> type:
    from trl import SFTTrainer

    class Trainer(SFTTrainer):
        """TRL's trainer, fed with embeddings where there are some, and with logits for responses alone on a CPU."""

        embeddings: "Sequence[torch.Tensor] | None" = None

        def __init__(self, **kwargs: Any):
            super().__init__(**kwargs)
            self.pad_batch, self.data_collator = self.data_collator, self.collate

        def collate(self, examples: list[dict[str, Any]]) -> dict[str, Any]:
            import torch

            batch = self.pad_batch(examples)
            if self.embeddings is not None:
                rows = [self.embeddings[example["row"]] for example in examples]
                batch["inputs_embeds"] = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
                del batch["input_ids"]
            return batch

        def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
            # On a CPU TRL's fused head scores every position, prompts and padding included. This is the same loss.
            if inputs["labels"].device.type != "cpu" or return_outputs:
                return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
            labels = inputs.pop("labels")
            predicted = (labels != MASKED).roll(-1, dims=1)
            predicted[:, -1] = False
            with head_on(self.accelerator.unwrap_model(model), predicted):
                logits = model(**inputs, use_cache=False).logits[0]
            targets = labels.roll(-1, dims=1)[predicted]
            count = len(targets) if num_items_in_batch is None else num_items_in_batch
            loss = token_nll(logits, targets).sum() / count
            average = self.args.average_tokens_across_devices and num_items_in_batch is not None
            return loss * self.accelerator.num_processes if average else loss

    return Trainer


@contextmanager
def evaluating(model: "torch.nn.Module", bf16: bool) -> Iterator[None]:
    """Evaluation mode, in the precision that the recipe trains in; training mode afterwards where it was on."""
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
) -> tuple[FinetuningResult, "SFTTrainer"]:
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
    with evaluating(trained.model, sft.bf16):
        for name, encoded in eval_sets.items():
            losses[name] = evaluation_loss(trained, encoded, (eval_embeddings or {}).get(name))
    for name, measured in losses.items():
        if not math.isfinite(measured.loss):
            raise InstructMineError(f"the loss on '{name}' is {measured.loss} after training: lower the learning rate")
    ended = time.perf_counter()
    state = trainer.state
    result = FinetuningResult(
        losses={name: measured.loss for name, measured in losses.items()},
        examples={n: {"nll": np.round(m.nll, 4).tolist(), "tokens": m.tokens.tolist()} for n, m in losses.items()},
        train_loss=float(np.mean([entry["loss"] for entry in state.log_history if "loss" in entry] or [math.nan])),
        steps=state.global_step,
        epochs=state.epoch,
        train_tokens=round(subset.response_tokens * state.epoch),
        subset_tokens=subset.response_tokens,
        truncated=subset.truncated,
        seconds=ended - started,
        seconds_training=evaluating_from - training,
        seconds_evaluating=ended - evaluating_from,
        peak_memory=peak_memory(),
        processes=trainer.accelerator.num_processes,
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
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def read_training_data(dataset: "Dataset", columns: Mapping[str, str] | None = None) -> list[Conversation]:
    """Reads a dataset's conversations.

    Raises:
        [`InstructMineError`]: Where it is empty, or its layout is not known.
    """
    check_text_columns(dataset, columns)
    return read_conversations(dataset[:], columns)


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
        sets[name] = EvaluationSet.read(name, load_pool([path]))
    return sets


def run(own: FinetuningArguments, sft: "SFTConfig", model: "ModelConfig") -> FinetuningResult:
    """One finetune from arguments alone: what `accelerate launch -m hf_instructmine.finetuning` runs."""
    from .cli import parse_mapping
    from .inputs import load_pool

    check_arguments(own, sft, model)
    if not own.train or not own.eval_sets:
        raise InstructMineError("a finetune needs train (files, folders or Hub ids) and eval_sets (name=file)")
    started = time.perf_counter()
    conversations = read_training_data(load_pool(own.train), parse_mapping(own.columns))
    eval_sets = load_eval_sets(own.eval_sets)
    loaded = load_base(own, sft, model)
    encoded = {name: examples.encode(loaded, own.eval_max_length) for name, examples in eval_sets.items()}
    result, trainer = finetune(loaded, conversations, encoded, own, sft, model)
    result.seconds = time.perf_counter() - started
    if trainer.accelerator.is_main_process:
        if own.record is not None:
            with written_whole(Path(own.record)) as partial:
                partial.write_text(json.dumps(asdict(result)))
        if sft.save_strategy != "no":
            trainer.save_model()
    return result


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of `accelerate launch -m hf_instructmine.finetuning`; returns the exit code."""
    from trl import ModelConfig, SFTConfig, TrlParser

    parser = TrlParser((FinetuningArguments, SFTConfig, ModelConfig), prog="hf_instructmine.finetuning")
    try:
        arguments = parser.parse_args_and_config(argv, fail_with_unknown_args=True)
        result = run(*arguments)
    except InstructMineError as error:
        print(f"finetuning: {error}", file=sys.stderr)
        return 1
    except ValueError as error:
        if "Unknown arguments" not in str(error):
            raise
        print(f"finetuning: {error}", file=sys.stderr)
        return 2
    for name, loss in result.losses.items():
        print(f"loss_{name}: {loss:.4f} nats per token")
    print(f"{result.steps} steps, {result.train_tokens} response tokens, {result.seconds:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
