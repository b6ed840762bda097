"""What a finetune leaves behind: its final model, whole or not at all, with a card that says how it came about."""

import json
import os
import platform
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import InstructMineError, one_line
from ..outputs.files import sync, writing
from ..outputs.markdown import count, escape, table
from ..outputs.privacy import without_paths
from ..versions import OF_TRAINING
from .recipe import Arguments


if TYPE_CHECKING:
    from huggingface_hub import ModelCard

    from .trainer import Trainer

CARD = "README.md"
TEMPLATE = Path(__file__).with_name("finetuned_card.md")
# Of a recipe: a secret, and what stands in the card already.
_NOT_TOLD = ("hub_token", "push_to_hub_token", "model_name_or_path")
# Without one of these no library takes a folder for a model: they are moved in after the weights.
_CONFIGURATIONS = ("config.json", "adapter_config.json")
_WEIGHTS = ("model*.safetensors", "adapter_model*.safetensors")


@dataclass(frozen=True)
class Provenance:
    """What the card of a finetuned model tells.

    Attributes:
        base_model (`Mapping[str, str]`): From [`describe_source`].
        data (`Mapping[str, Any]`): What it was trained on, by name: plain values.
        recipe (`Mapping[str, Any]`): How; see [`Recipe.comparable`].
        result (`Mapping[str, Any]`): What came of it: a [`FinetuningResult`] as a dict.
    """

    base_model: Mapping[str, str]
    data: Mapping[str, Any]
    recipe: Mapping[str, Any]
    result: Mapping[str, Any]


def check_model_dir(folder: Path, resuming: bool) -> None:
    """Finds out before the training whether a model can be kept in a folder.

    Raises:
        [`InstructMineError`]: Where it is a file, or holds a model already and training is not resumed.
    """
    if folder.exists() and not folder.is_dir():
        raise InstructMineError(f"output_dir: '{folder}' is a file: name a folder for the model")
    held = next((name for name in _CONFIGURATIONS if (folder / name).exists()), None)
    if held is not None and not resuming:
        raise InstructMineError(
            f"output_dir: '{folder}' holds a model already ({held}): name another folder, or remove it"
        )


def write_model(trainer: "Trainer", folder: Path) -> None:
    """Writes the trained model, or its adapter alone, and the tokenizer to a new folder. All processes have to call
    it, with the same folder: each may hold a part of the weights.

    Raises:
        [`InstructMineError`]: Where a sharded model could not be put together.
        `OSError`: Where the disk is full or the folder read-only.
    """
    if trainer.accelerator.is_main_process:
        shutil.rmtree(folder, ignore_errors=True)  # left by a process that was killed
    trainer.accelerator.wait_for_everyone()
    if trainer.is_fsdp_enabled:
        trainer.accelerator.state.fsdp_plugin.set_state_dict_type("FULL_STATE_DICT")  # as its documentation says
    with _disk_errors(), _no_bars():
        trainer.save_model(str(folder), _internal_call=True)
    trainer.accelerator.wait_for_everyone()
    if not trainer.accelerator.is_main_process:
        return
    # A pickle of all options: it would tell folders of this machine, and a token for the Hub.
    (folder / "training_args.bin").unlink(missing_ok=True)
    if not any(path for pattern in _WEIGHTS for path in folder.glob(pattern)):
        raise InstructMineError(
            "the model could not be put together from its shards: set zero3_save_16bit_model: true in the Accelerate "
            "configuration"
        )


def keep_model(trainer: "Trainer", folder: Path, describe: Callable[[], Provenance]) -> None:
    """Writes the model and its card to a folder, which may hold checkpoints. All processes have to call it.

    The files take their places one by one when all are written: the weights first, what makes a model of them after
    that, and the card last.

    Args:
        describe (`Callable`): Says what the card tells; called on the main process alone.

    Raises:
        [`InstructMineError`]: As [`write_model`] does; and where the folder cannot be written.
    """
    stage = folder / ".partial"
    with writing(folder):
        write_model(trainer, stage)
        if trainer.accelerator.is_main_process:
            build_model_card(describe()).save(stage / CARD)
            last = (*_CONFIGURATIONS, CARD)
            for file in sorted(stage.iterdir(), key=lambda file: last.index(file.name) if file.name in last else -1):
                sync(file)
                file.replace(folder / file.name)
            sync(folder)
            stage.rmdir()
    trainer.accelerator.wait_for_everyone()


