"""What a shell completes: verbs, options, names of ours, files; asked of bash itself."""

import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from hf_instructmine.cli import completion
from hf_instructmine.cli.main import main, parsers


def script(shell: str, capsys) -> str:
    with pytest.raises(SystemExit) as end:
        main(["--print-completion", shell])
    assert end.value.code == 0
    return capsys.readouterr().out


@pytest.fixture
def complete(tmp_path, capsys):
    """What bash offers for the last word of a command."""
    pytest.importorskip("shtab", reason="pip install 'hf-instructmine[completion]'")
    if shutil.which("bash") is None:
        pytest.skip("needs bash")
    (tmp_path / "completion.bash").write_text(script("bash", capsys))
    (tmp_path / "pool.jsonl").write_text("{}")
    (tmp_path / "scored").mkdir()

    def ask(command: str) -> list[str]:
        words = [shlex.quote(word) for word in command.split(" ")]
        asked = (
            f"source ./completion.bash; COMP_WORDS=({' '.join(words)}); COMP_CWORD={len(words) - 1}; "
            '_shtab_instructmine; printf "%s\\n" "${COMPREPLY[@]}"'
        )
        run = subprocess.run(
            ["bash", "--norc", "-c", asked], cwd=tmp_path, capture_output=True, text=True, check=True, timeout=60
        )
        return run.stdout.split()

    return ask


@pytest.mark.parametrize(
    "command, offered",
    [
        ("instructmine sc", {"score"}),
        ("instructmine se", {"select", "search-size"}),
        ("instructmine sweep --eval", {"--eval-set"}),
        ("instructmine score --indicator mt", {"mtld"}),
        ("instructmine score --indicator Neigh", {"NeighborDistance"}),
        ("instructmine sweep --recipe smollm2-135m", {"smollm2-135m-cpu-last-layers", "smollm2-135m-cpu-lora"}),
        ("instructmine finetune --config qwen", {"qwen3-8b-lora"}),
        ("instructmine select scored --rule instr", {"instructmining-v1", "instructmining-v2"}),
        ("instructmine sweep --executor acc", {"accelerate"}),
        ("instructmine judge --mode s", {"single"}),
        ("instructmine score po", {"pool.jsonl"}),
        ("instructmine sweep --eval-set po", {"pool.jsonl"}),
    ],
)
def test_bash_completes(complete, command, offered):
    assert set(complete(command)) == offered


def test_an_output_folder_is_completed_by_folders(complete):
    assert (
        "scored" in complete("instructmine score --output-dir sc")
        and complete("instructmine score --output-dir po") == []
    )


@pytest.mark.parametrize("shell", ["bash", "zsh", "tcsh"])
def test_there_is_a_script_for_each_shell(shell, capsys):
    pytest.importorskip("shtab", reason="pip install 'hf-instructmine[completion]'")
    assert "instructmine" in script(shell, capsys) and not Path(f"instructmine.{shell}").exists()


def test_another_shell_is_told_in_one_line(capsys):
    pytest.importorskip("shtab", reason="pip install 'hf-instructmine[completion]'")
    with pytest.raises(SystemExit) as end:
        main(["--print-completion", "bsh"])
    assert end.value.code == 1
    err = capsys.readouterr().err
    assert "the shell must be one of bash, zsh, tcsh" in err and "did you mean 'bash'?" in err and err.count("\n") == 1


def test_without_the_extra_it_is_one_line(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "shtab", None)
    with pytest.raises(SystemExit) as end:
        main(["--print-completion", "bash"])
    assert end.value.code == 1
    assert capsys.readouterr().err == (
        "instructmine: completion needs shtab: pip install 'hf-instructmine[completion]'\n"
    )


def test_every_name_belongs_to_an_option():
    known = {option for verb in parsers()[1].values() for option in verb.options}
    assert set(completion._names()) <= known
