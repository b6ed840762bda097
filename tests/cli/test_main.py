"""The command: what it takes, from where, what it prints, and how it ends (0 done, 1 a failure explained, 2 usage)."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from datasets import Dataset, load_dataset
from simulated_runs import simulated_runs
from tiny_models import byte_tokenizer, save, t5_model, unigram_tokenizer

from hf_instructmine import MTLD, LossEstimator, __version__, get_provenance
from hf_instructmine.cli.main import main


VERBS = ("score", "sweep", "fit", "search-size", "select", "compare", "judge", "push", "demo")


def run(*arguments) -> int:
    return main([str(argument) for argument in arguments])


@pytest.fixture
def pool(tmp_path) -> Path:
    """Ten rows; row i has i + 1 different words in its response, the last one none."""
    words = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
    rows = [{"instruction": f"Count to {i}.", "input": "", "output": " ".join(words[:i])} for i in range(1, 10)]
    Dataset.from_list([*rows, {"instruction": "Say nothing.", "input": "", "output": ""}]).to_json(
        tmp_path / "pool.jsonl"
    )
    return tmp_path / "pool.jsonl"


@pytest.fixture
def rule(tmp_path) -> Path:
    """Prefers low diversity, whichever way the column was made."""
    LossEstimator.from_coefficients({"mtld": 1.0}).save_pretrained(tmp_path / "rule")
    return tmp_path / "rule"


@pytest.fixture
def scored(pool, tmp_path, capsys) -> Path:
    assert run("score", pool, "--indicator", "MTLD", "--output-dir", tmp_path / "scored") == 0
    capsys.readouterr()
    return tmp_path / "scored"


# --- The verbs ----------------------------------------------------------------------------------------------------


def test_score_writes_a_scored_pool_and_says_what_it_holds(pool, tmp_path, capsys, caplog):
    assert run("score", pool, "--indicator", "MTLD", "--output-dir", tmp_path / "scored") == 0
    out = capsys.readouterr().out
    assert "empty response" not in caplog.text  # which the summary says
    assert f"Scored 10 rows into {tmp_path / 'scored'}" in out
    assert "mtld: 10 rows, 1 without a value (1 empty response); quartiles 3, 5, 7" in out
    assert "Next: instructmine select" in out
    scored = load_dataset(str(tmp_path / "scored"), split="train")
    assert scored["mtld"][:9] == list(range(1, 10))


def test_score_names_the_columns_that_are_not_read_and_maps_roles(tmp_path, capsys):
    talk = [{"role": "pupil", "content": "?"}, {"role": "teacher", "content": "one two three"}]
    Dataset.from_list([{"turns": talk, "rejected": "four"}]).to_json(tmp_path / "pool.jsonl")
    roles = "messages=turns,roles={teacher: assistant, pupil: user}"
    command = ["score", tmp_path / "pool.jsonl", "--indicator", "MTLD", "--output-dir", tmp_path / "scored"]
    assert run(*command, "--columns", roles) == 0
    said = capsys.readouterr()
    assert "not read, though they may carry text or meaning: 'rejected'" in said.err
    assert load_dataset(str(tmp_path / "scored"), split="train")["mtld"][:] == [3]


def test_select_writes_a_curated_dataset_and_says_what_was_chosen(scored, rule, tmp_path, capsys):
    assert run("select", scored, "--rule", rule, "--size", 3, "--output-dir", tmp_path / "curated") == 0
    out = capsys.readouterr().out
    assert "Selected 3 of 10 rows" in out
    assert "1 without a prediction" in out
    curated = load_dataset(str(tmp_path / "curated"), split="train")
    assert curated["mtld"][:] == [1, 2, 3]
    assert LossEstimator.from_pretrained(tmp_path / "curated").indicators == ["mtld"]
    assert (tmp_path / "curated/README.md").is_file()


@pytest.mark.parametrize(
    "amount, expected",
    [(["--size", 2], [1, 2]), (["--fraction", 0.3], [1, 2, 3]), (["--max-log-loss", 1.5], [1])],
)
def test_how_much_is_selected(scored, rule, tmp_path, amount, expected):
    assert run("select", scored, "--rule", rule, "--output-dir", tmp_path / "curated", *amount) == 0
    assert load_dataset(str(tmp_path / "curated"), split="train")["mtld"][:] == expected


def test_duplicates_are_kept_on_request(tmp_path, rule):
    rows = Dataset.from_dict({"prompt": ["a"] * 3, "completion": ["b"] * 3, "mtld": [1.0] * 3})
    rows.to_parquet(tmp_path / "rows.parquet")
    command = ["select", tmp_path / "rows.parquet", "--rule", rule, "--size", 3, "--output-dir", tmp_path / "curated"]
    assert run(*command) == 1
    assert run(*command, "--keep-duplicates") == 0


def test_indicators_made_otherwise_than_the_rules_are_refused_unless_allowed(scored, tmp_path, capsys):
    made = {"mtld": {**MTLD(0.5).provenance()}}
    LossEstimator.from_coefficients({"mtld": 1.0}, provenance=made).save_pretrained(tmp_path / "other")
    command = ["select", scored, "--rule", tmp_path / "other", "--size", 3, "--output-dir", tmp_path / "curated"]
    assert run(*command) == 1
    assert "the rule has threshold=0.5, the data has threshold=0.72" in capsys.readouterr().err
    assert run(*command, "--allow-mismatch") == 0


def test_a_published_rule_is_known_by_its_name(tmp_path):
    rows = {"reward": [0.0, 1.0], "naturalness": [0.5] * 2, "coherence": [0.5] * 2, "understandability": [0.5] * 2}
    Dataset.from_dict({"prompt": ["a", "b"], "completion": ["c", "d"], **rows}).to_json(tmp_path / "rows.jsonl")
    command = ["select", tmp_path / "rows.jsonl", "--rule", "instructmining-v2", "--size", 1]
    with pytest.warns(UserWarning, match="nothing records which model made"):
        assert run(*command, "--output-dir", tmp_path / "curated") == 0
    assert load_dataset(str(tmp_path / "curated"), split="train")["prompt"][:] == ["b"]


def test_push_sends_a_selection(scored, rule, tmp_path, hub, capsys):
    assert run("select", scored, "--rule", rule, "--size", 3, "--output-dir", tmp_path / "curated") == 0
    assert run("push", tmp_path / "curated", "me/curated", "--private") == 0
    assert "me/curated" in capsys.readouterr().out
    assert load_dataset("me/curated", split="train")["mtld"][:] == [1, 2, 3]


def test_push_sends_a_rule_as_a_model(rule, tmp_path, hub, capsys):
    assert run("push", rule, "me/rule") == 0
    assert "LossEstimator.from_pretrained('me/rule') opens it" in capsys.readouterr().out
    assert list(hub.repos) == [("model", "me/rule")]
    assert LossEstimator.from_pretrained("me/rule").to_json() == LossEstimator.from_pretrained(rule).to_json()


def test_push_of_a_folder_that_holds_none_of_ours_is_told_in_one_line(tmp_path, hub, capsys):
    assert run("push", tmp_path / "absent", "me/curated") == 1
    assert f"there is no folder '{tmp_path / 'absent'}'" in capsys.readouterr().err
    assert run("push", tmp_path, "me/curated") == 1
    assert capsys.readouterr().err == (
        f"instructmine push: '{tmp_path}' holds no curated dataset, rule or sweep: give a folder that "
        "`instructmine select`, `fit` or `sweep` wrote\n"
    )
    assert hub.requests == []


# --- Where the rows are -------------------------------------------------------------------------------------------


def test_several_inputs_of_several_layouts_are_one_pool(pool, tmp_path):
    talk = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "one two"}]
    (tmp_path / "chats.jsonl").write_text(json.dumps({"messages": talk}))
    output = tmp_path / "scored"
    assert run("score", pool, tmp_path / "chats.jsonl", "--indicator", "MTLD", "--output-dir", output) == 0
    scored = load_dataset(str(output), split="train")
    assert scored["source"][:] == ["pool"] * 10 + ["chats"]
    assert scored["mtld"][10] == 2


def test_columns_say_which_is_which(tmp_path, rule):
    Dataset.from_dict({"q": ["a", "b"], "best": ["one two", "one"], "worst": ["", ""]}).to_csv(tmp_path / "rows.csv")
    columns = ["--columns", "prompt=q,response=best"]
    score = ["score", tmp_path / "rows.csv", "--indicator", "MTLD", "--output-dir", tmp_path / "scored"]
    assert run(*score) == 1
    assert run(*score, *columns) == 0
    select = ["select", tmp_path / "scored", "--rule", rule, "--size", 1, "--output-dir", tmp_path / "curated"]
    assert run(*select) == 1
    assert run(*select, *columns) == 0
    assert load_dataset(str(tmp_path / "curated"), split="train")["q"][:] == ["b"]


def test_a_sample_is_scored(pool, tmp_path):
    command = ["score", pool, "--indicator", "MTLD", "--sample", 4]
    for name, seed in (("one", 0), ("again", 0), ("other", 1)):
        assert run(*command, "--seed", seed, "--output-dir", tmp_path / name) == 0
    one, again, other = (
        load_dataset(str(tmp_path / n), split="train")["instruction"][:] for n in ("one", "again", "other")
    )
    assert len(one) == 4
    assert one == again != other


def test_another_indicator_joins_those_that_are_there(scored, pool, tmp_path, capsys):
    byte_tokenizer().save_pretrained(tmp_path / "tokenizer")
    command = ["score", pool, "--output-dir", scored, "--indicator"]
    assert run(*command, f"OutputLength,tokenizer={tmp_path / 'tokenizer'}") == 0
    out = capsys.readouterr().out
    assert "mtld: 10 rows" in out
    assert "output_length: 10 rows" in out
    assert run(*command, "MTLD,threshold=0.5") == 1
    assert run(*command, "MTLD,threshold=0.5", "--overwrite") == 0
    assert get_provenance(load_dataset(str(scored), split="train"))["mtld"]["threshold"] == 0.5


def test_an_indicator_of_several_columns_scores_those_asked_for(pool, tmp_path):
    tokenizer = unigram_tokenizer()
    model = save(tmp_path / "t5", t5_model(tokenizer, tied=False), tokenizer)
    indicator = f"UniEval,model={model},dimensions=[naturalness,coherence]"
    assert run("score", pool, "--output-dir", tmp_path / "scored", "--indicator", indicator, "MTLD") == 0
    columns = load_dataset(str(tmp_path / "scored"), split="train").column_names
    assert columns[-3:] == ["naturalness", "coherence", "mtld"]


# --- A configuration file -----------------------------------------------------------------------------------------


@pytest.fixture
def config(tmp_path):
    def write(text: str) -> Path:
        (tmp_path / "config.yaml").write_text(text)
        return tmp_path / "config.yaml"

    return write


def test_every_option_may_stand_in_a_file(pool, tmp_path, config):
    file = config(
        f"input: {pool}\noutput-dir: {tmp_path / 'scored'}\nsample: 5\nseed: 3\noverwrite: true\n"
        "indicator:\n  - MTLD: {threshold: 0.5}\n"
    )
    assert run("score", "--config", file) == 0
    scored = load_dataset(str(tmp_path / "scored"), split="train")
    assert len(scored) == 5
    assert get_provenance(scored)["mtld"]["threshold"] == 0.5


def test_the_command_line_wins(scored, rule, tmp_path, config):
    file = config(f"input: [{scored}]\nrule: {rule}\nsize: 5\noutput_dir: {tmp_path / 'nowhere'}\n")
    assert run("select", "--config", file, "--size", 2, "--output-dir", tmp_path / "curated") == 0
    assert len(load_dataset(str(tmp_path / "curated"), split="train")) == 2
    assert not (tmp_path / "nowhere").exists()


def test_columns_in_a_file_are_a_mapping(tmp_path, config):
    Dataset.from_dict({"q": ["a"], "best": ["one two"]}).to_json(tmp_path / "rows.jsonl")
    file = config(f"indicator: MTLD\ncolumns: {{prompt: q, response: best}}\noutput_dir: {tmp_path / 'scored'}\n")
    assert run("score", tmp_path / "rows.jsonl", "--config", file) == 0


@pytest.mark.parametrize(
    "text, message",
    [
        ("sizes: 5", "has the unknown option 'sizes': did you mean 'size'? known are allow_mismatch, columns, "),
        ("help: true", "has the unknown option 'help'"),
        ("size: many", "argument --size: invalid int value: 'many'"),
        ("size: 2.5", "argument --size: invalid int value: '2.5'"),
        ("size: [1, 2]", "argument --size: invalid int value"),
        ("overwrite: perhaps", "overwrite is true or false, not 'perhaps'"),
        ("- size", "must hold 'option: value' lines"),
        ("size: [", "cannot read --config"),
        ("null: 5", "it has the option None, which is no name"),
        ("rule: [a, b]", "rule is ['a', 'b'], where one value is expected"),
        ("encoder: {a: b}", "encoder is {'a': 'b'}, where one value is expected"),
        ("input: [[a]]", "input is ['a'], where one value is expected"),
        ("eval_set: [{a: b}]", "eval_set is {'a': 'b'}, where one value is expected"),
        ("size: 5\nsize: 6", "'size' stands there twice"),
        ("rule: " + "[" * 50_000, "nested too deep"),
    ],
)
def test_a_file_that_makes_no_sense_is_wrong_usage(config, capsys, text, message):
    with pytest.raises(SystemExit) as end:
        run("select", "--config", config(text), "pool", "--rule", "r", "--output-dir", "out")
    assert end.value.code == 2
    assert message in capsys.readouterr().err.splitlines()[-1]


def test_a_number_in_the_place_of_a_name_is_one_line(scored, config, tmp_path, capsys):
    file = config(f"input: {scored}\nrule: 5\nsize: 2\noutput_dir: {tmp_path / 'curated'}\n")
    assert run("select", "--config", file) == 1
    assert "'5'" in capsys.readouterr().err.splitlines()[-1]


def test_a_file_of_another_encoding_is_wrong_usage(tmp_path, capsys):
    (tmp_path / "config.yaml").write_bytes("rule: é".encode("latin-1"))
    with pytest.raises(SystemExit) as end:
        run("score", "--config", tmp_path / "config.yaml")
    assert end.value.code == 2
    assert "is not UTF-8 text" in capsys.readouterr().err.splitlines()[-1]


def test_a_file_that_is_not_there_is_wrong_usage(tmp_path, capsys):
    with pytest.raises(SystemExit) as end:
        run("score", "--config", tmp_path / "absent.yaml")
    assert end.value.code == 2
    assert "cannot read --config" in capsys.readouterr().err


# --- How it ends --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments, message",
    [
        ([], "the following arguments are required: verb"),
        (["scores"], "invalid choice: 'scores'"),
        (["score"], "input is missing (here or in --config)"),
        (["score", "pool.jsonl"], "output-dir is missing"),
        (["score", "pool.jsonl", "--output-dir", "out"], "indicator is missing"),
        (["score", "pool.jsonl", "--sample", "many"], "invalid int value: 'many'"),
        (["select", "scored", "--output-dir", "out"], "rule is missing"),
        (["push", "folder"], "repo-id is missing"),
    ],
)
def test_wrong_usage_ends_with_2_and_says_what_is_wrong(capsys, arguments, message):
    with pytest.raises(SystemExit) as end:
        run(*arguments)
    assert end.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("verb", VERBS)
def test_help_shows_every_option_with_its_meaning(verb, capsys):
    with pytest.raises(SystemExit) as end:
        run(verb, "--help")
    assert end.value.code == 0
    out = capsys.readouterr().out
    assert out.startswith(f"usage: instructmine {verb}")
    assert "--config FILE" in out
    assert "(default: None)" not in out


def test_the_overview_names_every_verb(capsys):
    with pytest.raises(SystemExit) as end:
        run("--help")
    assert end.value.code == 0
    out = capsys.readouterr().out
    assert all(f"\n    {verb}" in out for verb in VERBS)


def test_the_version(capsys):
    with pytest.raises(SystemExit) as end:
        run("--version")
    assert end.value.code == 0
    assert capsys.readouterr().out.strip() == __version__


def test_the_installed_command_ends_as_its_verb_does(pool, tmp_path):
    command = Path(sys.executable).with_name("instructmine")
    good = [command, "score", pool, "--indicator", "MTLD", "--output-dir", tmp_path / "scored"]
    run = subprocess.run(good, capture_output=True, text=True)
    assert run.returncode == 0
    assert "Scored 10 rows" in run.stdout
    (tmp_path / "broken.jsonl").write_text('{"prompt": "a"')
    run = subprocess.run([*good[:2], tmp_path / "broken.jsonl", *good[3:]], capture_output=True, text=True)
    assert run.returncode == 1
    said = [line for line in run.stderr.splitlines() if line and not line.startswith("Generating")]  # a progress bar
    assert said == [line for line in said if line.startswith("instructmine score: cannot read '")]
    assert len(said) == 1
    assert not run.stdout


# --- The whole job on real models ---------------------------------------------------------------------------------


def test_from_three_real_pools_to_a_curated_dataset(shared_data, smollm2, minilm, tmp_path):
    pools = [shared_data / "pool" / f"{name}.jsonl" for name in ("alpaca", "dolly", "lima")]
    indicators = [
        f"Perplexity,model={smollm2},dtype=bfloat16,max_length=256",
        f"NeighborDistance,model={minilm},i=6",
        "MTLD",
        f"InputLength,tokenizer={smollm2}",
        f"OutputLength,tokenizer={smollm2}",
    ]
    output = ["--sample", 40, "--output-dir", tmp_path / "scored"]
    assert run("score", *pools, *output, "--indicator", *indicators) == 0
    scored = load_dataset(str(tmp_path / "scored"), split="train")
    assert set(scored["source"]) == {"alpaca", "dolly", "lima"}
    for name in ("perplexity", "knn_6", "input_length", "output_length"):
        assert np.isfinite(scored[name][:]).all()
    assert {name: record["indicator"] for name, record in get_provenance(scored).items()} == {
        "perplexity": "Perplexity",
        "knn_6": "NeighborDistance",
        "mtld": "MTLD",
        "input_length": "InputLength",
        "output_length": "OutputLength",
    }
    coefficients = {"log(perplexity)": 0.1, "knn_6": -0.3, "mtld": -0.001}
    LossEstimator.from_coefficients(coefficients).save_pretrained(tmp_path / "rule")
    select = ["select", tmp_path / "scored", "--rule", tmp_path / "rule", "--size", 8]
    assert run(*select, "--output-dir", tmp_path / "curated") == 0
    curated = load_dataset(str(tmp_path / "curated"), split="train")
    assert len(curated) == 8
    perplexity, knn, mtld = (np.array(scored[name][:]) for name in ("perplexity", "knn_6", "mtld"))
    predicted = 0.1 * np.log(perplexity) - 0.3 * knn - 0.001 * mtld
    assert curated["predicted_log_loss"][:] == pytest.approx(np.sort(predicted)[:8].tolist())


def test_fit_says_what_a_rule_is_worth_and_writes_it(tmp_path, capsys):
    simulated_runs().to_json(tmp_path / "runs.jsonl", orient="records", lines=True)
    arguments = ["fit", tmp_path / "runs.jsonl", "--target", "loss_mt_bench", "--indicators", "reward", "mtld"]
    options = ["--covariates", "subset_size", "--logged", "subset_size", "--output-dir", tmp_path / "rule"]
    assert run(*arguments, *options) == 0
    assert "Held out" in capsys.readouterr().out
    rule = LossEstimator.from_pretrained(tmp_path / "rule")
    assert set(rule.indicators) <= {"reward", "mtld"} and rule.target == "loss_mt_bench"
    assert [(term.column, term.log) for term in rule.covariates] == [("subset_size", True)]
    assert run(*arguments, "--covariates", "steps", "--output-dir", tmp_path / "other") == 1
    assert "no column 'steps'" in capsys.readouterr().err
