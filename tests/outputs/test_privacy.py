"""What leaves the house names neither the user's folders nor a token, however they are spelt."""

from pathlib import Path

import pytest

from hf_instructmine.outputs.privacy import without_paths, without_secrets


@pytest.fixture(autouse=True)
def home(monkeypatch):
    monkeypatch.setattr(Path, "home", lambda: Path("/home/alice"))


@pytest.mark.parametrize(
    "text, left",
    [
        ("cannot read '/tmp/x/secret/x.json'", "cannot read 'x.json'"),
        ("file:///home/alice/a/x.json", "x.json"),
        ("file:/home/alice/x", "x"),
        ("FILE:///C:/Users/alice/x.txt", "x.txt"),
        (r"at C:\Users\alice\models\x.bin, line 3", "at x.bin, line 3"),
        (r"C:\Users\Alice Smith\x.json", "x.json"),
        ("C:\\Users\\alice", "~"),
        ("C:/Users/alice/x", "x"),
        (r'{"a": "C:\\Users\\alice\\x"}', '{"a": "x"}'),
        (r"\\server\share\x.txt", "x.txt"),
        (r"C:\Users\alice\y.bin and ~alice/z: none", "y.bin and z: none"),
        ("~alice/x.txt", "x.txt"),
        ("~alice/", "~"),
        ("~alice is", "~ is"),
        ("~/x", "x"),
        ("$HOME/a/b.txt and ${HOME}/c", "b.txt and c"),
        ("/home/alice", "~"),
        ("/home/bob/", "~"),
        ("/Users/bob and /root", "~ and ~"),
        ("/data/alice", "~"),
        ("path=/home/u1/z", "path=z"),
    ],
)
def test_of_a_path_the_last_name_is_left_and_of_a_home_folder_nothing(text, left):
    assert without_paths(text) == left


@pytest.mark.parametrize(
    "text",
    [
        "me/model",
        "1/2",
        "a / b",
        "https://hf.co/x/y",
        "s3://bucket/key",
        "~5 of 6",
        "and/or",
        "</script>",
        r"\n \(a\)",
        3,
    ],
)
def test_what_is_no_path_stays(text):
    assert without_paths(text) == text


@pytest.mark.parametrize(
    "token",
    [
        "hf_abcdefghijklmnopqrstuvwxyz12",
        "sk-proj-abcdefghijklmnop1234",
        "ghp_abcdefghijklmnopqrstuvwxyz",
        "AKIAABCDEFGHIJKLMNOP",
    ],
)
def test_tokens_are_blanked_in_every_text_of_lists_and_mappings(token):
    value = {"reason": f"401 for {token}.", "list": [token, 1.5, None, {"/home/alice/x": "/home/alice/y"}]}
    assert without_secrets(value) == {"reason": "401 for ….", "list": ["…", 1.5, None, {"x": "y"}]}


def test_two_names_never_become_one():
    assert without_secrets({"/a/x": 1, "/b/x": 2}) == {"x-1": 1, "x-2": 2}
