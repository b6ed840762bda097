"""The modules in `metrics/`: loaded by path, equal to the indicators they wrap, strict about what they are given."""

import doctest
import math
import runpy
from pathlib import Path

import evaluate
import pytest
import yaml
from datasets import Dataset
from tiny_models import CHATML, byte_tokenizer, reward_classifier, save, t5_model, unigram_tokenizer

import hf_instructmine
from hf_instructmine.indicators import space


METRICS = Path(__file__).parents[2] / "metrics"
NAMES = ("input_length", "output_length", "reward", "perplexity", "mtld", "neighbor_distance", "unieval")
NEED_MODEL = ("reward", "perplexity", "neighbor_distance", "unieval")
NEED_PROMPTS = ("input_length", *NEED_MODEL)
PROMPTS = [
    "What does a barometer measure?",
    "What does a barometer measure?",
    "Count to five.",
    "Say nothing.",
]
PREDICTIONS = [
    "It measures the pressure of the air.",
    "Bananas are rich in potassium, and the pressure of the air is not.",
    "one two three four five",
    "",
]
ROWS = {"predictions": PREDICTIONS, "prompts": PROMPTS}


@pytest.fixture(autouse=True)
def from_a_clone(monkeypatch, tmp_path_factory):
    """As in a clone of the repository, with caches of their own."""
    monkeypatch.chdir(METRICS.parent)
    monkeypatch.setattr(evaluate.config, "HF_METRICS_CACHE", str(tmp_path_factory.mktemp("evaluate")))


@pytest.fixture(scope="session")
def tiny_reward(tmp_path_factory):
    tokenizer = byte_tokenizer(pad="<|endoftext|>", chat_template=CHATML)
    return save(tmp_path_factory.mktemp("reward"), reward_classifier("llama", tokenizer, pad_token_id=0), tokenizer)


@pytest.fixture(scope="session")
def tiny_t5(tmp_path_factory):
    tokenizer = unigram_tokenizer()
    return save(tmp_path_factory.mktemp("t5"), t5_model(tokenizer, tied=True), tokenizer)


@pytest.fixture
def arguments_of(request, monkeypatch, tmp_path):
    """What each module needs besides rows: a real model where a package carries one, else a random one."""
    fixtures = {
        "input_length": ("tokenizer", "smollm2"),
        "output_length": ("tokenizer", "smollm2"),
        "perplexity": ("model", "smollm2"),
        "reward": ("model", "tiny_reward"),
        "unieval": ("model", "tiny_t5"),
        "neighbor_distance": ("model", "minilm"),
    }

    def arguments(name):
        if name == "mtld":
            return {}
        argument, fixture = fixtures[name]
        arguments = {argument: request.getfixturevalue(fixture)}
        if name == "neighbor_distance":
            monkeypatch.setenv("HF_INSTRUCTMINE_CACHE", str(tmp_path))  # of embeddings
            arguments["i"] = 1
        return arguments

    return arguments


