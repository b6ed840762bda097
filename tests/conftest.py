import os


# Before torch is imported: two cores spin against each other otherwise, and no test may reach for the Hub.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("GOMP_SPINCOUNT", "0")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real instruction pools and evaluation sets, which are not part of the project."""
    folder = Path(os.environ.get("INSTRUCTMINE_SHARED_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(
            "real pools are absent: set INSTRUCTMINE_SHARED_DATA to a folder with pool/*.jsonl and eval/*.jsonl"
        )
    return folder


@pytest.fixture(scope="session")
def smollm2() -> str:
    """The folder of the real SmolLM2-135M-Instruct."""
    pytest.importorskip("gguf", reason="pip install gguf")
    from hf_instructmine.packaged_models import smollm2_135m

    return _or_skip(smollm2_135m)


@pytest.fixture(scope="session")
def minilm() -> str:
    """The folder of the real all-MiniLM-L6-v2."""
    from hf_instructmine.packaged_models import minilm_l6

    return _or_skip(minilm_l6)


def _or_skip(folder_of):
    from hf_instructmine import InstructMineError

    try:
        return folder_of()
    except InstructMineError as error:
        pytest.skip(str(error))
