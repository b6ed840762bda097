"""A recipe: how a model is finetuned. YAML with the options of TRL and a few of ours."""

import argparse
import difflib
import json
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, cast

from ..errors import InstructMineError, not_one_of, one_line
from ..models.rendering import check_template_kwargs
from ..outputs.digests import digest
from ..outputs.files import shipped
from ..outputs.reading import read_yaml


if TYPE_CHECKING:
    from transformers.trainer_pt_utils import AcceleratorConfig
    from trl import ModelConfig, SFTConfig, TrlParser

logger = logging.getLogger(__name__)

# What belongs to a run or a machine rather than to the recipe: two runs that differ in these alone are comparable.
_OF_A_RUN = (
    "train", "eval_sets", "record", "columns", "num_cpus", "num_gpus", "expect_processes", "output_dir", "seed",
    "data_seed", "env", "model_dir", "base_losses",
)  # fmt: skip
# What no loss depends on: what is told and kept, how rows are fetched, and the evaluation of transformers' trainer,
# which never runs here. Names of older releases are among them. (Not: what changes the order of rows, or rounding.)
_OF_NO_LOSS = (
    "logging_strategy", "logging_steps", "logging_first_step", "logging_dir", "logging_nan_inf_filter",
    "log_on_each_node", "log_level", "log_level_replica", "disable_tqdm", "report_to", "run_name", "project",
    "trackio_space_id", "trackio_bucket_id", "trackio_static_space_id", "include_num_input_tokens_seen",
    "include_tokens_per_second", "skip_memory_metrics",
    "save_strategy", "save_steps", "save_total_limit", "save_only_model", "save_on_each_node", "save_safetensors",
    "enable_jit_checkpoint", "push_to_hub", "hub_token", "hub_private_repo", "hub_model_id", "hub_strategy",
    "hub_always_push", "hub_revision",
    "dataloader_num_workers", "dataloader_pin_memory", "dataloader_persistent_workers", "dataloader_prefetch_factor",
    "dataloader_multiprocessing_context", "dataset_num_proc",
    "eval_token_budget", "eval_steps", "eval_delay", "per_device_eval_batch_size", "prediction_loss_only",
    "eval_do_concat_batches", "eval_use_gather_object", "eval_accumulation_steps", "batch_eval_metrics",
    "include_for_metrics", "metric_for_best_model", "greater_is_better", "do_train", "do_eval", "do_predict",
    "ddp_timeout", "local_rank",
)  # fmt: skip
BUDGETS = ("epochs", "steps", "tokens")
# Where a recipe says nothing: TRL would write a checkpoint every 500 steps, and before 1.15 patch the model to compute
# the loss in chunks.
_DEFAULTS = {"output_dir": "finetuned", "save_strategy": "no", "loss_type": "nll"}
# Of TRL's options, those that would make the loss another one, or change which text a run trains on.
_REFUSED = {
    "packing": True, "padding_free": True, "completion_only_loss": False,
    "shuffle_dataset": True, "truncation_mode": "keep_end",
}  # fmt: skip
# Those that need the evaluation of transformers' trainer, without which they end the finetune late or do nothing.
_NEEDS_EVALUATION = {"eval_on_start": True, "load_best_model_at_end": True, "save_strategy": "best"}
# Those that the runs of a sweep may not have, and what they would do to them.
_NOT_OF_A_SWEEP = {
    "data_seed": "all runs would see their rows in one order, so replicates would differ by too little",
    "resume_from_checkpoint": "every run would start from that checkpoint",
    "push_to_hub": "all runs would be pushed to one repository",
    "auto_find_batch_size": "a run could train with another batch than the others",
}
# Those that a sweep gives each run itself.
_GIVEN_BY_A_SWEEP = ("train", "eval_sets", "columns", "record", "output_dir", "seed")
# What transformers 5.23 renamed. Older releases know the first name alone, and newer ones warn of it.
_RENAMED = {
    "gradient_checkpointing": "activation_checkpointing",
    "gradient_checkpointing_kwargs": "activation_checkpointing_kwargs",
}


