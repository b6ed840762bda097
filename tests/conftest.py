import os


# Before torch is imported: two cores spin against each other otherwise, and no test may reach for the Hub.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("GOMP_SPINCOUNT", "0")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import shutil
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
    from hf_instructmine.models.packaged import smollm2_135m

    return _or_skip(smollm2_135m)


@pytest.fixture(scope="session")
def minilm() -> str:
    """The folder of the real all-MiniLM-L6-v2."""
    from hf_instructmine.models.packaged import minilm_l6

    return _or_skip(minilm_l6)


@pytest.fixture(scope="session")
def browser():
    """Chromium without a window."""
    playwright = pytest.importorskip("playwright.sync_api", reason="pip install playwright")
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if found is None:
        pytest.skip("pages are looked at in Chromium, which is not here: apt install chromium")
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture
def trained(monkeypatch) -> list[str]:
    """The runs that are trained during the test, by name."""
    from hf_instructmine.sweep import executors

    names = []
    train = executors.Inline.run

    def noted(self, indices, seed, folder, **options):
        names.append(folder.name)
        return train(self, indices, seed, folder, **options)

    monkeypatch.setattr(executors.Inline, "run", noted)
    return names


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A small Hub over real HTTP, to which this process's (and through the environment a subprocess's) calls go."""
    import datasets
    import huggingface_hub
    from hub_stub import TOKEN, HubStub
    from huggingface_hub import HfFileSystem, constants, hf_api

    cache = tmp_path / "hub_cache"
    with HubStub() as stub:
        for name, value in {
            "HF_ENDPOINT": stub.url,
            "HF_TOKEN": TOKEN,
            "HF_HOME": str(cache),
            "HF_HUB_OFFLINE": "0",
            "HF_HUB_DISABLE_XET": "1",
            "NO_PROXY": "127.0.0.1",
            "no_proxy": "127.0.0.1",
        }.items():
            monkeypatch.setenv(name, value)
        # The libraries read those when they are imported, which has happened already in this process.
        monkeypatch.setattr(constants, "ENDPOINT", stub.url)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", stub.url + "/{repo_id}/resolve/{revision}/{filename}"
        )
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache / "hub"))
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(cache / "token"))
        monkeypatch.setattr(hf_api.api, "endpoint", stub.url)
        monkeypatch.setattr(datasets.config, "HF_ENDPOINT", stub.url)
        monkeypatch.setattr(
            datasets.config, "HUB_DATASETS_URL", stub.url + "/datasets/{repo_id}/resolve/{revision}/{path}"
        )
        monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(datasets.config, "HF_UPDATE_DOWNLOAD_COUNTS", False)
        monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", cache / "datasets")
        huggingface_hub.close_session()
        HfFileSystem.clear_instance_cache()
        yield stub
        huggingface_hub.close_session()
        HfFileSystem.clear_instance_cache()


def _or_skip(folder_of):
    from hf_instructmine import InstructMineError

    try:
        return folder_of()
    except InstructMineError as error:
        pytest.skip(str(error))
