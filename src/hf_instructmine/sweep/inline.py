"""Runs one after another in this process: the base model is loaded once, reset between runs, and verified."""

import io
import logging
from collections.abc import Mapping, Sequence
from contextlib import nullcontext, redirect_stdout
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..data.conversation import Conversation
from ..data.evaluation_sets import EvaluationSet
from ..errors import InstructMineError, one_line
from ..finetuning.base_model import load_base
from ..finetuning.evaluation import EncodedSet
from ..finetuning.finetune import describe_examples, finetune, measure_base
from ..finetuning.recipe import Recipe
from ..finetuning.saving import write_model
from ..finetuning.training_data import encode_training_set
from ..models.loading import LoadedModel
from ..outputs.digests import digest
from ..outputs.records import Records
from .encoding import encode_all
from .faults import MachineError, free_memory
from .keeping import STAGE, options_of_run, tracked
from .weights import weight_digests


if TYPE_CHECKING:
    import torch

    from ..finetuning.trunk import Trunk, WholeModel

logger = logging.getLogger(__name__)


class Inline:
    """Runs one after another in this process.

    Args:
        recipe ([`Recipe`]): Of every run.
        eval_sets (`Mapping[str, EvaluationSet]`): What every run is measured on.
        conversations (`Mapping[int, Conversation]`): The rows that the runs train on, by number in the pool.
        folder (`Path`): The sweep's: gets the cached trunk.
        encoded (`Mapping[str, EncodedSet]`, *optional*): What [`encode_all`] gave for these.

    Raises:
        [`InstructMineError`]: Where a row or an evaluation text cannot be encoded, or the model cannot be had.
    """

    def __init__(
        self,
        recipe: Recipe,
        eval_sets: Mapping[str, EvaluationSet],
        conversations: Mapping[int, Conversation],
        folder: Path,
        encoded: Mapping[str, EncodedSet] | None = None,
    ):
        self.recipe = recipe
        self.conversations = conversations
        self.folder = folder
        self.encoded = encode_all(recipe, eval_sets, conversations) if encoded is None else encoded
        self.loaded: LoadedModel | None = None
        self.digests: dict[str, str] | None = None
        self.load()

    def load(self) -> LoadedModel:
        """Loads the base model and, where the recipe asks for it, puts the cached trunk under its last layers.

        Raises:
            [`InstructMineError`]: Where it cannot be had, or is another model than at first.
        """
        self.initial: dict[str, torch.Tensor] = {}
        free_memory()  # two models may not fit
        arguments = self.recipe.arguments()
        own, sft = arguments.own, arguments.sft
        self.loaded = loaded = load_base(arguments)
        self.rows: dict[int, int] = {}  # where each row of the pool is in the trunk
        self.trunk: Trunk | None = None
        self.eval_embeddings: dict[str, Sequence[torch.Tensor]] | None = None
        self.whole: WholeModel | None = None
        if own.cached_trunk:
            assert own.train_last_layers is not None  # a recipe without it is refused
            self._put_on_trunk(loaded, own.train_last_layers, sft)
        self.attributes = set(loaded.model.__dict__)
        # Adapters are taken off again; what else trains is copied back.
        weights = [] if arguments.model.use_peft else loaded.model.named_parameters()
        self.initial = {name: weight.detach().clone() for name, weight in weights if weight.requires_grad}
        digests = weight_digests(loaded.model)
        quantized = arguments.model.load_in_4bit or arguments.model.load_in_8bit  # which may round otherwise
        if self.digests is not None and not quantized and self.digests != digests:
            self.loaded = None
            raise MachineError("the base model's files changed during the sweep: put them back, and start again")
        self.digests = digests
        return loaded

    def _put_on_trunk(self, loaded: LoadedModel, num_layers: int, sft: Any) -> None:
        from ..finetuning.trunk import WholeModel, compute_trunk, cut_to_last_layers

        if self.recipe.settings.get("model_dir"):  # else the frozen layers are let go
            self.whole = WholeModel.of(loaded.model)
        numbers = sorted(self.conversations)
        subset = [self.conversations[i] for i in numbers]
        rows = encode_training_set(loaded, subset, sft.max_length, sft.assistant_only_loss).input_ids
        sequences = [ids for e in self.encoded.values() for ids in e.sequences] + rows
        texts = digest(sequences)
        with Records(self.folder).lock("trunk", patience=-1):
            trunk = compute_trunk(loaded, num_layers, sequences, self.folder / "trunk" / texts, sft.bf16, grows=True)
        cut_to_last_layers(loaded, num_layers, next(iter(self.encoded.values())), trunk, sft.bf16)
        if sft.bf16:
            _round_frozen_head(loaded)
        self.eval_embeddings, start = {}, 0
        for name, encoded in self.encoded.items():
            self.eval_embeddings[name] = trunk.select(range(start, start + len(encoded.sequences)))
            start += len(encoded.sequences)
        self.trunk, self.rows = trunk, {number: start + k for k, number in enumerate(numbers)}

    def base(self) -> dict[str, Any]:
        """See [`describe_base`]."""
        assert self.loaded is not None  # the base model is measured before any run
        return describe_base(self.loaded, self.encoded, bool(self.recipe.arguments().sft.bf16), self.eval_embeddings)

    def run(self, indices: Sequence[int], seed: int, folder: Path, max_steps: int | None = None) -> dict[str, Any]:
        """Trains on the rows `indices` and measures; leaves the model as it was, or none.

        Args:
            indices (`Sequence[int]`): Rows of the pool.
            seed (`int`): Of the training.
            folder (`Path`): Where the run may write.
            max_steps (`int`, *optional*): Optimiser steps, in place of what the recipe fixes.

        Raises:
            [`MachineError`]: Where the base model had to be loaded anew and could not be.
        """
        loaded = self._load_anew() if self.loaded is None else self.loaded
        options, environment = options_of_run(self.recipe, folder)
        own = {"seed": seed, "output_dir": str(folder), "disable_tqdm": True, **fixed_steps(max_steps)}
        arguments = self.recipe.arguments(**own, **options)
        subset = [self.conversations[i] for i in indices]
        embeddings = None if self.trunk is None else self.trunk.select([self.rows[i] for i in indices])
        modules = dict(loaded.model.named_modules())
        self.loaded = None  # a run that fails half-way leaves a model that is no base model
        # The trainer prints its log, which would tear the sweep's bar.
        with redirect_stdout(io.StringIO()), tracked(environment):
            result, trainer = finetune(loaded, subset, self.encoded, arguments, embeddings, self.eval_embeddings)
        if arguments.own.model_dir:
            with nullcontext() if self.whole is None else self.whole.put_back(loaded.model):
                write_model(trainer, folder / STAGE)
        if arguments.model.use_peft:
            loaded.model = trainer.accelerator.unwrap_model(trainer.model).unload()
            _put_back(loaded.model, modules)
        self._reset(loaded)
        if not (changed := self._changed(loaded)):
            self.loaded = loaded
        else:
            logger.warning(
                "run %s left '%s' of the base model changed (%d tensors in all): the model is loaded anew",
                folder.name, changed[0], len(changed),
            )  # fmt: skip
        return asdict(result)

    def _changed(self, loaded: LoadedModel) -> list[str]:
        """Names of parameters and buffers that are not what they were when the model was loaded."""
        before, now = self.digests, weight_digests(loaded.model)
        assert before is not None  # it is loaded
        return sorted(name for name in {*before, *now} if before.get(name) != now.get(name))

    def _load_anew(self) -> LoadedModel:
        try:
            return self.load()
        except Exception as error:  # it could be loaded before, so no run is to blame
            self.loaded = None
            raise MachineError(f"the base model could not be loaded anew: {one_line(error)}") from error

    def _reset(self, loaded: LoadedModel) -> None:
        import torch

        # Accelerate wraps `forward`, for bf16 among others, and marks the model as done: the next trainer's Accelerate
        # would leave a marked one as it is, and train in fp32.
        for name in loaded.model.__dict__.keys() - self.attributes:
            delattr(loaded.model, name)
        loaded.model.zero_grad(set_to_none=True)
        with torch.no_grad():
            for name, weight in loaded.model.named_parameters():
                if name in self.initial:
                    weight.copy_(self.initial[name])


