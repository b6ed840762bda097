"""Weights from files: the one place that reads them, and says in one line why it cannot."""

import json
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import InstructMineError, one_line


if TYPE_CHECKING:
    from transformers import PreTrainedModel

# What people call a precision, and what PyTorch does.
_DTYPES = {
    "bf16": "bfloat16", "fp16": "float16", "half": "float16", "fp32": "float32", "float": "float32", "fp64": "float64",
    "double": "float64",
}  # fmt: skip


def known_dtype(dtype: Any) -> str:
    """The name of a precision, as PyTorch has it.

    Args:
        dtype (`str` or `torch.dtype`): `"bfloat16"`, `"float16"`, `"float32"`, `"float64"`, one of their short names
            (`"bf16"`, `"fp16"`, `"half"`, …), or `"auto"`.

    Raises:
        [`InstructMineError`]: Where it is none of them.
    """
    asked = str(dtype).removeprefix("torch.")
    name = _DTYPES.get(asked, asked)
    if name not in {"auto", *_DTYPES.values()}:
        raise InstructMineError(f"dtype must be float32, bfloat16 or float16, not {dtype!r:.80}")
    return name


def check_dtype(model: Any, dtype: Any, name: str) -> None:
    """Looks whether the library has read `dtype`: one that ignores the word would move every number without an error.

    Raises:
        [`InstructMineError`]: Where the weights are of another precision than asked for.
    """
    wanted, found = (str(value).removeprefix("torch.") for value in (dtype, model.dtype))
    if wanted not in ("None", "auto", found):
        raise InstructMineError(
            f"the model '{name}' was loaded in {found}, not in {wanted} as asked: name another dtype"
        )


def default_device() -> str:
    """The kind of accelerator that is there, else `cpu`."""
    import torch

    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return "cpu" if accelerator is None else accelerator.type


def device_here(device: Any = None) -> str:
    """A device of this machine.

    Args:
        device (`str` or `torch.device`, *optional*): Defaults to the accelerator where there is one.

    Raises:
        [`InstructMineError`]: Where this machine has none of that name; says which it has.
    """
    import torch

    there = default_device()
    if device is None:
        return there
    count = torch.accelerator.device_count() if there != "cpu" else 0
    try:
        asked = torch.device(device)
    except RuntimeError:  # no name of a device at all
        asked = None
    if asked is not None and (asked.type == "cpu" or (asked.type == there and (asked.index or 0) < count)):
        return str(device)
    known = ", ".join(["cpu", *(f"{there}:{index}" for index in range(count))])
    raise InstructMineError(f"there is no device '{device!s:.40}' here: leave device out, or name one of {known}")


def load_weights(
    name: str, auto_class: str, dtype: Any, what: str = "model", **options: Any
) -> "tuple[PreTrainedModel, list[str]]":
    """Loads a model's weights, from a folder or the Hub.

    Args:
        name (`str`): Hub id or local folder, of a model or of a PEFT adapter.
        auto_class (`str`): Name of the class in transformers that loads it.
        dtype (`str` or `torch.dtype`): Precision of the weights.
        what (`str`, defaults to `"model"`): What the error calls it.
        options: Of `from_pretrained`.

    Returns:
        The model, and the names of the weights that were not in its files: transformers fills those with random
        numbers and a warning.

    Raises:
        [`InstructMineError`]: Where the files are absent, damaged or of another kind, or want to run code.
    """
    import transformers

    check_adapter(name, what)
    with reading(what, name):
        model, info = getattr(transformers, auto_class).from_pretrained(
            name, dtype=dtype, output_loading_info=True, **options
        )
    if options.get("quantization_config") is None:
        check_dtype(model, dtype, name)
    return model, sorted(info["missing_keys"])


@contextmanager
def reading(what: str, name: str) -> Iterator[None]:
    """Says in one line that the files of a model or tokenizer cannot be read.

    Raises:
        [`InstructMineError`]: In place of whatever a library raises. Over a damaged file that may be anything: each
            of the formats has readers of its own.
    """
    try:
        yield
    except (InstructMineError, MemoryError):
        raise
    except Exception as error:
        raise unavailable(what, name, error) from error


def unavailable(what: str, name: str, error: Exception) -> InstructMineError:
    """The error for what cannot be loaded, in one line."""
    said = one_line(error, first=True)
    cannot = f"cannot load the {what} '{name}': "
    if "trust_remote_code" in str(error):
        return InstructMineError(
            f"{cannot}it comes with code of its own; read that code, and pass trust_remote_code=True if you trust it"
        )
    if isinstance(error, pickle.UnpicklingError):  # whose own words advise to let the file run code
        return InstructMineError(
            f"{cannot}its .bin file is damaged, or holds more than weights; name a safetensors version of it"
        )
    if isinstance(error, ImportError) or any(words in said for words in ("unexpected keyword", "memory")):
        return InstructMineError(cannot + said)
    if name.startswith(("/", "./", "../", "~")) and not Path(name).exists():
        return InstructMineError(f"{cannot}there is no such folder")
    if isinstance(error, (OSError, ValueError)) and not isinstance(error, (json.JSONDecodeError, UnicodeError)):
        return InstructMineError(f"{cannot}{said}; give a Hub id (with a network) or a folder that holds it")
    if "ignore_mismatched_sizes" in said:
        return InstructMineError(f"{cannot}its weights have other shapes than its config.json says; fetch both again")
    kind, all_said = type(error).__name__, one_line(error)[:200]
    reason = kind if all_said == kind else f"{kind}: {all_said}"
    return InstructMineError(f"{cannot}a file of it is damaged, or of another kind ({reason}); fetch it again")


def check_adapter(name: str, what: str = "model") -> None:
    """Looks whether a folder that holds an adapter says of which model.

    Raises:
        [`InstructMineError`]: Where it does not.
    """
    folder = Path(name)
    if any(folder.glob("adapter_model.*")) and not (folder / "config.json").exists():
        adapted_model(folder, what)


def adapted_model(folder: Path, what: str = "model") -> str:
    """The model that the adapter in a folder was trained on, as its `adapter_config.json` says.

    Raises:
        [`InstructMineError`]: Where the file is absent or damaged, or names no model.
    """
    path = folder / "adapter_config.json"
    if not path.is_file():
        raise InstructMineError(
            f"cannot load the {what} '{folder}': it holds an adapter without its adapter_config.json; save both there"
        )
    with reading(what, str(folder)):
        config = json.loads(path.read_text(encoding="utf-8"))
    base = config.get("base_model_name_or_path") if isinstance(config, dict) else None
    if not isinstance(base, str):
        raise InstructMineError(
            f"cannot load the {what} '{folder}': its adapter_config.json names no base_model_name_or_path; add it"
        )
    return base