def model_bytes(arguments: Arguments) -> int:
    """About how many bytes [`write_model`] will take: of the weights, told from the model's configuration alone.

    Raises:
        [`InstructMineError`]: Where the model's configuration cannot be had, or PEFT refuses the adapter.
    """
    import torch
    from peft import get_peft_model
    from transformers import AutoConfig, AutoModelForCausalLM
    from trl import get_peft_config

    sft, model = arguments.sft, arguments.model
    assert model.model_name_or_path is not None  # a recipe that names no model is refused
    named = {"revision": model.model_revision, "trust_remote_code": sft.trust_remote_code}
    try:
        config = AutoConfig.from_pretrained(model.model_name_or_path, **named)
        dtype = config.dtype if model.dtype in (None, "auto") else getattr(torch, str(model.dtype))
        with torch.device("meta"):
            whole = AutoModelForCausalLM.from_config(config, trust_remote_code=sft.trust_remote_code)
            adapter = get_peft_config(model)
            if adapter is not None:
                adapted = get_peft_model(whole, adapter)
                return sum(4 * p.numel() for p in adapted.parameters() if p.requires_grad)
    except (OSError, ValueError) as error:
        raise InstructMineError(f"cannot tell how large the model will be: {one_line(error, first=True)}") from error
    return sum(p.numel() for p in whole.parameters()) * (dtype or torch.float32).itemsize


def build_model_card(made: Provenance) -> "ModelCard":
    """The card: base model, losses before and after, data, recipe, seed and versions.

    Returns:
        `ModelCard`: With metadata that the Hub accepts, and without a path of this machine.
    """
    from huggingface_hub import ModelCard, ModelCardData

    result, base = made.result, made.base_model
    adapter = bool(made.recipe.get("use_peft"))
    on_hub = "weights" not in base and re.fullmatch(r"[\w.-]+/[\w.-]+", base["model"])
    data = ModelCardData(
        base_model=base["model"] if on_hub else None,
        library_name="peft" if adapter else "transformers",
        pipeline_tag="text-generation",
        tags=["instructmining", "instruction-tuning", "hf-instructmine", "sft", *(["lora"] if adapter else [])],
    )
    told = {
        "seed": result["seed"],
        "optimiser steps": result["steps"],
        "epochs": round(result["epochs"], 3),
        "response tokens trained on": result["train_tokens"],
        "response tokens asked for": result["asked_tokens"],
        "texts cut to max_length": result["truncated"],
        "mean training loss": None if result["train_loss"] is None else round(result["train_loss"], 4),
        "processes": result["processes"],
    }
    return ModelCard.from_template(
        data,
        template_path=str(TEMPLATE),
        name=escape(base["model"]),
        kind="An adapter (PEFT) for" if adapter else "The whole of",
        rows=count(made.data["rows"], "row"),
        base_model=_rows({"name": base["model"], **{k: v for k, v in base.items() if k != "model"}}),
        adapter=adapter,
        local=adapter and not on_hub,
        losses=_losses(result),
        data=_rows({**made.data, "response tokens": result["subset_tokens"]}),
        training=_rows({name: value for name, value in told.items() if value is not None}),
        recipe=_options({name: value for name, value in made.recipe.items() if name not in _NOT_TOLD}),
        versions=_versions(),
    )


def _rows(values: Mapping[str, Any]) -> str:
    rows = [[escape(name.replace("_", " ")), escape(_plain(value))] for name, value in values.items()]
    return "\n".join(f"- {name}: {value}" for name, value in rows)


def _options(settings: Mapping[str, Any]) -> str:
    rows = [[escape(name), escape(_plain(value))] for name, value in settings.items()]
    return table(["option", "value"], rows, text_columns=2)


def _plain(value: Any) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return without_paths(value if isinstance(value, str) else json.dumps(value, default=str))


def _losses(result: Mapping[str, Any]) -> str:
    before = result["base_losses"]
    rows = [
        [escape(name), f"{before[name]:.4f}" if name in before else "–", f"{loss:.4f}"]
        for name, loss in result["losses"].items()
    ]
    return table(["set", "base model", "this model"], rows)


def _versions() -> str:
    return ", ".join([*(f"{name} {version(name)}" for name in OF_TRAINING), f"Python {platform.python_version()}"])


@contextmanager
def _disk_errors() -> Iterator[None]:
    """Makes what safetensors says of a full disk the error that it is."""
    from safetensors import SafetensorError

    try:
        yield
    except SafetensorError as error:
        number = re.search(r"os error (\d+)", str(error))
        if number is None:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1]))) from error


@contextmanager
def _no_bars() -> Iterator[None]:
    """A bar of the library's would tear that of a sweep."""
    from transformers.utils import logging as said

    shown = said.is_progress_bar_enabled()
    said.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            said.enable_progress_bar()
