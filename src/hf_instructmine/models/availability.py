"""Whether what a model is made of is there: configuration, tokenizer and files. No weights are loaded.

A name with a typing error is better found in seconds than after hours of another model's work.
"""

from pathlib import Path

from ..errors import InstructMineError
from .loading import ModelSource, unavailable
from .weights import adapted_model


_WEIGHTS = (".safetensors", ".bin")


def check_model(source: ModelSource) -> None:
    """Opens the tokenizer and the configuration; of a folder, looks for its weights.

    Raises:
        [`InstructMineError`]: Where one of them is missing; the message names which.
    """
    if source.is_loaded:
        return
    source.load_tokenizer()
    _check_configuration(source.model, source.revision, source.trust_remote_code)


def check_encoder(name: str, revision: str | None = None) -> None:
    """The same for a sentence encoder, by Hub id or folder: its modules, or the one that it consists of.

    Raises:
        [`InstructMineError`]: Where it is not there.
    """
    from transformers.utils.hub import cached_file

    if Path(name).is_dir():
        _check_weights(Path(name), "sentence encoder")
        return
    # The library finds its own models without the name of their owner too.
    for repository in dict.fromkeys((name, name if "/" in name else f"sentence-transformers/{name}")):
        for file in ("modules.json", "config.json"):
            try:
                cached_file(repository, file, revision=revision)
            except (OSError, ValueError) as error:
                fault = error
            else:
                return
    raise unavailable("sentence encoder", name, fault) from fault


def _check_configuration(name: str, revision: str | None, trust_remote_code: bool) -> None:
    from transformers import AutoConfig
    from transformers.utils import find_adapter_config_file

    adapter = find_adapter_config_file(name, revision=revision)
    if Path(name).is_dir():
        _check_weights(Path(name), "model")
    if adapter is not None:  # the model is the one that it adapts
        base = adapted_model(Path(adapter).parent)
        _check_configuration(base, None, trust_remote_code)
        return
    try:
        AutoConfig.from_pretrained(name, revision=revision, trust_remote_code=trust_remote_code)
    except (OSError, ValueError) as error:
        raise unavailable("model", name, error) from error


def _check_weights(folder: Path, what: str) -> None:
    if not any(path.suffix in _WEIGHTS for path in folder.rglob("*")):
        raise InstructMineError(
            f"the folder '{folder}' holds no weights of a {what} ({' or '.join(_WEIGHTS)}): give the folder that does"
        )
