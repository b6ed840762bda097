"""`instructmine evaluate`: what it prints and writes, and that kills cost no measurement twice."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from datasets import Dataset
from tiny_models import CHATML, byte_tokenizer, causal_model, save

import hf_instructmine as him
from hf_instructmine.cli.main import main


pytest.importorskip("lm_eval", reason="pip install 'hf-instructmine[benchmarks]'")
ROWS = [
    {"prompt": "What is the capital of France?", "completion": "Paris."},
    {"prompt": "Say yes.", "completion": "Yes"},
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Three models and an evaluation set."""
    made = tmp_path_factory.mktemp("evaluate")
    tokenizer = byte_tokenizer(bos=True, chat_template=CHATML)
    for seed, name in enumerate(("base", "random", "rule")):
        save(made / name, causal_model("llama", tokenizer, seed), tokenizer)
    (made / "mine.jsonl").write_text("\n".join(map(json.dumps, ROWS)))
    return made


def command(folder: Path, output: Path, models=("base", "random", "rule")) -> list[str]:
    named = [f"{name}={folder / name}" for name in models]
    return [
        "evaluate", *named, "--eval-set", f"mine={folder}/mine.jsonl", "--benchmarks", "own_response", "--limit", "4",
        "--output-dir", str(output),
    ]  # fmt: skip


def test_the_table_is_printed_and_written(folder, tmp_path, capsys):
    assert main(command(folder, tmp_path / "out")) == 0
    said = capsys.readouterr().out
    written = (tmp_path / "out" / "evaluation.md").read_text()
    assert written.strip() in said and "Wrote" in said
    assert [f"| own_response (acc_norm) | {name} | 4 |" in said for name in ("base", "random", "rule")] == [True] * 3
    assert "the first 4 questions of each task, without the chat template" in said


def test_killed_again_and_again_it_measures_nothing_twice(folder, tmp_path):
    """Losses, a task of lm-eval and a local judge: each record keeps the moment at which it was written, and answers
    and verdicts only grow, one for each question."""
    output = tmp_path / "out"
    judge = [
        "--judge",
        str(folder / "rule"),
        "--prompts",
        f"{folder}/mine.jsonl",
        "--judge-options",
        "max_new_tokens=3",
    ]
    source = Path(him.__file__).parents[1]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(source)}
    program = [sys.executable, "-m", "hf_instructmine.cli", *command(folder, output), *judge]
    written: dict[str, int] = {}
    for kills in (1, 3):
        process = subprocess.Popen(program, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        until = time.time() + 120
        while len(list(output.glob("runs/*.json"))) < kills and time.time() < until and process.poll() is None:
            time.sleep(0.005)
        process.kill()
        assert process.wait() == -9, "it was done before it was killed"
        now = {path.name: path.stat().st_mtime_ns for path in output.glob("runs/*.json")}
        assert written.items() <= now.items() and kills <= len(now) < 6
        written = now
    answers = output / "judge" / "answers-base.jsonl"
    process = subprocess.Popen(program, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    until = time.time() + 120
    while not (answers.exists() and answers.stat().st_size) and time.time() < until and process.poll() is None:
        time.sleep(0.005)
    process.kill()
    assert process.wait() == -9, "it was done before it was killed"
    written = {path.name: path.stat().st_mtime_ns for path in output.glob("runs/*.json")}
    before = {path: path.read_text() for path in (output / "judge").glob("*.jsonl")}
    assert len(written) == 6
    done = subprocess.run(program, env=environment, check=True, capture_output=True, text=True, timeout=300)
    assert f"{len(written)} of 6 measurements are recorded already" in done.stderr
    after = {path.name: path.stat().st_mtime_ns for path in output.glob("runs/*.json")}
    assert after == written
    for path, text in before.items():
        assert path.read_text().startswith(text[: text.rfind("\n") + 1])
    lines = [json.loads(line) for line in answers.read_text().splitlines()]
    assert sorted(line["row"] for line in lines) == [0, 1]
    assert main([*command(folder, tmp_path / "uninterrupted"), *judge]) == 0
    assert (output / "evaluation.md").read_text() == (tmp_path / "uninterrupted" / "evaluation.md").read_text()


def test_a_dry_run_resolves_all_tasks_without_data_or_models(capsys):
    assert main(["evaluate", "--benchmarks", "openllm", "--dry-run", "--limit", "5"]) == 0
    said = capsys.readouterr().out
    for line in (
        "| arc_challenge | 25-shot acc_norm | allenai/ai2_arc | 1 |",
        "| hellaswag | 10-shot acc_norm | Rowan/hellaswag | 1 |",
        "| mmlu | 5-shot acc, 57 tasks | cais/mmlu | 57 |",
        "| truthfulqa_mc2 | 0-shot acc | truthfulqa/truthful_qa | 1 |",
        "| winogrande | 5-shot acc | allenai/winogrande | 1 |",
        "| gsm8k | 5-shot exact_match (strict-match) | openai/gsm8k | 1 |",
        "Would ask the first 5 questions of each task, without the chat template.",
    ):
        assert line in said


def test_options_may_stand_in_a_file(folder, tmp_path, capsys):
    (tmp_path / "evaluate.yaml").write_text(
        f"models: [one={folder}/base]\neval_set: [mine={folder}/mine.jsonl]\nchat_template: true\nlimit: 2\n"
        f"benchmarks: own_response\noutput_dir: {tmp_path}/out\n"
    )
    assert main(["evaluate", "--config", str(tmp_path / "evaluate.yaml")]) == 0
    assert "the first 2 questions of each task, with the chat template" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments, told",
    [
        ([], "name the models: NAME=FOLDER"),
        (["a=m", "--benchmarks", "own_response"], "--output-dir is missing"),
        (["m", "--output-dir", "out"], "the model 'm' is not of the form NAME=VALUE"),
        (["a=m", "a=n", "--output-dir", "out"], "the model 'a' is named twice"),
        (["a=m", "--output-dir", "out", "--judge", "j"], "--judge and --prompts go together"),
        (["a=m", "--output-dir", "out"], "nothing to measure"),
        (["a=/absent/m", "--output-dir", "out", "--benchmarks", "own_response"], "the model 'a': "),
        (["a=m", "--output-dir", "out", "--benchmarks", "arc_chalenge"], "did you mean arc_challenge"),
    ],
)
def test_what_is_missing_is_told_in_one_line(tmp_path, monkeypatch, capsys, arguments, told):
    monkeypatch.chdir(tmp_path)
    assert main(["evaluate", *arguments]) == 1
    said = capsys.readouterr().err
    assert told in said and said.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_it_is_attached_to_the_card_of_a_selection(folder, tmp_path, capsys, recwarn):
    pool = Dataset.from_dict({"prompt": ["a", "b", "c"], "completion": ["d", "e", "f"], "mtld": [1.0, 2.0, 3.0]})
    rule = him.LossEstimator.from_coefficients({"mtld": 1.0})
    him.Selector(rule).select(pool, size=2).save_to_disk(tmp_path / "curated")
    assert main([*command(folder, tmp_path / "out"), "--attach", str(tmp_path / "curated")]) == 0
    card = (tmp_path / "curated" / "README.md").read_text()
    assert "Losses, benchmarks and a judge" in card and "own\\_response" in card
    assert "It cannot be checked" in card
