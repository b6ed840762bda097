"""A Hugging Face Job is asked for by one request, which holds the token as a secret; what it lacks is said first."""

import shlex

import pytest
from datasets import Dataset
from hub_stub import TOKEN

import hf_instructmine as him
from hf_instructmine.cli.main import main


PERPLEXITY = "Perplexity,model=me/model,dtype=bfloat16"


@pytest.fixture
def pool(hub, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Dataset.from_dict({"prompt": ["a b"], "completion": ["c d"]}).push_to_hub("me/pool")
    return "me/pool:train"


def submitted(*words) -> int:
    return main(["score", *words, "--executor", "jobs", "--output-dir", "scored"])


def test_the_job_runs_the_same_verb_and_pushes_the_folder(pool, hub, capsys):
    asked = ("--indicator", "MTLD", PERPLEXITY, "--flavor", "a10g-small", "--push-to", "me/scored", "--sample", "9")
    assert submitted(pool, *asked) == 0
    (job,) = hub.jobs
    assert job["flavor"] == "a10g-small" and job["dockerImage"] == "python:3.12"
    assert job["secrets"] == {"HF_TOKEN": TOKEN}
    shell, flag, line = job["command"]
    install, score, push = (shlex.split(step) for step in line.split(" && "))
    assert (shell, flag) == ("bash", "-c")
    assert install == ["pip", "install", "--quiet", f"hf-instructmine=={him.__version__}"]
    assert score[:6] == ["instructmine", "score", pool, "--indicator", "MTLD", PERPLEXITY]
    assert score[-2:] == ["--output-dir", "scored"] and "9" in score
    assert push[:5] == ["hf", "upload", "me/scored", "scored", "."] and "--private" in push
    out = capsys.readouterr().out
    assert f"Submitted {hub.url}/jobs/me/0a1b2c" in out and "hf jobs logs 0a1b2c" in out


def test_the_token_is_a_secret_and_nothing_else(pool, hub, capsys, tmp_path):
    assert submitted(pool, "--indicator", "MTLD", "--push-to", "me/scored") == 0
    (job,) = hub.jobs
    assert TOKEN not in str({**job, "secrets": None})
    said = capsys.readouterr()
    assert TOKEN not in said.out + said.err
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert not [path for path in written if TOKEN.encode() in path.read_bytes()]


def test_the_words_of_the_user_are_no_commands_of_the_shell(pool, hub):
    assert submitted(pool, "--indicator", "MTLD", "--columns", "prompt=a; curl x", "--push-to", "me/scored") == 0
    (job,) = hub.jobs
    assert "prompt=a; curl x" in shlex.split(job["command"][2])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["me/pool"], "a job leaves nothing but what it pushes: name a dataset with --push-to"),
        (["me/pool", "--push-to", "a/b/c"], "'a/b/c' is no repository id"),
        (["rows.jsonl", "--push-to", "me/scored"], "a job cannot read 'rows.jsonl', which is on this machine"),
        (["me/absent", "--push-to", "me/scored"], "the Hub refused the job or its dataset (status 404)"),
        (["me/pool", "--push-to", "me/scored", "--address", "h:1"], "--address is of a Ray cluster"),
    ],
)
def test_what_a_job_lacks_is_said_before_it_is_sent(words, said, pool, hub, capsys, tmp_path):
    (tmp_path / "rows.jsonl").write_text('{"prompt": "a", "completion": "b"}\n')
    assert submitted(*words, "--indicator", "MTLD") == 1
    err = capsys.readouterr().err.strip()
    assert said in err and "\n" not in err
    assert not hub.jobs


def test_a_model_of_this_machine_is_refused(pool, hub, capsys, tmp_path):
    (tmp_path / "model").mkdir()
    assert submitted(pool, "--indicator", "Perplexity,model=model", "--push-to", "me/scored") == 1
    assert "a job cannot read 'model', which is on this machine" in capsys.readouterr().err
    assert not hub.jobs


def test_the_options_of_a_job_are_of_a_job(capsys):
    assert main(["score", "rows.jsonl", "--indicator", "MTLD", "--output-dir", "s", "--push-to", "me/scored"]) == 1
    assert "--push-to is of a job: pass --executor jobs too" in capsys.readouterr().err


def test_a_wrong_executor_is_told_all_that_there_are(capsys):
    assert main(["score", "pool.jsonl", "--indicator", "MTLD", "--executor", "slurm", "--output-dir", "out"]) == 1
    assert "--executor must be one of local, ray, jobs, not 'slurm'" in capsys.readouterr().err
