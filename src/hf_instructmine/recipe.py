"""A recipe: how a model is finetuned. YAML with the options of TRL and a few of ours."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import InstructMineError


if TYPE_CHECKING:
    from trl import ModelConfig, SFTConfig

# What belongs to a run or a machine rather than to the recipe: two runs that differ in these alone are comparable.
_NOT_RECIPE = (
    "train", "eval_sets", "record", "columns", "num_cpus", "num_gpus", "expect_processes", "output_dir", "seed",
    "data_seed", "env",
)  # fmt: skip
BUDGETS = ("epochs", "steps", "tokens")


@dataclass
class FinetuningArguments:
    """Options of a finetune that TRL does not have.

    Args:
        train (`list[str]`): Training data: local files, saved datasets or Hub ids.
        eval_sets (`list[str]`): Evaluation sets, each as `name=file-or-id`; gives `loss_<name>`.
        record (`str`, *optional*): JSON file that gets the result.
        columns (`str`, *optional*): Which column is which, e.g. `prompt=question,response=answer`.
        train_last_layers (`int`, *optional*): Train the last n layers and the final norm alone.
        cached_trunk (`bool`, *optional*, defaults to `False`): In a sweep, run the layers that do not train once per
            text and keep what they give. Needs `train_last_layers`.
        budget (`str`, *optional*, defaults to `"epochs"`): What is fixed, whatever the size of the subset: `"epochs"`
            (`num_train_epochs`), `"steps"` (`max_steps`) or `"tokens"` (`train_tokens`).
        train_tokens (`int`, *optional*): Response tokens to train on, repeats included, with `budget="tokens"`.
        eval_max_length (`int`, *optional*, defaults to 2048): Tokens that an evaluation text may have.
        eval_token_budget (`int`, *optional*, defaults to 4096): Tokens in a forward pass of the evaluation.
        num_cpus (`float`, *optional*, defaults to 1), num_gpus (`float`, *optional*, defaults to 0): What a run of a
            sweep takes, under Ray.
        expect_processes (`int`, *optional*): How many processes must run; another number is an error. Some ways of
            launching start one process where several were asked for, and say nothing.
    """

    train: list[str] = field(default_factory=list, metadata={"help": "Training data: files, folders or Hub ids."})
    eval_sets: list[str] = field(default_factory=list, metadata={"help": "Evaluation sets, each as name=file."})
    record: str | None = field(default=None, metadata={"help": "JSON file that gets the result."})
    columns: str | None = field(default=None, metadata={"help": "E.g. prompt=question,response=answer."})
    train_last_layers: int | None = field(default=None, metadata={"help": "Train the last n layers alone."})
    cached_trunk: bool = field(default=False, metadata={"help": "Run the frozen layers once per text in a sweep."})
    budget: str = field(default="epochs", metadata={"help": "What is fixed: epochs, steps or tokens."})
    train_tokens: int | None = field(default=None, metadata={"help": "Response tokens, with budget=tokens."})
    eval_max_length: int = field(default=2048, metadata={"help": "Tokens that an evaluation text may have."})
    eval_token_budget: int = field(default=4096, metadata={"help": "Tokens in a forward pass of the evaluation."})
    num_cpus: float = field(default=1.0, metadata={"help": "CPUs of a run, under Ray."})
    num_gpus: float = field(default=0.0, metadata={"help": "GPUs of a run, under Ray."})
    expect_processes: int | None = field(default=None, metadata={"help": "How many processes must run."})


@dataclass(frozen=True)
class Recipe:
    """Settings of a finetune, as plain data.

    Attributes:
        settings (`dict`): Option → value.
    """

    settings: dict[str, Any]

    @classmethod
    def load(cls, recipe: "Recipe | Mapping[str, Any] | str | Path") -> "Recipe":
        """Reads a YAML file, or takes a mapping.

        Raises:
            [`InstructMineError`]: Where the file cannot be read or an option is not known.
        """
        import yaml

        if isinstance(recipe, Recipe):
            return recipe
        if isinstance(recipe, Mapping):
            return cls(dict(recipe))
        try:
            settings = yaml.safe_load(Path(recipe).read_text(encoding="utf-8"))
        except (OSError, yaml.YAMLError) as error:
            raise InstructMineError(f"cannot read the recipe '{recipe}': {' '.join(str(error).split())}") from error
        if not isinstance(settings, dict):
            raise InstructMineError(f"the recipe '{recipe}' must hold 'option: value' lines")
        return cls(settings)

    @property
    def hash(self) -> str:
        """Digest of what makes two runs comparable: all but data, seeds, folders and the number of processes."""
        kept = {k: v for k, v in sorted(self.settings.items()) if k not in _NOT_RECIPE}
        return hashlib.sha256(json.dumps(kept, sort_keys=True, default=str).encode()).hexdigest()[:16]

    def difference(self, other: "Recipe") -> list[str]:
        """Names the options that differ, as `learning_rate: 1e-4 → 2e-4`."""
        keys = sorted({*self.settings, *other.settings} - set(_NOT_RECIPE))
        return [
            f"{key}: {self.settings.get(key)!r} → {other.settings.get(key)!r}"
            for key in keys
            if self.settings.get(key) != other.settings.get(key)
        ]

    def arguments(self, **overrides: Any) -> "tuple[FinetuningArguments, SFTConfig, ModelConfig]":
        """Builds the three argument objects, with `overrides` (seed, output_dir, …) on top.

        Raises:
            [`InstructMineError`]: Where an option is not known, or two contradict each other.
        """
        from trl import ModelConfig, SFTConfig, TrlParser

        parser = TrlParser((FinetuningArguments, SFTConfig, ModelConfig))
        settings = {"output_dir": "finetuned", **self.settings, **overrides}
        settings.pop("env", None)
        try:
            arguments = parser.parse_dict(settings)
        except ValueError as error:
            raise InstructMineError(f"the recipe is not valid: {' '.join(str(error).split())}") from error
        check_arguments(*arguments)
        return arguments


def check_arguments(own: FinetuningArguments, sft: "SFTConfig", model: "ModelConfig") -> None:
    """Refuses contradictions before a model is loaded.

    Raises:
        [`InstructMineError`]: Names the options.
    """
    if model.model_name_or_path is None:
        raise InstructMineError("the recipe names no model: set model_name_or_path")
    if own.budget not in BUDGETS:
        raise InstructMineError(f"budget must be one of {', '.join(BUDGETS)}, not {own.budget!r}")
    if own.budget == "steps" and sft.max_steps < 1:
        raise InstructMineError("budget: steps needs max_steps")
    if own.budget == "tokens" and not own.train_tokens:
        raise InstructMineError("budget: tokens needs train_tokens")
    if own.budget != "steps" and sft.max_steps > 0:
        raise InstructMineError(f"max_steps is set, but budget is {own.budget}: set budget: steps, or drop max_steps")
    if own.train_last_layers is not None and (own.train_last_layers < 1 or model.use_peft):
        raise InstructMineError("train_last_layers must be at least 1, and does not go with use_peft")
    if own.cached_trunk and own.train_last_layers is None:
        raise InstructMineError("cached_trunk needs train_last_layers: without it no layer stays as it is")
    if sft.packing or sft.padding_free or sft.assistant_only_loss:
        raise InstructMineError(
            "packing, padding_free and assistant_only_loss are not supported: loss is on responses"
        )
