"""Nothing of the data reaches the terminal as a command: not by a result, an error, a warning, a log or a bar."""

import io
import subprocess
import sys

import pytest
from datasets import Dataset
from hostile import NAMES
from tqdm import tqdm

from hf_instructmine import LossEstimator
from hf_instructmine.cli.main import main
from hf_instructmine.cli.terminal import HarmlessStream, harmless_output


def sent(text: str) -> str:
    stream = io.StringIO()
    assert HarmlessStream(stream).write(text) == len(text)
    return stream.getvalue()


def test_text_passes_and_commands_do_not():
    assert sent("a\n\tb ü 数据\n") == "a\n\tb ü 数据\n"
    assert sent("a\x1b[31mred\x07\x9b2J\rb\u202e\x00") == "a�[31mred��2J�b��"


def test_a_bar_goes_back_and_moves_by_lines():
    assert sent("\r 5%|x") == "\r 5%|x" and sent("\n\n") == "\n\n" and sent("\x1b[A\x1b[A") == "\x1b[A\x1b[A"
    stream = io.StringIO()
    for _ in tqdm(range(3), desc="\x1b[2Jname", file=HarmlessStream(stream)):
        pass
    assert "\x1b[2J" not in stream.getvalue() and "3/3" in stream.getvalue() and "\r" in stream.getvalue()


def test_it_is_the_stream_for_all_else():
    stream = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    assert HarmlessStream(stream).encoding == "utf-8" and not HarmlessStream(stream).isatty()


def test_results_warnings_and_errors_are_text(capsys):
    with harmless_output():
        print("name \x1b[2J")
        print("name \x1b[2J", file=sys.stderr)
    out, err = capsys.readouterr()
    assert out == err == "name �[2J\n"


def test_logs_and_warnings_of_a_process_are_text():
    code = (
        "import logging, warnings\n"
        "from hf_instructmine.cli.terminal import harmless_output\n"
        "with harmless_output():\n"
        "    logging.basicConfig(format='%(message)s')\n"
        "    logging.getLogger('x').warning('log \\x1b[2J')\n"
        "    warnings.warn('told \\x1b[2J')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == "log �[2J\n<string>:6: UserWarning: told �[2J\n"


@pytest.mark.parametrize("name", [name for name in NAMES if not name.isprintable()])
def test_the_names_of_a_downloaded_pool_are_text_on_the_screen(name, tmp_path, capsys):
    LossEstimator.from_coefficients({"mtld": 1.0}, name=name).save_pretrained(tmp_path / "rule")
    pool = {"prompt": list("abcd"), "completion": list("wxyz"), "mtld": [1.0, 2.0, 3.0, 4.0], "source": [name] * 4}
    Dataset.from_dict(pool).to_parquet(str(tmp_path / "pool.parquet"))
    options = ["--rule", str(tmp_path / "rule"), "--output-dir", str(tmp_path / "curated")]
    assert main(["select", str(tmp_path / "pool.parquet"), "--size", "2", *options]) == 0
    assert (
        main(["select", str(tmp_path / f"{name:.40}".replace("/", "").replace("\0", "")), "--size", "2", *options])
        == 1
    )
    for told in capsys.readouterr():
        assert not {"\x1b", "\x9b", "\x07", "\u202e", "\u2067"} & set(told)


def test_of_thirty_thousand_sources_twenty_are_printed(tmp_path, capsys):
    LossEstimator.from_coefficients({"mtld": 1.0}).save_pretrained(tmp_path / "rule")
    rows = 30_000
    pool = {"mtld": [float(i) for i in range(rows)], "source": [f"https://example.org/{i}" for i in range(rows)]}
    Dataset.from_dict(pool).to_parquet(str(tmp_path / "pool.parquet"))
    main(["select", str(tmp_path / "pool.parquet"), "--size", "9", "--rule", str(tmp_path / "rule"), "--output-dir",
          str(tmp_path / "curated")])  # fmt: skip
    out = capsys.readouterr().out
    assert len(out.splitlines()) < 40 and "The 20 largest of 30,000 sources are listed." in out
    assert len((tmp_path / "curated/README.md").read_text()) < 40_000
