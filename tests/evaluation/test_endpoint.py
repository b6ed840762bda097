"""A judge behind a server, over real HTTP: what passes is tried again, what does not is one line."""

import json
import time

import pytest
from openai_stub import KEY, cut, drop, empty, garbage, http_date, page, slow, status

from hf_instructmine import InstructMineError
from hf_instructmine.evaluation.endpoint import Endpoint, _retry_after
from hf_instructmine.evaluation.journal import Journal
from hf_instructmine.evaluation.prompts import ask_pair, ask_single
from hf_instructmine.evaluation.questions import read_questions


(QUESTION,) = read_questions([{"prompt": "Name a colour."}])
DELAYS = (0.02,) * 3


def pair(first="good", second="bad"):
    return ask_pair(QUESTION, [first], [second], form="json", seed=0)


def pairs(number: int):
    return [pair(f"good {i}") for i in range(number)]


@pytest.fixture
def endpoint(stub, tmp_path):
    def make(**options):
        return Endpoint("judge-1", Journal(tmp_path / "replies.jsonl"), **{"retry_delays": DELAYS, **options})

    return make


FAULTS = {
    "429": status(429),
    "429, Retry-After 0": status(429, Retry_After="0"),
    "429, Retry-After of no meaning": status(429, Retry_After="soon"),
    "408": status(408),
    "409": status(409),
    "500": status(500),
    "503": status(503),
    "a page of a proxy with 502": page(502),
    "dropped connection": drop,
    "connection cut within the answer": cut,
    "malformed JSON": garbage,
    "JSON of another shape": empty,
    "time-out": slow(0.6),
}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_what_may_pass_is_tried_again(stub, endpoint, fault):
    stub.faults.extend([fault] * 2)
    (found,) = endpoint(timeout=0.3).verdicts([pair()])
    assert found[1].value == 1.0
    assert len(stub.bodies) == 3


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_what_does_not_pass_is_one_line(stub, endpoint, fault):
    stub.faults.extend([fault] * 4)
    with pytest.raises(InstructMineError, match=r"^the judge 'judge-1' at 127.0.0.1:\d+ .*, 4 times in a row") as told:
        list(endpoint(timeout=0.3).verdicts([pair()]))
    assert "\n" not in str(told.value)


LASTING = {
    "no quota": (status(429, "You exceeded your quota", "insufficient_quota"), "no quota left"),
    "401": (status(401), "refuses the key"),
    "403": (status(403), "forbids this"),
    "404": (status(404), "does not serve this model .*; it serves judge-1"),
    "405": (status(405), "refuses the request"),
    "a web page": (page(), "answers with a web page, not as an API: check base_url"),
    "a long wait": (status(429, Retry_After="7200"), "asks to wait for 7200 seconds"),
    "a wait until a date": (
        lambda *asked: status(503, Retry_After=http_date(9000))(*asked),  # the date is of when it is asked
        "asks to wait for (89|90)",
    ),
}


@pytest.mark.parametrize("fault, told", LASTING.values(), ids=LASTING)
def test_what_lasts_is_told_at_once(stub, endpoint, fault, told):
    stub.faults.append(fault)
    with pytest.raises(InstructMineError, match=told):
        list(endpoint().verdicts([pair()]))
    assert len(stub.bodies) == 1


def test_retry_after_is_waited_for_in_seconds_and_as_a_date(stub, endpoint):
    dated = lambda handler: status(503, Retry_After=http_date(2))(handler)  # noqa: E731
    stub.faults.extend([status(429, Retry_After="0.4"), dated])
    list(endpoint().verdicts([pair()]))
    first, second, third = stub.times
    assert second - first >= 0.4
    assert third - second >= 0.9  # a date has no fractions of a second


@pytest.mark.parametrize(
    "value, seconds",
    [("3", 3.0), ("-1", 0.0), ("0.5", 0.5), ("", None), ("soon", None), ("Thu, 26 Nov 2020 12:00:00 GMT", 0.0)],
)
def test_retry_after_is_read(value, seconds):
    assert _retry_after({"retry-after": value}) == seconds


def test_all_that_came_before_a_failure_is_kept_and_not_asked_again(stub, endpoint):
    stub.faults.extend([None, None, None, status(401)])
    found = []
    with pytest.raises(InstructMineError, match="refuses the key"):
        for number, _ in endpoint(concurrency=1).verdicts(pairs(8)):
            found.append(number)
    assert found == [0, 1, 2]
    assert len(stub.bodies) == 4
    assert len(list(endpoint().verdicts(pairs(8)))) == 8
    assert set(stub.answered.values()) == {1}


def test_a_failure_does_not_lose_what_is_on_its_way(stub, endpoint):
    stub.faults.extend([slow(0.3), slow(0.3), status(403)])
    found = []
    with pytest.raises(InstructMineError, match="forbids"):
        found += [number for number, _ in []]
        for number, _ in endpoint(concurrency=3).verdicts(pairs(9)):
            found.append(number)
    assert len(found) == 2


