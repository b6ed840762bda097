"""A rule on the Hub that cannot be read: each reason is a line of its own."""

import pytest
from huggingface_hub import close_session

from hf_instructmine import InstructMineError, LossEstimator


@pytest.fixture
def rule_there(hub, monkeypatch):
    LossEstimator.from_published("instructmining-v1").push_to_hub("me/rule")
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # of the client, between its attempts
    return hub


@pytest.mark.parametrize(
    "fault, said",
    [
        (
            401,
            r"refused the model 'me/rule' \(status 401\): the token is not valid, or the repository is private",
        ),
        (403, r"refused the model 'me/rule' \(status 403\): the token may not read it: ask for access on its page"),
        (404, r"refused the model 'me/rule' \(status 404\): check the id, the repository's type and your token"),
        (429, r"refused the model 'me/rule' \(status 429\): these were too many requests: try again in a few minutes"),
        ((429, {"Retry-After": "30"}), "too many requests: try again in 30 seconds"),
        (500, r"refused the model 'me/rule' \(status 500\): it fails for now, see .*: try again later"),
        (503, r"refused the model 'me/rule' \(status 503\): it fails for now"),
        ("reset", "connection to the Hub broke while the model 'me/rule' was read .*: try again"),
    ],
    ids=str,
)
def test_each_reason_has_a_line_and_its_mend(rule_there, fault, said):
    rule_there.faults["resolve"] = [fault] * 99
    with pytest.raises(InstructMineError, match=said) as refusal:
        LossEstimator.from_pretrained("me/rule")
    assert "\n" not in str(refusal.value)


def test_a_hub_that_is_not_there_is_one_line(rule_there):
    rule_there.shutdown()
    rule_there.server_close()
    close_session()  # whose connection is still open
    with pytest.raises(InstructMineError, match="not a folder here, and the Hub could not be reached to look for it"):
        LossEstimator.from_pretrained("me/rule")


def test_a_download_that_breaks_off_is_one_line(rule_there):
    rule_there.faults["resolve"] = [None, *["reset"] * 99]  # the first only asks for the size
    with pytest.raises(InstructMineError, match="connection to the Hub broke while the model 'me/rule' was read"):
        LossEstimator.from_pretrained("me/rule")


def test_a_revision_that_is_not_there_is_one_line(rule_there):
    with pytest.raises(InstructMineError, match="the model 'me/rule' has no such revision: check its name"):
        LossEstimator.from_pretrained("me/rule", revision="nowhere")
