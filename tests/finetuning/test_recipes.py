"""Every recipe parses and builds against a tiny random model of its architecture; those for CPUs train for real."""

from pathlib import Path

import pytest
import torch
import yaml
from tiny_finetunes import finetuned, tiny_base

from hf_instructmine import InstructMineError
from hf_instructmine.finetuning.base_model import load_base
from hf_instructmine.finetuning.recipe import Recipe


RECIPES = Path(__file__).parents[2] / "recipes"
ARCHITECTURES = {
    "smollm2-135m-cpu-lora": "llama",
    "smollm2-135m-cpu-last-layers": "llama",
    "smollm2-1.7b-lora": "llama",
    "llama-2-7b-full": "llama",
    "llama-3.1-8b-qlora": "llama",
    "qwen3-8b-lora": "qwen3",
}
# A tiny model has fewer layers than the recipe trains.
FITTED = {"smollm2-135m-cpu-last-layers": {"train_last_layers": 1}}


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    return {kind: tiny_base(tmp_path_factory.mktemp(kind), kind) for kind in set(ARCHITECTURES.values())}


def recipe_named(name):
    return Recipe.load(RECIPES / f"{name}.yaml")


def test_every_recipe_is_tested():
    assert {path.stem for path in RECIPES.glob("*.yaml")} == set(ARCHITECTURES)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_recipe_is_found_by_its_name_in_any_folder(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert Recipe.load(name) == recipe_named(name)


def test_a_file_of_that_name_in_the_current_folder_wins(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "smollm2-135m-cpu-lora").write_text("model_name_or_path: mine")
    assert Recipe.load("smollm2-135m-cpu-lora").base_model == "mine"
    (tmp_path / "qwen3-8b-lora").mkdir()
    assert Recipe.load("qwen3-8b-lora") == recipe_named("qwen3-8b-lora")


def test_an_unknown_name_is_told_the_known_ones():
    known = ", ".join(sorted(ARCHITECTURES))
    with pytest.raises(
        InstructMineError, match=f"^cannot read the recipe 'smollm2': it is no file and none of {known}$"
    ):
        Recipe.load("smollm2")


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_recipe_builds_model_and_adapter(bases, name, tmp_path):
    from peft import get_peft_model
    from trl import get_peft_config, get_quantization_config

    base = bases[ARCHITECTURES[name]]
    settings = {"model_name_or_path": base, "use_cpu": True, "output_dir": str(tmp_path), **FITTED.get(name, {})}
    arguments = recipe_named(name).arguments(**settings)
    model = arguments.model
    if model.load_in_4bit and not torch.cuda.is_available():
        quantization = get_quantization_config(model)
        assert (quantization.bnb_4bit_quant_type, quantization.bnb_4bit_compute_dtype) == ("nf4", torch.bfloat16)
        with pytest.raises(InstructMineError, match="quantised model, which needs a CUDA GPU: none is visible"):
            load_base(arguments)
        model.load_in_4bit = False  # the rest is a LoRA like the others
    loaded = load_base(arguments)
    assert loaded.model.dtype == getattr(torch, model.dtype)
    assert loaded.model.config._attn_implementation == "sdpa"  # as recipes/README.md says
    config = get_peft_config(model)
    if config is None:
        trained = [n for n, p in loaded.model.named_parameters() if p.requires_grad]
        assert trained and all("lora" not in n for n in trained)
        return
    adapted = get_peft_model(loaded.model, config)
    targets = {n.split(".lora_A")[0].split(".")[-1] for n, p in adapted.named_parameters() if p.requires_grad}
    assert {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"} <= targets
    assert not any("lm_head" in n for n, p in adapted.named_parameters() if p.requires_grad)  # which TRL refuses


@pytest.mark.parametrize("name", [name for name in ARCHITECTURES if "cpu" in name])
def test_a_recipe_for_cpus_trains(bases, name, tmp_path):
    settings = {**recipe_named(name).settings, **FITTED.get(name, {}), "cached_trunk": False}
    settings.pop("model_name_or_path")
    result, trainer = finetuned(bases["llama"], tmp_path, **settings)
    assert result.epochs == settings["num_train_epochs"]
    assert result.losses["held_out"] > 0
    frozen = [p for p in trainer.model.parameters() if not p.requires_grad]
    assert frozen and all(p.grad is None for p in frozen)


@pytest.mark.parametrize("name", [name for name in ARCHITECTURES if "cpu" not in name])
def test_a_recipe_for_gpus_says_so_where_there_is_none(name):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    with pytest.raises(InstructMineError, match="trains in bf16 on a GPU, but no GPU that can is visible"):
        recipe_named(name).arguments()


def test_texts_of_like_length_share_a_batch_but_where_the_papers_order_is_kept():
    strategies = {}
    for name in ARCHITECTURES:
        strategies[name] = recipe_named(name).arguments(use_cpu=True).sft.train_sampling_strategy
    random = {name for name, strategy in strategies.items() if strategy == "random"}
    assert random == {"llama-2-7b-full", "smollm2-135m-cpu-lora"}
    assert set(strategies.values()) == {"random", "group_by_length"}


def test_llama_2_is_finetuned_as_in_the_paper():
    arguments = recipe_named("llama-2-7b-full").arguments(use_cpu=True)
    own, sft, model = arguments.own, arguments.sft, arguments.model
    assert sft.per_device_train_batch_size * sft.gradient_accumulation_steps * own.expect_processes == 128
    assert (sft.num_train_epochs, sft.learning_rate, sft.lr_scheduler_type) == (3, 2e-5, "cosine")
    assert not model.use_peft and own.train_last_layers is None


@pytest.mark.parametrize("path", sorted(RECIPES.rglob("*.yaml")), ids=lambda path: path.stem)
def test_no_recipe_reports_anywhere_or_runs_code_from_the_hub_unasked(path):
    assert "trust_remote_code" not in path.read_text()
    if path.parent.name != "tasks":  # which are lm-eval's, with tags of its own
        assert yaml.safe_load(path.read_text()).get("report_to", "none") == "none"


# Accelerate's configurations


def launch_arguments(path):
    """What `accelerate launch --config_file` makes of a file."""
    from accelerate.commands.launch import _validate_launch_command, launch_command_parser

    args = launch_command_parser().parse_args(["--config_file", str(path), "-m", "module"])
    return _validate_launch_command(args)


@pytest.mark.parametrize(
    ("name", "kind", "processes"),
    [
        ("one-cpu", "NO", 1),
        ("two-cpu-processes", "MULTI_GPU", 2),
        ("one-gpu", "NO", 1),
        ("many-gpus", "MULTI_GPU", 8),
        ("fsdp2", "FSDP", 8),
        ("deepspeed-zero3", "DEEPSPEED", 8),
    ],
)
def test_accelerate_reads_its_configuration_and_knows_every_key(name, kind, processes):
    from accelerate.commands.launch import launch_command_parser

    args, config, _ = launch_arguments(RECIPES / "accelerate" / f"{name}.yaml")
    assert (config.distributed_type.value, args.num_processes) == (kind, processes)
    known = {action.dest for action in launch_command_parser()._actions}
    settings = yaml.safe_load((RECIPES / "accelerate" / f"{name}.yaml").read_text())
    assert set(settings.get("fsdp_config", {})) | set(settings.get("deepspeed_config", {})) <= known


def test_every_configuration_is_tested():
    tested = test_accelerate_reads_its_configuration_and_knows_every_key.pytestmark[0].args[1]
    assert {path.stem for path in (RECIPES / "accelerate").glob("*.yaml")} == {name for name, _, _ in tested}


def test_the_plugin_of_fsdp_is_built_from_its_configuration(monkeypatch):
    from accelerate import FullyShardedDataParallelPlugin
    from accelerate.utils.launch import prepare_multi_gpu_env

    args, _, _ = launch_arguments(RECIPES / "accelerate" / "fsdp2.yaml")
    for name, value in prepare_multi_gpu_env(args).items():
        monkeypatch.setenv(name, value)
    plugin = FullyShardedDataParallelPlugin()
    assert (plugin.fsdp_version, plugin.reshard_after_forward) == (2, True)
    assert "FULL" in str(plugin.state_dict_type)
    assert plugin.cpu_ram_efficient_loading
    assert plugin.activation_checkpointing


def test_where_fsdp_recomputes_activations_the_recipe_does_not(bases, monkeypatch):
    from accelerate.utils.launch import prepare_multi_gpu_env

    from hf_instructmine.finetuning.finetune import _prepared
    from hf_instructmine.finetuning.training_data import TrainingSet

    subset = TrainingSet([[1, 2]], [[-100, 2]], 0)
    arguments = recipe_named("llama-2-7b-full").arguments(use_cpu=True)
    assert _prepared(arguments, subset).gradient_checkpointing
    args, _, _ = launch_arguments(RECIPES / "accelerate" / "fsdp2.yaml")
    for name, value in prepare_multi_gpu_env(args).items():
        monkeypatch.setenv(name, value)
    prepared = _prepared(arguments, subset)
    assert not any(value for name, value in vars(prepared).items() if name.endswith("_checkpointing"))


def test_deepspeed_is_told_what_its_configuration_says():
    from accelerate.utils.launch import prepare_deepspeed_cmd_env

    args, _, _ = launch_arguments(RECIPES / "accelerate" / "deepspeed-zero3.yaml")
    args.deepspeed_fields_from_accelerate_config = ""
    _, environment = prepare_deepspeed_cmd_env(args)
    assert environment["ACCELERATE_DEEPSPEED_ZERO_STAGE"] == "3"
    assert environment["ACCELERATE_DEEPSPEED_ZERO3_INIT"] == "true"
    assert "ACCELERATE_GRADIENT_ACCUMULATION_STEPS" not in environment  # so the recipe's count