def test_no_more_requests_at_once_than_asked_for(stub, endpoint):
    stub.faults.extend([slow(0.05)] * 12)
    assert len(list(endpoint(concurrency=3).verdicts(pairs(12)))) == 12
    assert stub.most_at_once == 3


def test_the_same_texts_are_asked_once(stub, endpoint):
    list(endpoint(concurrency=1).verdicts([pair(), pair(), pair("other")]))
    list(endpoint().verdicts([pair()]))
    assert len(stub.bodies) == 2
    list(endpoint(seed=1).verdicts([pair()]))  # other parameters
    assert len(stub.bodies) == 3


# --- Verdicts that are none ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "reply",
    [
        "I prefer A.",
        "A",
        "",
        '{"verdict": "A or B"}',
        '{"verdict": "a"}',
        '{"verdict": null}',
        '{"verdict": "A", "verdict": "B"}',
        '{"verdict": "A"} {"verdict": "B"}',
        '{"verdict": "A", "winner": "B"}',
        '["A"]',
        'The second says {"verdict": "B"}',
    ],
)
def test_what_is_no_verdict_is_asked_once_more_and_never_guessed(stub, endpoint, reply):
    stub.reply = lambda body: reply
    ((_, verdict),) = endpoint().verdicts([pair()])
    assert (verdict.value, verdict.problem, verdict.asked) == (None, "malformed", 2)
    assert len(stub.bodies) == 2
    assert "could not be read" in stub.bodies[1]["messages"][-1]["content"]


def test_the_second_time_may_be_a_verdict(stub, endpoint):
    replies = iter(["Hm.", '{"explanation": "", "verdict": "B"}'])
    stub.reply = lambda body: next(replies)
    ((_, verdict),) = endpoint().verdicts([pair()])
    assert (verdict.value, verdict.problem, verdict.asked) == (0.0, None, 2)


@pytest.mark.parametrize(
    "reply", ['```json\n{"verdict": "tie"}\n```', '<think>A? {"verdict": "A"}</think>{"verdict": "tie"}']
)
def test_a_fence_and_a_thought_around_a_verdict_do_not_count(stub, endpoint, reply):
    stub.reply = lambda body: reply
    ((_, verdict),) = endpoint().verdicts([pair()])
    assert verdict.value == 0.5


def test_refusals_and_replies_that_are_cut_are_told_apart(stub, endpoint):
    stub.message = lambda body: {"content": None, "refusal": "I cannot judge this."}
    ((_, verdict),) = endpoint().verdicts([pair("x")])
    assert (verdict.value, verdict.problem, verdict.asked) == (None, "refused", 2)
    stub.message, stub.finish = lambda body: {}, "length"
    ((_, verdict),) = endpoint().verdicts([pair("y")])
    assert verdict.problem == "cut"
    stub.finish = "content_filter"
    ((_, verdict),) = endpoint().verdicts([pair("z")])
    assert verdict.problem == "refused"


def test_texts_that_are_too_long_cost_one_request_and_end_nothing(stub, endpoint):
    stub.faults.append(status(400, "This model's maximum context length is 8192 tokens", "context_length_exceeded"))
    found = dict(endpoint(concurrency=1).verdicts(pairs(2)))
    assert (found[0].problem, found[1].value) == ("too long", 1.0)


# --- Parameters ---------------------------------------------------------------------------------------------------


def test_a_verdict_is_asked_for_by_its_schema(stub, endpoint):
    list(endpoint(concurrency=1, seed=7).verdicts([pair(), ask_single(QUESTION, ["good"], form="json", seed=0)]))
    schemas = [body["response_format"]["json_schema"] for body in stub.bodies]
    assert schemas[0]["strict"] and schemas[0]["schema"]["properties"]["verdict"]["enum"] == ["A", "B", "tie"]
    assert schemas[1]["schema"]["properties"]["rating"]["enum"] == list(range(1, 11))
    assert {body["seed"] for body in stub.bodies} == {7}
    assert {body["temperature"] for body in stub.bodies} == {0.0}


def test_a_server_without_structured_output_is_asked_in_words_and_that_is_said_once(stub, endpoint, caplog):
    refusal = status(400, "'response_format' of type 'json_schema' is not supported")
    stub.faults.append(refusal)
    judge = endpoint(concurrency=1)
    assert {verdict.value for _, verdict in judge.verdicts(pairs(3))} == {1.0}
    assert ["response_format" in body for body in stub.bodies] == [True, False, False, False]
    assert caplog.text.count("does not take structured output") == 1