@pytest.mark.parametrize("name", NAMES)
def test_a_measurement_is_found_from_any_folder(name, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert Path(hf_instructmine.metric_path(name)) == METRICS / name


def test_an_unknown_measurement_is_told_the_known_ones():
    with pytest.raises(hf_instructmine.InstructMineError, match="no measurement 'bleu': there are input_length, mtld"):
        hf_instructmine.metric_path("bleu")


def same(ours, theirs):
    if isinstance(theirs, dict):
        return list(ours) == list(theirs) and all(same(ours[key], theirs[key]) for key in theirs)
    return ours == pytest.approx(theirs, rel=1e-6, nan_ok=True)


@pytest.mark.parametrize("name", NAMES)
def test_computes_what_the_indicator_computes(name, arguments_of):
    arguments = arguments_of(name)
    module = evaluate.load(f"metrics/{name}")
    results = module.compute(predictions=PREDICTIONS, prompts=PROMPTS, **arguments)

    pool = Dataset.from_dict({"prompt": PROMPTS, "completion": PREDICTIONS})
    indicator = type(module).indicator(**arguments)
    scored = pool.map(indicator.fit(pool), batched=True, load_from_cache_file=False)
    assert list(results) == [
        f"{kind}{column}" for column in indicator.names for kind in ("", "mean_", "num_unscored_")
    ]
    for column in indicator.names:
        values = scored[column][:]
        found = [value for value in values if not math.isnan(value)]
        assert same(results[column], values)
        assert results[f"mean_{column}"] == pytest.approx(sum(found) / len(found))
        assert results[f"num_unscored_{column}"] == len(values) - len(found) == 1
    assert module.name == name and module.module_type == "measurement"


def test_loads_by_absolute_path_from_anywhere(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert evaluate.load(str(METRICS / "mtld")).compute(predictions=["a a b b c c"])["mtld"] == [2.0]


def test_no_row_that_can_be_scored_has_a_mean_of_nan():
    results = evaluate.load("metrics/mtld").compute(predictions=["42", ""])
    assert math.isnan(results["mean_mtld"]) and results["num_unscored_mtld"] == 2


def test_rows_can_be_added_before(arguments_of):
    arguments = arguments_of("perplexity")
    module = evaluate.load("metrics/perplexity")
    at_once = module.compute(predictions=PREDICTIONS, prompts=PROMPTS, **arguments)
    module.add_batch(predictions=PREDICTIONS[:2], prompts=PROMPTS[:2])
    module.add(prediction=PREDICTIONS[2], prompts=PROMPTS[2])
    module.add_batch(predictions=PREDICTIONS[3:], prompts=PROMPTS[3:])
    with pytest.raises(ValueError, match="needs model"):
        module.compute()  # the rows are still there afterwards
    assert same(module.compute(**arguments)["perplexity"], at_once["perplexity"])


def test_rows_can_be_any_sequence_of_strings():
    import numpy as np

    module = evaluate.load("metrics/mtld", keep_in_memory=True)
    expected = module.compute(predictions=PREDICTIONS)
    column = Dataset.from_dict({"text": PREDICTIONS})["text"]
    for rows in (tuple(PREDICTIONS), np.array(PREDICTIONS), column, iter(PREDICTIONS)):
        assert same(module.compute(predictions=rows)["mtld"], expected["mtld"])


def test_text_comes_through_unchanged(smollm2):
    texts = [
        "nul\x00 {{ x }} </s> <|im_end|>",
        "日本語の文章です",
        "مرحبا بالعالم",
        "🙂👩‍👩‍👧",
        "---\n- yaml: |",
        "word " * 40_000,
    ]
    results = evaluate.load("metrics/output_length").compute(predictions=texts, tokenizer=smollm2)
    batch = {"prompt": [""] * len(texts), "completion": texts}
    assert results["output_length"] == hf_instructmine.OutputLength(smollm2)(batch)["output_length"]


def test_a_model_is_loaded_once_for_the_same_arguments(arguments_of):
    arguments = arguments_of("reward")
    module = evaluate.load("metrics/reward")
    module.compute(predictions=PREDICTIONS, prompts=PROMPTS, **arguments)
    first = module._indicator
    module.compute(predictions=PREDICTIONS[:1], prompts=PROMPTS[:1], **arguments)
    assert module._indicator is first
    module.compute(predictions=PREDICTIONS[:1], prompts=PROMPTS[:1], max_length=64, **arguments)
    assert module._indicator.max_length == 64


def test_without_its_prompt_a_response_can_have_a_perplexity(arguments_of):
    arguments = arguments_of("perplexity")
    module = evaluate.load("metrics/perplexity")
    alone = module.compute(predictions=PREDICTIONS, given=False, **arguments)["perplexity"]
    given = module.compute(predictions=PREDICTIONS, prompts=PROMPTS, **arguments)["perplexity"]
    assert alone[0] > given[0]


def test_combined_modules_share_what_they_are_given(smollm2):
    names = ["mtld", "output_length", "perplexity"]
    combined = evaluate.combine([f"metrics/{name}" for name in names])
    results = combined.compute(
        predictions=PREDICTIONS, prompts=PROMPTS, model=smollm2, tokenizer=smollm2, threshold=0.7
    )
    alone = {
        **evaluate.load("metrics/mtld").compute(predictions=PREDICTIONS, threshold=0.7),
        **evaluate.load("metrics/output_length").compute(predictions=PREDICTIONS, tokenizer=smollm2),
        **evaluate.load("metrics/perplexity").compute(predictions=PREDICTIONS, prompts=PROMPTS, model=smollm2),
    }
    assert same(results, alone)


def test_combined_modules_can_have_models_of_their_own(tiny_reward, tiny_t5):
    reward = evaluate.load("metrics/reward", model=tiny_reward)
    unieval = evaluate.load("metrics/unieval", model=tiny_t5)
    combined = evaluate.combine([reward, unieval])
    results = combined.compute(**ROWS)
    assert same(results, {**reward.compute(**ROWS), **unieval.compute(**ROWS)})
    combined.add_batch(**ROWS)
    assert same(results, {**reward.compute(), **unieval.compute()})
    with pytest.raises(ValueError, match="no/such-model"):  # what is passed to compute comes before the default
        reward.compute(**ROWS, model="no/such-model")


ABSENT = {"model": "no/such-model"}


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("perplexity", {"predictions": "a string", "prompts": PROMPTS, **ABSENT}, "predictions must be a list of str"),
        ("perplexity", {"predictions": PREDICTIONS, "prompts": "a string", **ABSENT}, "prompts must be a list of str"),
        ("perplexity", {"predictions": 3, "prompts": PROMPTS, **ABSENT}, "predictions must be a list of str"),
        ("perplexity", {"predictions": {"a": "b"}, "prompts": PROMPTS, **ABSENT}, "predictions must be a list of str"),
        ("perplexity", {"predictions": [], "prompts": [], **ABSENT}, "predictions is empty"),
        ("perplexity", {"predictions": [], "given": False, **ABSENT}, "predictions is empty"),
        ("perplexity", {"predictions": None, **ABSENT}, "nothing to score"),
        ("mtld", {"prompts": PROMPTS}, "mtld needs predictions="),
        ("perplexity", {"predictions": None, "prompts": PROMPTS, "given": False, **ABSENT}, "needs predictions="),
        ("perplexity", {"predictions": PREDICTIONS, "prompts": PROMPTS[:3], **ABSENT}, "4 predictions and 3 prompts"),
        ("perplexity", {**ROWS, "predictions": ["a", "b", None, "d"], **ABSENT}, r"predictions\[2\].* NoneType None"),
        ("perplexity", {**ROWS, "prompts": ["a", 42, "c", "d"], **ABSENT}, r"prompts\[1\].* int 42"),
        ("perplexity", {**ROWS, "predictions": [["a"], "b", "c", "d"], **ABSENT}, r"predictions\[0\].* list \['a'\]"),
        ("perplexity", {**ROWS, "predictions": ["a", "b", "c", "\ud83d"], **ABSENT}, r"predictions\[3\].* surrogate"),
        (
            "perplexity",
            {**ROWS, "modle": "x", **ABSENT},
            "perplexity does not know the argument 'modle'; it knows predic",
        ),
        ("perplexity", {**ROWS, "columns": {}, **ABSENT}, "does not know the argument 'columns'"),
        ("perplexity", {**ROWS, "max_length": 1, **ABSENT}, "max_length must be at least 2"),
        ("mtld", {"predictions": PREDICTIONS, "prompts": PROMPTS, "treshold": 1}, "it knows predictions, threshold$"),
        ("mtld", {"predictions": PREDICTIONS, "threshold": 2}, "threshold must be between 0 and 1"),
        ("unieval", {**ROWS, "dimensions": ["beauty"], **ABSENT}, "dimensions are 'beauty'"),
        (
            "neighbor_distance",
            {**ROWS, **ABSENT},
            "i=6 needs a pool of at least 7 rows with a response, this one has 3",
        ),
        ("output_length", {"predictions": PREDICTIONS}, "output_length needs tokenizer="),
        *((name, ROWS, f"{name} needs model=") for name in NEED_MODEL),
        *(
            (name, {"predictions": PREDICTIONS, "tokenizer": "no/such-model", **ABSENT}, f"{name} needs prompts=")
            for name in NEED_PROMPTS
        ),
    ],
)
def test_bad_input_is_refused_in_one_line_before_a_model_is_loaded(name, arguments, message):
    module = evaluate.load(f"metrics/{name}")
    with pytest.raises(ValueError, match=message) as caught:
        module.compute(**arguments)
    assert "\n" not in str(caught.value)
    assert len(module) == 0


