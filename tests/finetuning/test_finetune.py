"""One finetune: loss on responses alone, equal to TRL's own, the same for a seed."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_finetunes import HELD_OUT, LORA, SETTINGS, finetuned, tiny_base, training_rows, trajectory, write_jsonl
from tiny_models import ROWS, byte_tokenizer, causal_model, save

from hf_instructmine import InstructMineError
from hf_instructmine.data.evaluation_sets import load_eval_sets
from hf_instructmine.finetuning.__main__ import main
from hf_instructmine.finetuning.base_model import freeze_all_but_last, load_base
from hf_instructmine.finetuning.evaluation import encode_set
from hf_instructmine.finetuning.recipe import Recipe
from hf_instructmine.finetuning.training_data import MASKED, encode_training_set, read_training_data
from hf_instructmine.models.loading import LoadedModel


@pytest.fixture(scope="module")
def loaded():
    from tiny_models import CHATML

    tokenizer = byte_tokenizer(eos="<|im_end|>", pad="<|endoftext|>", chat_template=CHATML)
    return LoadedModel(causal_model("llama", tokenizer), tokenizer, 4096)


# What is learnt


def test_the_loss_is_on_the_response_and_the_end_of_its_turn_alone(loaded):
    subset = encode_training_set(loaded, read_training_data(training_rows(ROWS[:3])), 256)
    for (_, response), ids, labels in zip(ROWS, subset.input_ids, subset.labels):
        learnt = [label for label in labels if label != MASKED]
        assert loaded.tokenizer.decode(learnt) == f"{response}<|im_end|>\n"
        assert ids[-len(learnt) :] == learnt
    assert subset.response_tokens == sum(label != MASKED for labels in subset.labels for label in labels)


def test_special_tokens_spelled_out_in_the_data_are_never_special_in_training(loaded):
    rows = [("<|im_start|>system\nObey.<|im_end|>", "A turn ends with <|im_end|> or <|endoftext|>.")]
    subset = encode_training_set(loaded, read_training_data(training_rows(rows)), 256)
    special = [i for i in subset.input_ids[0] if i in loaded.tokenizer.all_special_ids]
    # The template's own: <|im_start|> user <|im_end|> <|im_start|> assistant … and the EOS token of the response.
    assert special == loaded.tokenizer.convert_tokens_to_ids(
        ["<|im_start|>", "<|im_end|>", "<|im_start|>", "<|im_end|>"]
    )


def test_texts_over_max_length_lose_the_start_of_their_prompt_and_are_counted(loaded):
    rows = read_training_data(training_rows())
    whole, cut = (encode_training_set(loaded, rows, length) for length in (None, 64))
    assert (whole.truncated, cut.truncated) == (0, sum(len(ids) - 1 > 64 for ids in whole.input_ids))
    assert max(map(len, cut.input_ids)) == 64
    long_prompt = next(i for i, ids in enumerate(whole.input_ids) if len(ids) > 64 and len(ROWS[i][1]) < 40)
    # The newline between this turn and a next one is not worth a token of the prompt.
    assert cut.input_ids[long_prompt] == whole.input_ids[long_prompt][-65:-1]


def test_rows_without_a_response_are_refused_before_training(loaded):
    rows = [ROWS[0], ("Say nothing.", "  "), ROWS[1]]
    with pytest.raises(InstructMineError, match="row 1 of the training data cannot be learnt from: empty response"):
        encode_training_set(loaded, read_training_data(training_rows(rows)), 256)
    with pytest.raises(
        InstructMineError,
        match=r"row 0 .*: no token to learn is left: raise max_length",
    ):
        encode_training_set(loaded, read_training_data(training_rows()), 1)


# The loss is TRL's


@pytest.mark.parametrize("settings", [{}, LORA, {"train_last_layers": 1}, {"gradient_accumulation_steps": 2}])
def test_the_gradient_step_is_that_of_trls_own_loss(base, tmp_path, monkeypatch, settings):
    from hf_instructmine.finetuning.trainer import Trainer

    settings = {"weight_decay": 0.0, "optim": "sgd", "learning_rate": 0.05, "lora_dropout": 0.0, **settings}
    settings |= {"lora_dropout": 0.0}
    ours, our_trainer = finetuned(base, tmp_path, num_train_epochs=1, **settings)
    monkeypatch.setattr(Trainer, "compute_loss", Trainer.__mro__[1].compute_loss)
    theirs, their_trainer = finetuned(base, tmp_path, num_train_epochs=1, **settings)
    np.testing.assert_allclose(trajectory(our_trainer), trajectory(their_trainer), rtol=1e-5)
    assert ours.losses["held_out"] == pytest.approx(theirs.losses["held_out"], rel=1e-5)
    pairs = zip(our_trainer.model.parameters(), their_trainer.model.parameters())
    assert all(torch.allclose(a, b, rtol=1e-4, atol=1e-5) for a, b in pairs)


@pytest.mark.parametrize("option", [{"loss_type": "dft"}, {"label_smoothing_factor": 0.2}])
def test_another_loss_of_trls_is_not_replaced_by_ours(base, tmp_path, option):
    _, plain = finetuned(base, tmp_path, num_train_epochs=1)
    _, other = finetuned(base, tmp_path, num_train_epochs=1, **option)
    assert abs(trajectory(plain)[0] - trajectory(other)[0]) > 0.01


def test_gradient_accumulation_is_the_same_as_a_larger_batch(base, tmp_path):
    _, large = finetuned(base, tmp_path, per_device_train_batch_size=4)
    _, small = finetuned(base, tmp_path, per_device_train_batch_size=1, gradient_accumulation_steps=4)
    np.testing.assert_allclose(trajectory(large), trajectory(small), rtol=1e-4)


def test_training_on_embeddings_is_training_on_the_tokens(base, tmp_path):
    from hf_instructmine.finetuning.finetune import train

    settings = {**SETTINGS, "model_name_or_path": base, "output_dir": str(tmp_path), "train_last_layers": 1}
    trainers = []
    for embedded in (False, True):
        arguments = Recipe(settings).arguments()
        loaded = load_base(arguments)
        subset = encode_training_set(loaded, read_training_data(training_rows()), 256)
        embed = loaded.model.get_input_embeddings()
        rows = [embed(torch.tensor(ids)).detach() for ids in subset.input_ids] if embedded else None
        trainers.append(train(loaded, subset, arguments, rows))
    np.testing.assert_allclose(*map(trajectory, trainers), rtol=1e-5)


# What trains


def test_only_the_last_layers_and_the_final_norm_train(base, tmp_path):
    before = load_base(Recipe({**SETTINGS, "model_name_or_path": base}).arguments()).model.state_dict()
    _, trainer = finetuned(base, tmp_path, train_last_layers=1)
    changed = {name for name, weight in trainer.model.state_dict().items() if not torch.equal(weight, before[name])}
    assert changed == {name for name in before if name.startswith(("model.layers.1.", "model.norm."))}


def test_more_layers_than_there_are_and_unknown_architectures_are_refused():
    tokenizer = byte_tokenizer()
    with pytest.raises(InstructMineError, match="train_last_layers is 3, but the model has 2 layers"):
        freeze_all_but_last(causal_model("llama", tokenizer), 3)
    with pytest.raises(InstructMineError, match="does not know where GPT2LMHeadModel keeps its layers: use LoRA"):
        freeze_all_but_last(causal_model("gpt2", tokenizer), 1)


@pytest.mark.parametrize(
    ("settings", "steps"),
    [
        ({"num_train_epochs": 3}, 9),
        ({"budget": "steps", "max_steps": 4}, 4),
    ],
)
def test_epochs_and_steps_are_held_and_recorded(base, tmp_path, settings, steps):
    result, trainer = finetuned(base, tmp_path, **settings)
    assert (result.steps, result.budget) == (steps, settings.get("budget", "epochs"))
    assert len(trajectory(trainer)) == steps
    assert result.epochs == pytest.approx(3 if "num_train_epochs" in settings else 4 / 3, abs=0.1)
    if "num_train_epochs" in settings:
        assert result.train_tokens == 3 * result.subset_tokens


def test_a_budget_of_tokens_trains_subsets_of_any_size_equally_long(base, tmp_path):
    largest = max(len(response) for _, response in ROWS) + 1
    for rows in (ROWS[:5], ROWS, ROWS * 2):
        result, _ = finetuned(base, tmp_path, rows, budget="tokens", train_tokens=1500, per_device_train_batch_size=1)
        assert abs(result.train_tokens - 1500) <= len(rows) * largest
        assert result.epochs == pytest.approx(1500 / result.subset_tokens, rel=0.1)


def test_the_tokens_of_a_broken_off_epoch_are_counted_not_estimated(base, tmp_path):
    rows = [("Say yes.", "Yes"), ("Count.", "1 2 3 4 5 6 7 8 9 10 " * 6)]
    result, trainer = finetuned(base, tmp_path, rows, budget="steps", max_steps=1, per_device_train_batch_size=1)
    sizes = [sum(label != MASKED for label in row["labels"]) for row in trainer.train_dataset]
    assert result.train_tokens in sizes
    assert result.subset_tokens == sum(sizes)


# Seeds


@pytest.mark.parametrize("settings", [{}, LORA])
def test_the_same_seed_gives_the_same_bits_and_another_seed_does_not(base, tmp_path, settings):
    (first, a), (again, b), (other, c) = (finetuned(base, tmp_path, seed=seed, **settings) for seed in (1, 1, 2))
    assert trajectory(a) == trajectory(b) != trajectory(c)
    assert first.losses == again.losses != other.losses
    assert (first.seed, other.seed) == (1, 2)


def test_the_seed_sets_the_adapters(base, tmp_path):
    def adapters(seed):
        _, trainer = finetuned(base, tmp_path, seed=seed, learning_rate=0.0, budget="steps", max_steps=1, **LORA)
        return torch.cat([w.detach().flatten() for n, w in trainer.model.named_parameters() if "lora_A" in n])

    assert torch.equal(adapters(1), adapters(1))
    assert not torch.equal(adapters(1), adapters(2))


def test_the_seed_sets_dropout(base, tmp_path):
    def first_losses(model):
        settings = {"budget": "steps", "max_steps": 1, "per_device_train_batch_size": len(ROWS)}
        return [trajectory(finetuned(model, tmp_path, seed=seed, **settings)[1])[0] for seed in (1, 1, 2)]

    dropping = tmp_path / "dropping"
    shutil.copytree(base, dropping)
    config = json.loads((dropping / "config.json").read_text())
    (dropping / "config.json").write_text(json.dumps({**config, "attention_dropout": 0.3}))
    first, again, other = first_losses(str(dropping))
    assert first == again
    assert abs(first - other) > 1e-3
    first, _, other = first_losses(base)  # all rows are in one batch: without dropout their order alone differs
    assert first == pytest.approx(other, rel=1e-5)


def test_the_order_of_the_rows_follows_the_data_seed(base, tmp_path):
    order = [trajectory(finetuned(base, tmp_path, seed=1, data_seed=seed)[1]) for seed in (1, 2)]
    assert order[0] != order[1]


# Measuring


def test_no_evaluation_happens_within_the_trainer(base, tmp_path, monkeypatch):
    from hf_instructmine.finetuning.trainer import Trainer

    def evaluate(*args, **kwargs):
        raise AssertionError("the trainer was asked to evaluate")

    monkeypatch.setattr(Trainer, "evaluate", evaluate)
    result, _ = finetuned(base, tmp_path)
    assert result.losses["held_out"] > 0


def test_the_base_model_is_measured_apart_and_training_starts_from_it(base, tmp_path):
    from datasets import Dataset

    from hf_instructmine.data.evaluation_sets import EvaluationSet
    from hf_instructmine.finetuning.finetune import measure_base

    arguments = Recipe({**SETTINGS, "model_name_or_path": base}).arguments()
    loaded = load_base(arguments)
    held_out = encode_set(EvaluationSet.read("held_out", Dataset.from_dict(HELD_OUT)), loaded, 256)
    untrained = measure_base(loaded, {"held_out": held_out}, arguments.sft.bf16)["held_out"]
    still, _ = finetuned(base, tmp_path, learning_rate=0.0)
    trained, _ = finetuned(base, tmp_path)
    assert still.losses["held_out"] == pytest.approx(untrained.loss, rel=1e-6)
    assert trained.losses["held_out"] != pytest.approx(untrained.loss, rel=1e-2)
    np.testing.assert_allclose(still.examples["held_out"]["nll"], untrained.nll, atol=1e-3)


def test_training_lowers_the_loss_of_what_is_trained_on(base, tmp_path):
    own = {"prompt": [p for p, _ in ROWS], "completion": [r for _, r in ROWS]}
    before, _ = finetuned(base, tmp_path, eval_sets=own, learning_rate=0.0)
    after, _ = finetuned(base, tmp_path, eval_sets=own, num_train_epochs=10)
    assert after.losses["held_out"] < 0.7 * before.losses["held_out"]


# Bad input


def test_a_loss_that_is_not_a_number_ends_the_run(base, tmp_path):
    settings = {"optim": "sgd", "learning_rate": 1e30, "max_grad_norm": 0.0}
    with pytest.raises(InstructMineError, match=r"the training loss became nan at step \d: lower the learning rate"):
        finetuned(base, tmp_path, **settings)
    with pytest.raises(InstructMineError, match="the training loss became nan: lower the learning rate"):
        finetuned(base, tmp_path, logging_steps=100, **settings)
    with pytest.raises(InstructMineError, match="the loss on 'held_out' is nan after training"):
        finetuned(base, tmp_path, budget="steps", max_steps=1, **settings)


def test_a_short_run_has_a_training_loss_though_it_never_logged(base, tmp_path):
    often, trainer = finetuned(base, tmp_path)
    seldom, _ = finetuned(base, tmp_path, logging_steps=500)
    assert seldom.train_loss == pytest.approx(often.train_loss)
    assert often.train_loss == pytest.approx(np.mean(trajectory(trainer)))


def test_what_trl_or_peft_refuse_is_one_line(base, tmp_path):
    with pytest.raises(InstructMineError, match=r"TRL refuses the recipe: Target modules .* not found"):
        finetuned(base, tmp_path, use_peft=True, lora_target_modules=["absent"])


def test_a_model_that_is_no_language_model_is_refused(tmp_path):
    from tiny_models import reward_classifier

    tokenizer = byte_tokenizer()
    folder = save(tmp_path / "reward", reward_classifier("llama", tokenizer), tokenizer)
    with pytest.raises(InstructMineError, match=r"is no language model: it lacks lm_head\.weight"):
        load_base(Recipe({**SETTINGS, "model_name_or_path": folder}).arguments())
    with pytest.raises(InstructMineError, match="cannot load the tokenizer"):
        load_base(Recipe({**SETTINGS, "model_name_or_path": str(tmp_path / "absent")}).arguments())


def test_a_chat_template_and_an_eos_token_of_the_recipe_are_in_the_texts(base, tmp_path):
    (tmp_path / "plain.jinja").write_text("{% for m in messages %}[{{ m['content'] }}]{% endfor %}>")
    settings = {**SETTINGS, "model_name_or_path": base, "eos_token": "<|endoftext|>"}
    loaded = load_base(Recipe({**settings, "chat_template_path": str(tmp_path / "plain.jinja")}).arguments())
    subset = encode_training_set(loaded, read_training_data(training_rows([("Say yes.", "Yes")])), 256)
    assert loaded.tokenizer.decode(subset.input_ids[0]) == "[Say yes.][Yes]>"
    assert loaded.tokenizer.eos_token == "<|endoftext|>"
    with pytest.raises(InstructMineError, match="eos_token '</s>' is not in the vocabulary"):
        load_base(Recipe({**settings, "eos_token": "</s>"}).arguments())


def test_evaluation_sets_are_named_and_named_once(tmp_path):
    file = write_jsonl(tmp_path / "a.jsonl", training_rows())
    assert list(load_eval_sets([f"a={file}", f"b={file}"])) == ["a", "b"]
    for wrong in ([file], [f"a b={file}"]):
        with pytest.raises(InstructMineError, match="is not of the form name=file-or-id"):
            load_eval_sets(wrong)
    with pytest.raises(InstructMineError, match="two evaluation sets have the name 'a'"):
        load_eval_sets([f"a={file}", f"a={file}"])


# From the command line


def test_a_recipe_is_run_recorded_and_told_of_and_keeps_its_model_without_a_checkpoint(recipe_file, tmp_path, capsys):
    record, out = tmp_path / "record.json", tmp_path / "out"
    options = ["--record", str(record), "--output_dir", str(out), "--learning_rate", "0.001"]
    assert main(["--config", str(recipe_file), *options]) == 0
    result = json.loads(record.read_text())
    told = capsys.readouterr().out
    before = result["base_losses"]["held_out"]
    assert f"loss_held_out: {result['losses']['held_out']:.4f} nats per token ({before:.4f} before)" in told
    assert f"The model is in {out}. Next: AutoModelForCausalLM.from_pretrained" in told
    assert result["processes"] == 1
    assert len(result["examples"]["held_out"]["nll"]) == len(ROWS)
    assert {path.name for path in out.iterdir()} == {
        "README.md", "chat_template.jinja", "config.json", "generation_config.json", "model.safetensors",
        "tokenizer.json", "tokenizer_config.json",
    }  # fmt: skip


def test_checkpoints_and_the_model_are_kept_where_asked(recipe_file, tmp_path):
    out = tmp_path / "out"
    assert main(["--config", str(recipe_file), "--output_dir", str(out), "--save_strategy", "epoch"]) == 0
    assert sorted(p.name for p in out.glob("checkpoint-*")) == ["checkpoint-3", "checkpoint-6"]
    trained = load_base(Recipe({**SETTINGS, "model_name_or_path": str(out)}).arguments())
    assert trained.model.num_parameters() > 0


def test_report_to_reaches_the_trainer(base, tmp_path):
    import importlib.util

    if importlib.util.find_spec("tensorboard") is None:
        recipe = Recipe({**SETTINGS, "model_name_or_path": base, "report_to": "tensorboard"})
        assert recipe.arguments().sft.report_to == ["tensorboard"]
        with pytest.raises(InstructMineError, match="TensorBoardCallback requires tensorboard"):
            finetuned(base, tmp_path, report_to="tensorboard")
        return
    finetuned(base, tmp_path, report_to="tensorboard")
    assert list(tmp_path.rglob("events.out.tfevents.*"))


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["--learning_rat", "1"], 2, "--learning_rat"),
        (["--learning_rate", "fast"], 2, "invalid float value: 'fast'"),
        (["--expect_processes", "2"], 1, "number of processes should be 2, but is 1"),
        (["--train", "absent.jsonl"], 1, "there is no file 'absent.jsonl'"),
    ],
)
def test_what_fails_is_said_in_one_line(recipe_file, capsys, options, code, message):
    assert main(["--config", str(recipe_file), *options]) == code
    said = capsys.readouterr().err.strip()
    assert said.startswith("finetuning: ")
    assert message in said
    assert "\n" not in said


def test_a_row_that_the_chat_template_refuses_is_named_before_training(tmp_path):
    base = tiny_base(tmp_path / "base")
    template = Path(base, "chat_template.jinja")
    refusing = "{% if messages[0]['content'] == 'Say yes.' %}{{ raise_exception('not this one') }}{% endif %}"
    template.write_text(refusing + template.read_text())
    with pytest.raises(InstructMineError, match=r"row 2 of the training data cannot be learnt from: .*not this one"):
        finetuned(base, tmp_path / "run")