@pytest.mark.parametrize("name", ["temperature", "seed", "max_tokens"])
def test_a_parameter_that_a_model_does_not_know_is_left_out(stub, endpoint, caplog, name):
    stub.faults.append(status(400, f"Unsupported parameter: '{name}' is not supported with this model."))
    ((_, verdict),) = endpoint().verdicts([pair()])
    assert verdict.value == 1.0
    assert name not in stub.bodies[-1] and "response_format" in stub.bodies[-1]
    assert ("max_completion_tokens" in stub.bodies[-1]) == (name == "max_tokens")


def test_a_request_that_stays_refused_is_one_line(stub, endpoint):
    stub.faults.extend([status(400, "bad messages")] * 9)
    with pytest.raises(InstructMineError, match=r"refuses the request \(400: bad messages\)"):
        list(endpoint().verdicts([pair()]))
    assert len(stub.bodies) == 2  # with structured output, and without


# --- The key ------------------------------------------------------------------------------------------------------


def test_the_key_reaches_no_error_log_or_file(stub, endpoint, tmp_path, caplog, monkeypatch):
    caplog.set_level("DEBUG")
    echo = f"who sent Bearer {KEY}?"
    for fault in (status(401, echo), status(404, echo), status(500, echo), page(418)):
        stub.faults.extend([fault] * 9)
        with pytest.raises(InstructMineError) as told:
            list(endpoint().verdicts([pair()]))
        chain = [
            told.value,
            told.value.__cause__,
            told.value.__context__ if not told.value.__suppress_context__ else None,
        ]
        assert KEY not in "".join(map(repr, chain))
        stub.faults.clear()
    stub.faults.append(status(400, f"response_format? {echo}"))
    stub.reply = lambda body: json.dumps({"explanation": f"The key is {KEY}", "verdict": "A"})
    list(endpoint().verdicts([pair()]))
    assert "[key]" in (tmp_path / "replies.jsonl").read_text()
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and KEY in path.read_text()]
    assert KEY not in caplog.text


def test_an_address_with_a_password_is_not_told(stub, endpoint):
    stub.faults.append(status(403))
    address = stub.url.replace("http://", "http://ann:secret@")
    with pytest.raises(InstructMineError, match=r"at 127\.0\.0\.1:\d+ forbids") as told:
        list(endpoint(base_url=address).verdicts([pair()]))
    assert "secret" not in str(told.value)


@pytest.mark.parametrize("key", ["sk-a b", "sk-\u00e4", "sk-a\nb"])
def test_what_cannot_be_a_key_is_refused_without_quoting_it(endpoint, monkeypatch, key):
    monkeypatch.setenv("OPENAI_API_KEY", key)
    with pytest.raises(InstructMineError, match="copy it again") as told:
        endpoint()
    assert key not in str(told.value)


@pytest.mark.parametrize("key", [None, "A", "EMPTY"])
def test_a_word_in_place_of_a_key_is_left_in_replies(stub, endpoint, tmp_path, monkeypatch, key):
    monkeypatch.delenv("OPENAI_API_KEY")
    if key is not None:
        monkeypatch.setenv("OPENAI_API_KEY", key)
    stub.key = key or "none"
    stub.reply = lambda body: '{"explanation": "none is EMPTY", "verdict": "A"}'
    assert [verdict.value for _, verdict in endpoint().verdicts([pair()])] == [1.0]
    assert "none is EMPTY" in (tmp_path / "replies.jsonl").read_text()


def test_only_a_server_of_ones_own_needs_no_key(endpoint, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY")
    endpoint()  # at the stub's address
    monkeypatch.delenv("OPENAI_BASE_URL")
    with pytest.raises(InstructMineError, match="set OPENAI_API_KEY"):
        endpoint()


# --- Before the first verdict -------------------------------------------------------------------------------------


def test_a_first_request_finds_what_is_wrong(stub, tmp_path, monkeypatch):
    def check(model="judge-1", base_url=None):
        Endpoint(model, Journal(tmp_path / "replies.jsonl"), base_url, retry_delays=(0.01, 0.01)).check()

    check()
    with pytest.raises(InstructMineError, match=r"'gpt-9' .* does not serve this model .*; it serves judge-1"):
        check("gpt-9")
    with pytest.raises(InstructMineError, match="base_url, which usually ends in /v1"):
        check(base_url=stub.url.removesuffix("/v1"))
    monkeypatch.setenv("OPENAI_API_KEY", "sk-wrong")
    with pytest.raises(InstructMineError, match=r"refuses the key \(401: Incorrect API key provided: \[key\]"):
        check()
    started = time.monotonic()
    with pytest.raises(InstructMineError, match=r"cannot be reached .* 3 times in a row"):
        check(base_url="http://127.0.0.1:9/v1")
    assert time.monotonic() - started < 5
    assert not stub.bodies and not (tmp_path / "replies.jsonl").exists()
