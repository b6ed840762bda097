"""Whatever fails on the way to the Hub, a push leaves all or nothing, and says which, with the mend, in one line."""

import re

import pytest
from datasets import Dataset, load_dataset
from huggingface_hub import HfApi, set_client_factory
from huggingface_hub.utils._http import default_client_factory

from hf_instructmine.errors import InstructMineError
from hf_instructmine.outputs import hub as hub_answers
from hf_instructmine.outputs.publishing import Content, _Push, publish


ROWS = {"text": ["a", "b", "c"]}
ALWAYS = 99
SOON = {"Retry-After": "1"}


@pytest.fixture
def waits(monkeypatch):
    """How long was waited between attempts, in seconds; nothing is waited for."""
    found = []
    monkeypatch.setattr("time.sleep", found.append)
    return found


@pytest.fixture
def impatient(waits):
    """A client that gives up on an answer after a moment."""

    def factory():
        client = default_client_factory()
        client.timeout = 0.3
        return client

    set_client_factory(factory)
    yield
    set_client_factory(default_client_factory)


def content() -> Content:
    def write(folder, repo_id):
        (folder / "selection.json").write_text("{}")
        (folder / "README.md").write_text(f"---\nlicense: mit\n---\n# {repo_id}\n")

    return Content("dataset", "Add rows", write, Dataset.from_dict(ROWS))


def push(hub, route: str, faults: list, exists: bool = False, **options) -> tuple[str, str]:
    """Pushes with faults on the way; what is said, and what is there: "all", "nothing", "an empty repository"."""
    key, before = ("dataset", "me/rows"), None
    if exists:
        HfApi().create_repo("me/rows", repo_type="dataset")
        card = b"---\nlanguage: en\n---\n# Mine\n"
        HfApi().upload_file(path_or_fileobj=card, path_in_repo="README.md", repo_id="me/rows", repo_type="dataset")
        before = list(hub.repos[key].commits)
    hub.faults[route] = list(faults)
    try:
        said = str(publish(content(), "me/rows", **options))
    except InstructMineError as error:
        said = str(error)
        assert "\n" not in said and len(said) < 600
    hub.faults.clear()
    repo = hub.repos.get(key)
    if repo is None:
        return said, "nothing"
    commits = repo.branches.get("refs/pr/1", repo.commits)
    if len(commits) == (1 if before is None else len(before)):
        return said, "nothing" if exists else "an empty repository"
    assert len(commits) == (2 if before is None else len(before) + 1)
    assert {"README.md", "selection.json", "data/train-00000-of-00001.parquet"} <= set(commits[-1][2])
    assert len(repo.branches) == bool(options.get("create_pr"))
    return said, "all"


LASTING = [
    # Before anything is made.
    ("repo_info", 401, "status 401.*hf auth login"),
    ("repo_info", 403, "status 403.*settings/tokens"),
    ("repo_info", 429, "status 429.*too many requests: push again in a few minutes"),
    ("repo_info", 500, "status 500.*status.huggingface.co: push again later"),
    ("repo_info", 504, "status 504.*push again later"),
    ("repo_info", "reset", "cannot be reached.*push again later"),
    ("validate_yaml", 429, "status 429"),
    ("validate_yaml", 502, "status 502.*push again later"),
    ("validate_yaml", "reset", "cannot be reached"),
    ("create_repo", 401, "status 401.*hf auth login"),
    ("create_repo", 402, "status 402.*settings/billing"),
    ("create_repo", 403, "status 403.*name of your own"),
    ("create_repo", 429, "status 429"),
    ("create_repo", 503, "status 503"),
    ("create_repo", "reset", "cannot be reached"),
    # While files are uploaded.
    ("preupload", 401, "status 401.*hf auth login"),
    ("preupload", 403, "status 403"),
    ("preupload", 404, "status 404.*check the name and the token"),
    ("preupload", (429, {"Retry-After": "7"}), "status 429.*push again in 7 seconds"),
    ("preupload", 500, "status 500"),
    ("preupload", "reset", "cannot be reached"),
    ("lfs_batch", 403, "status 403"),
    ("lfs_batch", 413, "status 413.*max_shard_size"),
    ("lfs_batch", 503, "status 503"),
    ("lfs_batch", 507, "status 507.*storage is full.*settings/billing"),
    ("put_blob", 400, r"'data/train-00000-of-00001.parquet'.*status 400"),
    ("put_blob", 403, r"'data/train-00000-of-00001.parquet'.*status 403.*clock"),
    ("put_blob", 500, r"'data/train-00000-of-00001.parquet'.*status 500.*push again later"),
    ("put_blob", 507, r"'data/train-00000-of-00001.parquet'.*storage is full"),
    ("put_blob", "reset", r"'data/train-00000-of-00001.parquet'.*push again later"),
    # The commit.
    ("commit", 400, "status 400"),
    ("commit", 401, "status 401"),
    ("commit", 403, "status 403"),
    ("commit", 404, "status 404"),
    ("commit", 409, "status 409.*push again in a minute"),
    ("commit", 412, "status 412.*changed it meanwhile: push again"),
    ("commit", 413, "status 413"),
    ("commit", (429, {"Retry-After": "3600"}), "status 429.*push again in 3600 seconds"),
    ("commit", 500, "status 500"),
    ("commit", 503, "status 503"),
    ("commit", 507, "status 507.*storage is full"),
    ("commit", "reset", "cannot be reached"),
]