@dataclass
class FinetuningArguments:
    """Options of a finetune that TRL does not have.

    Args:
        train (`list[str]`): Training data: local files, saved datasets or Hub ids.
        eval_sets (`list[str]`): Evaluation sets, each as `name=source` ([`load_eval_sets`]); gives `loss_<name>`.
        record (`str`, *optional*): JSON file that gets the result.
        model_dir (`str`, *optional*): Folder that gets the final model (its adapter, with LoRA) and a card. By default
            `output_dir`, where a recipe or a command line names one; nothing is kept where a recipe says
            `model_dir: null`.
        base_losses (`list[str]`): The base model's loss on evaluation sets, each as `name=loss`, where all are known:
            they are not measured again.
        columns (`str`, *optional*): Which column is which, e.g. `prompt=question,response=answer`.
        train_last_layers (`int`, *optional*): Train the last n layers and the final norm alone.
        cached_trunk (`bool`, *optional*, defaults to `False`): In a sweep, run the layers that do not train once per
            text and keep what they give. Needs `train_last_layers`.
        budget (`str`, *optional*, defaults to `"epochs"`): What is fixed, whatever the size of the subset: `"epochs"`
            (`num_train_epochs`), `"steps"` (`max_steps`) or `"tokens"` (`train_tokens`).
        train_tokens (`int`, *optional*): Response tokens to train on, repeats included, with `budget="tokens"`.
        eval_max_length (`int`, *optional*, defaults to 2048): Tokens that an evaluation text may have.
        chat_template_kwargs (`dict`, *optional*): Arguments of the chat template, such as `enable_thinking: false`; a
            row's own go before them.
        eval_token_budget (`int`, *optional*, defaults to 4096): Tokens in a forward pass of the evaluation.
        num_cpus (`float`, *optional*, defaults to 1): What a run of a sweep takes, under Ray.
        num_gpus (`float`, *optional*, defaults to 0): The same of GPUs.
        expect_processes (`int`, *optional*): How many processes must run; another number is an error. Some ways of
            launching start one process where several were asked for, and say nothing.
    """

    train: list[str] = field(default_factory=list, metadata={"help": "Training data: files, folders or Hub ids."})
    eval_sets: list[str] = field(default_factory=list, metadata={"help": "Evaluation sets, each as name=file."})
    record: str | None = field(default=None, metadata={"help": "JSON file that gets the result."})
    model_dir: str | None = field(default=None, metadata={"help": "Folder that gets the final model and a card."})
    base_losses: list[str] = field(default_factory=list, metadata={"help": "Known losses, each as name=loss."})
    columns: str | None = field(default=None, metadata={"help": "E.g. prompt=question,response=answer."})
    train_last_layers: int | None = field(default=None, metadata={"help": "Train the last n layers alone."})
    cached_trunk: bool = field(default=False, metadata={"help": "Run the frozen layers once per text in a sweep."})
    budget: str = field(default="epochs", metadata={"help": "What is fixed: epochs, steps or tokens."})
    train_tokens: int | None = field(default=None, metadata={"help": "Response tokens, with budget=tokens."})
    eval_max_length: int = field(default=2048, metadata={"help": "Tokens that an evaluation text may have."})
    chat_template_kwargs: str | None = field(default=None, metadata={"help": "Of the chat template, as JSON."})
    eval_token_budget: int = field(default=4096, metadata={"help": "Tokens in a forward pass of the evaluation."})
    num_cpus: float = field(default=1.0, metadata={"help": "CPUs of a run, under Ray."})
    num_gpus: float = field(default=0.0, metadata={"help": "GPUs of a run, under Ray."})
    expect_processes: int | None = field(default=None, metadata={"help": "How many processes must run."})


@dataclass
class Arguments:
    """All options of a finetune, converted and checked.

    Attributes:
        own ([`FinetuningArguments`]): Those that TRL does not have.
        sft (`SFTConfig`): How TRL trains.
        model (`ModelConfig`): Which model, quantised or not, and its adapter.
        gpus (`int`): How many GPUs this process sees. It uses one.
    """

    own: FinetuningArguments
    sft: "SFTConfig"
    model: "ModelConfig"
    gpus: int = field(init=False)

    def __post_init__(self) -> None:
        check_arguments(self.own, self.sft, self.model)
        self.gpus = _take_one_gpu(self.sft)


