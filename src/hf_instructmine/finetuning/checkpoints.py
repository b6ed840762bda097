"""The checkpoint that a finetune goes on from: looked for, and looked at, before it trains."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import InstructMineError
from ..outputs.reading import read_json


if TYPE_CHECKING:
    from trl import SFTConfig

    from .trainer import Trainer

# What two models of one architecture may differ in.
_SIZES = (
    "model_type", "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
    "num_key_value_heads",
)  # fmt: skip
_SAYS_TRUE, _SAYS_FALSE = ("true", "yes", "1", "last"), ("false", "no", "0", "none", "")


def find_checkpoint(sft: "SFTConfig") -> str | None:
    """The folder that `resume_from_checkpoint` means: a path, or the last checkpoint in `output_dir` where it is true.

    Raises:
        [`InstructMineError`]: Where there is none.
    """
    from transformers.trainer_utils import get_last_checkpoint

    asked = sft.resume_from_checkpoint
    said = str(asked).strip().lower()
    if asked is None or said in _SAYS_FALSE:
        return None
    if said in _SAYS_TRUE:
        last = get_last_checkpoint(sft.output_dir) if Path(str(sft.output_dir)).is_dir() else None
        if last is None:
            raise InstructMineError(
                f"resume_from_checkpoint: there is no checkpoint in '{sft.output_dir}': name its folder, or leave the "
                "option out to begin anew (checkpoints are written with save_strategy: epoch or steps)"
            )
        return last
    if not Path(asked, "trainer_state.json").is_file():
        raise InstructMineError(
            f"resume_from_checkpoint: '{asked}' is no checkpoint: name a folder such as "
            f"'{Path(str(sft.output_dir), 'checkpoint-100')}', or write true for the last one in output_dir"
        )
    return asked


def check_checkpoint(trainer: "Trainer", folder: str) -> None:
    """Looks whether a checkpoint is of the trainer's model: the library would leave weights out with a warning.

    Raises:
        [`InstructMineError`]: Where it is of another model, or of another kind of training.
    """
    from accelerate.utils import is_peft_model

    model: Any = trainer.accelerator.unwrap_model(trainer.model)
    adapters = _read(Path(folder, "adapter_config.json"))
    trained = model.active_peft_config.to_dict() if is_peft_model(model) else None
    if (adapters is None) != (trained is None):
        held, trains = ("a whole model", "an adapter")[:: 1 if adapters is None else -1]
        raise _another(folder, f"it holds {held}, and the recipe trains {trains}")
    if adapters is not None and trained is not None:
        before, now = (_of_adapter(config) for config in (adapters, trained))
    else:
        held_config = _read(Path(folder, "config.json"))
        if held_config is None:  # what several processes wrote in parts is left to the library that reads it
            return
        before, now = (_of_model(config) for config in (held_config, model.config.to_dict()))
    changed = [f"{name}: {before[name]} → {now[name]}" for name in now if before[name] != now[name]]
    if changed:
        raise _another(folder, f"it is of another model ({'; '.join(changed)})")


def _another(folder: str, why: str) -> InstructMineError:
    return InstructMineError(
        f"resume_from_checkpoint: '{folder}' does not fit: {why}; name a checkpoint of this recipe"
    )


def _of_model(config: Mapping[str, Any]) -> dict[str, Any]:
    config = config.get("text_config") or config
    return {name: config.get(name) for name in _SIZES}


def _of_adapter(config: Mapping[str, Any]) -> dict[str, Any]:
    modules = config.get("target_modules")
    return {
        "base model": Path(str(config.get("base_model_name_or_path"))).name,
        "kind": str(config.get("peft_type")).rpartition(".")[2],
        "r": config.get("r"),
        "target_modules": modules if isinstance(modules, str) else sorted(modules or ()),
    }


def _read(path: Path) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    return read_json(path, "give another checkpoint to resume_from_checkpoint")