BEFORE = ("repo_info", "validate_yaml", "create_repo")
CASES = [(*case, exists) for case in LASTING for exists in (False, True) if (case[0], exists) != ("create_repo", True)]


@pytest.mark.parametrize("route, fault, mend, exists", CASES, ids=lambda value: str(value)[:20])
def test_what_lasts_leaves_nothing_and_says_it_with_the_mend(hub, waits, route, fault, mend, exists):
    said, left = push(hub, route, [fault] * ALWAYS, exists)
    assert re.search(mend, said), said
    assert "nothing was pushed" in said
    assert ("'me/rows', made for it, is left as an empty public repository" in said) == (left == "an empty repository")
    assert ("`hf repos delete me/rows --type dataset`" in said) == (left == "an empty repository")
    assert left == ("an empty repository" if not exists and route not in BEFORE else "nothing")
    assert sum(waits) <= 5 * hub_answers.MOST_WAIT


PASSING = [503, (429, SOON), "reset", "late"]


@pytest.mark.parametrize("fault", PASSING, ids=str)
@pytest.mark.parametrize(
    "route", ["repo_info", "validate_yaml", "create_repo", "preupload", "lfs_batch", "put_blob", "commit"]
)
def test_what_passes_is_tried_again(hub, impatient, route, fault):
    assert push(hub, route, [fault]) == ("me/rows", "all")
    assert load_dataset("me/rows", split="train").to_dict() == ROWS


@pytest.mark.parametrize("fault", PASSING, ids=str)
@pytest.mark.parametrize("route", ["resolve", "paths_info"])
def test_what_passes_while_the_repository_is_read_is_tried_again(hub, impatient, route, fault):
    assert push(hub, route, [fault], exists=True) == ("me/rows", "all")


@pytest.mark.parametrize("options", [{}, {"create_pr": True}], ids=["commit", "pull request"])
@pytest.mark.parametrize("fault", ["lost", "lost late", ("lost", 500), ("lost", 504)], ids=str)
def test_a_commit_whose_answer_is_lost_is_found_and_not_made_twice(hub, impatient, fault, options):
    said, left = push(hub, "commit", [fault, *[503] * ALWAYS], exists=True, **options)
    assert (said, left) == ("me/rows", "all")
    assert hub.commits_made("me/rows") == 2  # the user's own, and ours


@pytest.mark.parametrize("fault", ["lost", ("lost", 504)], ids=str)
def test_a_repository_whose_answer_is_lost_is_not_forgotten(hub, waits, fault):
    said, left = push(hub, "create_repo", [fault, *[503] * ALWAYS])
    assert left == "an empty repository" and "is left as an empty public repository" in said


@pytest.mark.parametrize("first", ["not there yet", "out of reach"])
def test_a_commit_that_comes_in_after_we_looked_is_found_by_the_next_refusal(hub, waits, monkeypatch, first):
    find, looks = _Push._find, []

    def late(self, last):
        looks.append(first)
        return find(self, last) if len(looks) > 1 or first == "out of reach" else None

    monkeypatch.setattr(_Push, "_find", late)
    hub.faults["paths_info"] = [503] if first == "out of reach" else []
    assert push(hub, "commit", [("lost", 504)]) == ("me/rows", "all")
    assert len(looks) == 2 and hub.commits_made("me/rows") == 2


def test_what_cannot_be_looked_up_is_not_claimed(hub, waits):
    hub.faults["paths_info"] = [503] * ALWAYS
    said, left = push(hub, "commit", ["lost", *[503] * ALWAYS])
    assert left == "all"
    assert f"whether it was pushed is not known: see {hub.url}/datasets/me/rows" in said
    assert "nothing was pushed" not in said


def test_a_commit_that_somebody_else_made_meanwhile_is_not_taken_for_ours(hub, monkeypatch):
    def meanwhile(*_):
        HfApi().upload_file(path_or_fileobj=b"2", path_in_repo="n.txt", repo_id="me/rows", repo_type="dataset")

    HfApi().create_repo("me/rows", repo_type="dataset")
    monkeypatch.setattr("hf_instructmine.outputs.publishing.pause", meanwhile)
    hub.faults["commit"] = [504]
    with pytest.raises(InstructMineError, match=r"status 412\): somebody else changed it .*; nothing was pushed$"):
        publish(content(), "me/rows")
    assert set(hub.dataset("me/rows").files) == {"n.txt"}


def test_the_hub_says_how_long_to_wait_in_seconds_or_as_a_date(hub, waits):
    from datetime import UTC, datetime, timedelta
    from email.utils import format_datetime

    soon = format_datetime(datetime.now(UTC) + timedelta(seconds=40), usegmt=True)
    faults = [(429, {"Retry-After": "20"}), (503, {"Retry-After": soon}), (429, {"Retry-After": "7200"})]
    assert push(hub, "commit", faults) == ("me/rows", "all")
    assert waits[0] == 20 and 30 < waits[1] <= 40 and waits[2] == hub_answers.MOST_WAIT


def test_a_hub_that_fails_throughout_is_asked_a_few_times_alone(hub, waits):
    push(hub, "preupload", [500] * ALWAYS)
    assert sum("/preupload/" in path for _, path in hub.requests) == 6
    hub.requests.clear()
    push(hub, "commit", [500] * ALWAYS, exists=False)
    assert hub.commits_made("me/rows") == 4