@dataclass(frozen=True)
class Recipe:
    """Settings of a finetune, as plain data.

    Attributes:
        settings (`dict`): Option → value.
    """

    settings: dict[str, Any]

    @classmethod
    def load(cls, recipe: "Recipe | Mapping[str, Any] | str | Path") -> "Recipe":
        """Reads a YAML file, takes one that comes with the package by its name, or takes a mapping.

        A file in the current folder goes before one of that name in the package.

        Raises:
            [`InstructMineError`]: Where the file cannot be read, or no recipe has the name.
        """
        if isinstance(recipe, Recipe):
            return recipe
        if isinstance(recipe, Mapping):
            return cls(json.loads(json.dumps(dict(recipe), default=str)))  # plain data, as from a file
        settings = read_yaml(_find(recipe), f"the recipe '{recipe}'")
        if not settings:
            raise InstructMineError(f"the recipe '{recipe}' must hold 'option: value' lines")
        return cls(settings)

    @property
    def comparable(self) -> dict[str, Any]:
        """What has to be equal in two runs for their losses to be compared.

        That is all settings but data, seeds, folders, the number of processes and what no loss depends on. It is
        the same wherever a local model's folder lies.
        """
        return {name: value for name, value in self._of_recipe.items() if name not in _OF_NO_LOSS}

    @property
    def _of_recipe(self) -> dict[str, Any]:
        settings = {**self.settings, "model_name_or_path": self.base_model}
        return {name: value for name, value in sorted(settings.items()) if name not in _OF_A_RUN}

    @property
    def base_model(self) -> str:
        """The base model's Hub id, or the name (not the path) of its folder."""
        name = str(self.settings.get("model_name_or_path"))
        # An absolute one is a folder's also where it was moved away since.
        return Path(name).resolve().name if Path(name).is_absolute() or Path(name).exists() else name

    @property
    def hash(self) -> str:
        """Digest of what makes two runs comparable."""
        return digest(self.comparable)

    @property
    def recorded_hash(self) -> str:
        """Digest of a recipe as a folder holds it. Earlier versions kept options there that no loss depends on, and
        their runs bear the hash of them all."""
        return digest(self._of_recipe)

    def difference(self, other: "Recipe") -> list[str]:
        """Names the options that differ, as `learning_rate: 1e-4 → 2e-4`."""
        mine, theirs = self.comparable, other.comparable
        return [
            f"{key}: {mine.get(key)!r} → {theirs.get(key)!r}"
            for key in sorted({*mine, *theirs})
            if mine.get(key) != theirs.get(key)
        ]

    def arguments(self, *options: str, **overrides: Any) -> Arguments:
        """Builds the arguments. Sets the environment variables under `env`, as TRL does.

        Args:
            options (`str`): Options as on a command line (`"--learning_rate", "1e-4"`); they win over all else.
            overrides: Options by name (seed, output_dir, …); they win over the recipe.

        Raises:
            [`InstructMineError`]: Where an option is not known, has a value of the wrong kind, contradicts another,
                or needs an accelerator that is not there.
        """
        settings = {**_DEFAULTS, **self.settings, **overrides}
        environment = settings.pop("env", None) or {}
        if not isinstance(environment, Mapping):
            raise InstructMineError("env must hold 'VARIABLE: value' lines")
        os.environ.update({name: str(value) for name, value in environment.items()})
        parser = _parser()
        parser.set_defaults(**_as_defaults(parser, settings))
        try:
            *parsed, rest = parser.parse_args_into_dataclasses(
                args=list(options), look_for_args_file=False, return_remaining_strings=True
            )
        except (TypeError, ValueError) as error:
            if isinstance(error, InstructMineError):
                raise
            if "bf16/gpu" in str(error):
                raise InstructMineError(
                    "this recipe trains in bf16 on a GPU, but no GPU that can is visible: run it where there is one, "
                    "choose a recipe for CPUs, or set use_cpu: true (slow)"
                ) from error
            raise InstructMineError(f"the recipe is not valid: {one_line(error)}") from error
        except ImportError as error:
            if "deepspeed" in str(error).lower():
                raise InstructMineError(
                    "the recipe asks for DeepSpeed, which is not here: pip install deepspeed"
                ) from error
            raise InstructMineError(f"the recipe needs a package that is not here: {one_line(error)}") from error
        if rest:
            near = difflib.get_close_matches(rest[0].partition("=")[0], parser._option_string_actions, n=1)
            meant = f": did you mean {near[0]}?" if near else ": it takes those of TRL's SFTConfig and ModelConfig"
            raise InstructMineError(f"a finetune has no option {rest[0]}{meant}")
        return Arguments(*parsed)