def test_bad_rows_are_refused_where_they_are_added():
    module = evaluate.load("metrics/perplexity")
    with pytest.raises(ValueError, match="needs prompts"):
        module.add_batch(predictions=PREDICTIONS)
    with pytest.raises(ValueError, match=r"predictions\[0\] must be a string, not int 3"):
        module.add(prediction=3, prompts="a")
    with pytest.raises(ValueError, match="Bad inputs"):
        module.add_batch(predictions=PREDICTIONS, prompts=PROMPTS, instructions=PROMPTS)
    assert len(module) == 0


def test_a_mistaken_default_is_refused_at_once():
    with pytest.raises(ValueError, match="does not know the argument 'treshold'"):
        evaluate.load("metrics/mtld", treshold=0.5)


def test_positional_rows_are_refused_as_evaluate_does():
    with pytest.raises(TypeError, match="positional"):
        evaluate.load("metrics/mtld").compute(PREDICTIONS)


def test_a_failed_call_can_be_repeated(smollm2):
    module = evaluate.load("metrics/perplexity")
    with pytest.raises(ValueError, match="no/such-model"):
        module.compute(**ROWS, **ABSENT)
    assert len(module.compute(**ROWS, model=smollm2)["perplexity"]) == len(PREDICTIONS)


@pytest.mark.parametrize("name", NAMES)
def test_the_card_says_what_the_hub_and_a_reader_need(name):
    text = (METRICS / name / "README.md").read_text(encoding="utf-8")
    _, header, body = text.split("---\n", 2)
    card = yaml.safe_load(header)
    assert card["sdk"] == "gradio" and card["app_file"] == "app.py" and card["tags"] == ["evaluate", "measurement"]
    assert {"title", "emoji", "colorFrom", "colorTo", "sdk_version", "pinned", "description"} <= set(card)
    titles = [line.lstrip("# ") for line in body.splitlines() if line.startswith("##")]
    parts = "Measurement description, How to use, Inputs, Output values, Examples, Limitations and bias, Citation"
    assert ", ".join(titles) == parts
    module = evaluate.load(f"metrics/{name}")
    assert all(f"**{argument}**" in body for argument in [*module._feature_names(), *module._parameters()])


