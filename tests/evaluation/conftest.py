import json
from pathlib import Path

import pytest
from openai_stub import KEY, OpenAIStub


@pytest.fixture
def stub(monkeypatch):
    """A judge behind a real server, whose key and address the environment has."""
    pytest.importorskip("openai")
    with OpenAIStub() as server:
        for name, value in {
            "OPENAI_API_KEY": KEY,
            "OPENAI_BASE_URL": server.url,
            "NO_PROXY": "127.0.0.1",
            "no_proxy": "127.0.0.1",
        }.items():
            monkeypatch.setenv(name, value)
        yield server


@pytest.fixture
def answer_file(tmp_path):
    """Makes a file of answers, one text (or a list of one for each turn) for each prompt."""

    def make(name: str, *answers) -> Path:
        path = tmp_path / "given" / f"{name}.jsonl"
        path.parent.mkdir(exist_ok=True)
        rows = [[answer] if isinstance(answer, str) else answer for answer in answers]
        lines = [
            json.dumps({"row": row, "turn": turn, "answer": text})
            for row, texts in enumerate(rows)
            for turn, text in enumerate(texts)
        ]
        path.write_text("\n".join(lines) + "\n")
        return path

    return make