def _find(recipe: str | Path) -> Path:
    """The file of a recipe: a path, or a name such as `smollm2-135m-cpu-lora`."""
    path = Path(recipe)
    if path.is_file() or path.suffix in (".yaml", ".yml", ".json") or path.name != str(recipe):
        return path
    known = {path.stem: path for path in sorted(shipped("recipes").glob("*.yaml"))}
    if str(recipe) not in known:
        near = difflib.get_close_matches(str(recipe).casefold(), known, n=1)
        meant = f": did you mean '{near[0]}'?" if near else ""
        raise InstructMineError(
            f"cannot read the recipe '{recipe}': it is no file and none of {', '.join(known)}{meant}"
        )
    return known[str(recipe)]


def _parser() -> "TrlParser":
    """TRL's parser, over its options and ours."""
    from trl import ModelConfig, SFTConfig, TrlParser

    class Parser(TrlParser):
        def error(self, message: str) -> NoReturn:
            raise InstructMineError(f"the recipe is not valid: {message}")

    kinds = (FinetuningArguments, SFTConfig, ModelConfig)
    # Transformers' `DataClassType` is a NewType, which no dataclass is of.
    return Parser(kinds, prog="finetuning", allow_abbrev=False)  # type: ignore[arg-type]


def _as_defaults(parser: argparse.ArgumentParser, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Values of a recipe in the form that `parser` converts and checks, as it does on the command line."""
    known: dict[str, argparse.Action] = {}
    for action in parser._actions:
        known.setdefault(action.dest, action)
    settings = _as_named_here(settings, known)
    defaults = dict(settings)
    for name, value in settings.items():
        if name not in known or name == "help":
            near = difflib.get_close_matches(name, known, n=1)
            raise InstructMineError(
                f"the recipe has the unknown option '{name}'" + (f": did you mean '{near[0]}'?" if near else "")
            )
        action = known[name]
        if value is False and "no" in (action.choices or ()):
            value = defaults[name] = "no"  # which YAML reads as false
        if action.choices is not None and value is not None and value not in action.choices:
            known_values = ", ".join(map(str, action.choices))
            raise InstructMineError(f"the recipe's {name} must be one of {known_values}, not {value!r}")
        if action.nargs == "+" and isinstance(value, str):
            defaults[name] = [value]
        elif action.type in (int, float) and isinstance(value, (int, float)):
            defaults[name] = str(value)  # a text is converted, anything else taken as it is
    return defaults


def _as_named_here(settings: Mapping[str, Any], known: Mapping[str, argparse.Action]) -> dict[str, Any]:
    """Settings under the names that the installed transformers has for them: a recipe may use either."""
    named = dict(settings)
    for old, new in _RENAMED.items():
        here, elsewhere = (new, old) if new in known else (old, new)
        value = named.pop(elsewhere, None)
        if value is not None and named.get(here) is None:
            named[here] = value
    return named


def _check_budget(own: FinetuningArguments, sft: "SFTConfig") -> None:
    if own.budget not in BUDGETS:
        raise InstructMineError(f"budget must be {not_one_of(own.budget, BUDGETS)}")
    if own.budget == "steps" and sft.max_steps < 1:
        raise InstructMineError("budget: steps needs max_steps")
    if own.budget == "tokens" and not own.train_tokens:
        raise InstructMineError("budget: tokens needs train_tokens")
    if own.budget != "steps" and sft.max_steps > 0:
        raise InstructMineError(f"max_steps is set, but budget is {own.budget}: set budget: steps, or drop max_steps")


def _check_trunk(own: FinetuningArguments, sft: "SFTConfig") -> None:
    if not own.cached_trunk:
        return
    if own.train_last_layers is None:
        raise InstructMineError("cached_trunk needs train_last_layers: without it no layer stays as it is")
    if sft.save_strategy != "no":
        raise InstructMineError(
            "cached_trunk does not go with save_strategy: checkpoints would hold the last layers alone; set "
            "cached_trunk: false, or save_strategy: no"
        )
    if sft.neftune_noise_alpha:
        raise InstructMineError(
            "cached_trunk does not go with neftune_noise_alpha: no embedding is run to which noise could be added; "
            "set cached_trunk: false, or drop neftune_noise_alpha"
        )


def _take_one_gpu(sft: "SFTConfig") -> int:
    """Keeps transformers' trainer from spreading each batch over all GPUs that it sees: the batch would be as many
    times larger than the recipe says. Returns how many it sees."""
    visible = sft.n_gpu
    if visible > 1:
        sft._n_gpu = 1
    if sft.n_gpu > 1:
        raise InstructMineError(
            f"{visible} GPUs are visible, and this release of transformers would train on all of them at once: set "
            "CUDA_VISIBLE_DEVICES to one, or use executor='local' in a sweep, which runs on each"
        )
    return visible


def check_for_sweep(recipe: Recipe, arguments: Arguments) -> None:
    """Refuses options that a sweep would misuse, and names those that it gives each run itself.

    Raises:
        [`InstructMineError`]: Names the option and what it would do.
    """
    sft = arguments.sft
    for name, harm in _NOT_OF_A_SWEEP.items():
        if getattr(sft, name) is not None and getattr(sft, name) is not False:
            raise InstructMineError(f"a sweep does not go with {name}: {harm}; drop it from the recipe")
    if cast("AcceleratorConfig", sft.accelerator_config).split_batches:
        raise InstructMineError(
            "a sweep does not go with split_batches: per_device_train_batch_size would be the batch of all processes; "
            "drop it from the recipe"
        )
    if ignored := [name for name in _GIVEN_BY_A_SWEEP if recipe.settings.get(name) is not None]:
        logger.warning("a sweep gives each run its own, so these of the recipe are not used: %s", ", ".join(ignored))


def check_arguments(own: FinetuningArguments, sft: "SFTConfig", model: "ModelConfig") -> None:
    """Refuses contradictions before a model is loaded.

    Raises:
        [`InstructMineError`]: Names the options.
    """
    if model.model_name_or_path is None:
        raise InstructMineError("the recipe names no model: set model_name_or_path")
    _check_budget(own, sft)
    if own.train_last_layers is not None and (own.train_last_layers < 1 or model.use_peft):
        raise InstructMineError("train_last_layers must be at least 1, and does not go with use_peft")
    _check_trunk(own, sft)
    if model.use_peft is False and (model.load_in_4bit or model.load_in_8bit):
        raise InstructMineError("load_in_4bit and load_in_8bit need use_peft: quantised weights cannot be trained")
    if sft.max_length is not None and sft.max_length < 2:
        raise InstructMineError(f"max_length must be at least 2, not {sft.max_length}")
    check_template_kwargs(own.chat_template_kwargs, "chat_template_kwargs of the recipe")
    if own.eval_max_length < 2:
        raise InstructMineError(f"eval_max_length must be at least 2, not {own.eval_max_length}")
    if sft.eval_strategy != "no":
        raise InstructMineError(
            "eval_strategy is not supported: the loss on eval_sets is measured after training, over all their tokens"
        )
    late = next((name for name, value in _NEEDS_EVALUATION.items() if getattr(sft, name) == value), None)
    if late is not None:
        raise InstructMineError(
            f"{late}: {_NEEDS_EVALUATION[late]} is not supported: there is no evaluation while a finetune trains"
        )
    if sft.dataset_kwargs is not None:
        raise InstructMineError("dataset_kwargs is not supported: rows are tokenised here, and by TRL not again")
    refused = next((name for name, value in _REFUSED.items() if getattr(sft, name) == value), None)
    if refused is not None:
        raise InstructMineError(
            f"{refused}: {getattr(sft, refused)} is not supported: loss is on the responses of whole rows, one by "
            "one; of rows that share a sequence, one reads the other where the attention does not part them"
        )