def fixed_steps(max_steps: int | None) -> dict[str, Any]:
    """The options of a recipe that fix the optimiser steps; none where it decides itself."""
    return {} if max_steps is None else {"budget": "steps", "max_steps": max_steps, "train_tokens": None}


def _put_back(model: "torch.nn.Module", modules: "Mapping[str, torch.nn.Module]") -> None:
    """Puts the modules where they were: in place of one that was trained whole beside an adapter, PEFT leaves the
    trained copy."""
    for name, module in modules.items():
        parent, _, child = name.rpartition(".")
        if name and model.get_submodule(name) is not module:
            setattr(model.get_submodule(parent), child, module)


def _round_frozen_head(loaded: LoadedModel) -> None:
    """Keeps the head in bf16, as mixed precision uses it: it would round the weights anew in every forward pass."""
    import torch

    head = loaded.model.get_output_embeddings()
    if not head.weight.requires_grad:
        head.weight = torch.nn.Parameter(head.weight.detach().to(torch.bfloat16), requires_grad=False)


def describe_base(
    loaded: LoadedModel,
    eval_sets: Mapping[str, EncodedSet],
    bf16: bool,
    eval_embeddings: "Mapping[str, Sequence[torch.Tensor]] | None" = None,
) -> dict[str, Any]:
    """The untrained model's `losses` by set, each example's NLL and tokens as `examples`, and the size of its
    `vocabulary`.

    Raises:
        [`InstructMineError`]: Where a loss is not finite.
    """
    measured = measure_base(loaded, eval_sets, bf16, eval_embeddings)
    for name, loss in measured.items():
        if not np.isfinite(loss.loss):
            raise InstructMineError(f"the untrained model's loss on '{name}' is {loss.loss}: try another dtype")
    vocabulary = loaded.model.config.get_text_config().vocab_size
    losses = {name: loss.loss for name, loss in measured.items()}
    return {"losses": losses, "vocabulary": vocabulary, "examples": describe_examples(measured)}