@pytest.mark.parametrize("name", NAMES)
def test_the_examples_of_the_card_are_true(name, arguments_of):
    text = (METRICS / name / "README.md").read_text(encoding="utf-8")
    blocks = [block.split("```")[0] for block in text.split("```python\n")[1:]]
    usage, example = blocks
    compile(usage, f"{name}/README.md", "exec")
    arguments = arguments_of(name)  # skips where the package that carries the model is not installed
    parsed = doctest.DocTestParser().get_doctest(example, {"model": arguments.get("model")}, name, None, 0)
    report: list[str] = []
    outcome = doctest.DocTestRunner(verbose=False).run(parsed, out=report.append)
    assert outcome.attempted > 2 and not outcome.failed, "".join(report)


@pytest.mark.parametrize("name", NAMES)
def test_the_app_opens_a_module_that_needs_only_rows(name, monkeypatch):
    opened = []
    monkeypatch.setattr(
        space, "metric_space", lambda folder, rows, **arguments: opened.append((folder, rows, arguments))
    )
    runpy.run_path(str(METRICS / name / "app.py"))
    ((folder, rows, arguments),) = opened
    module = evaluate.load(str(folder / f"{name}.py"), **arguments)
    required = {key for key, parameter in module._parameters().items() if parameter.default is parameter.empty}
    assert module.name == name and required <= set(module._defaults)
    assert all(isinstance(text, str) for row in rows for text in row)
