"""Files of any content: what is read, and the one line about what cannot be."""

import json
import os
import tempfile
from pathlib import Path

import pytest

from cluster.config import ConfigError
from cluster.config import load as load_config
from cluster.errors import InputError
from cluster.reading import decoded, read_bytes, read_json, read_json_lines, read_json_or_yaml, read_text

MARKS = ("utf-8", "utf-8-sig", "utf-16", "utf-32")  # what editors and shells write; Python adds the mark of the last two


def bytes_of(text, encoding, order="le"):
    if encoding in ("utf-16", "utf-32"):
        return ("\ufeff" + text).encode(f"{encoding}-{order}")
    return text.encode(encoding)


def one_line(call, *arguments):
    with pytest.raises(InputError) as caught:
        call(*arguments)
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 700
    return message


@pytest.mark.parametrize("order", ["le", "be"])
@pytest.mark.parametrize("encoding", MARKS)
def test_a_byte_order_mark_names_the_encoding(tmp_path, encoding, order):
    path = tmp_path / "file"
    path.write_bytes(bytes_of('{"name": "größe ✓"}\r\n', encoding, order))
    assert read_text(str(path), "a text") == '{"name": "größe ✓"}\n'
    assert read_json(str(path), "JSON") == {"name": "größe ✓"}
    assert read_json_or_yaml(str(path), "a table") == {"name": "größe ✓"}
    path.write_bytes(bytes_of("name: größe", encoding, order))
    assert read_json_or_yaml(str(path), "a table") == {"name": "größe"}


@pytest.mark.parametrize("ends", ["\n", "\r\n", "\r"])
def test_lines_end_in_any_way(ends):
    assert decoded(f"a{ends}b{ends}".encode(), "x", "a text") == "a\nb\n"


def test_a_line_of_json_may_have_separators_of_unicode(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_text('{"a": "\u2028\x85"}\n\n{"a": 2}\n', encoding="utf-8")
    assert read_json_lines(str(path), "JSON lines") == [{"a": "\u2028\x85"}, {"a": 2}]
    path.write_text('{"a": 1}\n{"a": NaN}\n')
    assert "x.jsonl: line 2 is not JSON: NaN" in one_line(read_json_lines, str(path), "JSON lines")


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"\xe9t\xe9", "byte 0xe9 in line 1 is not UTF-8"),
        (b"a\nb\n\xff\xff", "byte 0xff in line 3 is not UTF-8"),
        (b"\xff\xfea\0b", "is not UTF-16-LE"),
        (b"\x7fELF\0\0\xff", "is a binary file"),
        (b"PK\x03\x04\0\0\0", "is a binary file, or UTF-16 without a byte order mark"),
        ("{}".encode("utf-16-le"), "is a binary file, or UTF-16 without a byte order mark"),
    ],
)
def test_bytes_that_are_no_text_get_one_line(data, says):
    assert says in one_line(decoded, data, "file", "a config file")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "is empty; give JSON"),
        (" \n", "is empty; give JSON"),
        ("{", "is not JSON: Expecting property name enclosed in double quotes: line 1 column 2"),
        ("x" * 10**7, "is not JSON: Expecting value: line 1 column 1"),
        ('{"a": 1, "b": {"c": 1, "c": 2}}', "the key 'c' stands twice"),
        ('{"a": 1, "a": 1}', "the key 'a' stands twice"),
        ("[NaN]", "NaN is no number of JSON"),
        ("[-Infinity]", "-Infinity is no number of JSON"),
        ("[1e400]", "1e400 is beyond the range of numbers"),
        ("[-1e400]", "-1e400 is beyond the range of numbers"),
        (f"[{'9' * 5000}]", "has a number of thousands of digits"),
        ("[" * 100_000, "is nested too deeply"),
        ('{"a":' * 100_000, "is nested too deeply"),
        ('["\\ud800"]', "has half of a surrogate pair"),
        ("{'a': 1}", "is not JSON"),
        ('{"a": 1,}', "is not JSON"),
        ("{} {}", "is not JSON: Extra data"),
    ],
)
def test_what_is_no_json_gets_one_line(tmp_path, text, says):
    path = tmp_path / "x.json"
    path.write_text(text)
    assert says in one_line(read_json, str(path), "JSON")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "is empty; give a table"),
        ("a: [", "is neither JSON nor YAML"),
        ('{"a": 1', "is not JSON"),
        ("a: 1\na: 2", "the key 'a' stands twice"),
        ('{"a": 1, "a": 2}', "the key 'a' stands twice"),
        ("a: !!python/object:os.system {}", "is neither JSON nor YAML"),
        ("a: 2001-99-99", "is not YAML"),
        ("[" * 100_000, "is nested too deeply"),
        ("a: " + "[" * 100_000, "is nested too deeply"),
        ("? [1]\n: 2", "is neither JSON nor YAML"),
        ("--- 1\n--- 2", "is neither JSON nor YAML"),
        (f"a: {'9' * 5000}", "is not YAML"),
        ('{"a": 1e400}', "beyond the range"),
    ],
)
def test_what_is_neither_json_nor_yaml_gets_one_line(tmp_path, text, says):
    path = tmp_path / "x.yaml"
    path.write_text(text)
    assert says in one_line(read_json_or_yaml, str(path), "a table")


def test_yaml_in_braces_is_read(tmp_path):
    path = tmp_path / "x.yaml"
    path.write_text("{a: 1, 160: {b: 2.5}}")
    assert read_json_or_yaml(str(path), "a table") == {"a": 1, 160: {"b": 2.5}}


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("", "the path is ''; give the path of a table"),
        (".", "is a directory"),
        ("nowhere", "nowhere: No such file or directory; give the path of a table"),
        ("file/x", "Not a directory"),
        ("loop", "symbolic links"),
        ("x" * 300, "File name too long"),
        ("x/" * 3000, "File name too long"),
        ("a\0b", "null byte"),
        ("/dev/zero", "is a device"),
        ("s3://bucket/front.json", "is an address; give the path of a table on this machine"),
        ("large", "GiB of memory; give a table that fits"),
    ],
)
def test_a_path_without_a_file_gets_one_line(tmp_path, monkeypatch, path, says):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("x")
    (tmp_path / "loop").symlink_to("loop")
    with (tmp_path / "large").open("wb") as file:
        file.truncate(2**43)
    assert says in one_line(read_bytes, path, "a table")


def test_a_file_that_this_user_may_not_read_gets_one_line():
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        path = Path(folder) / "x"
        path.touch(mode=0)
        user = os.geteuid()
        if user == 0:
            os.seteuid(65534)  # root reads every file
        try:
            assert "Permission denied" in one_line(read_bytes, str(path), "a table")
        finally:
            os.seteuid(user)


def test_the_home_directory_and_pipes_are_read(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "x").write_text("here")
    assert read_bytes("~/x", "a text") == b"here"
    reading, writing = os.pipe()
    os.write(writing, json.dumps([1]).encode())
    os.close(writing)
    assert read_json(f"/dev/fd/{reading}", "JSON") == [1]
    os.close(reading)


@pytest.mark.parametrize("encoding", MARKS)
def test_a_config_is_read_in_every_encoding_with_a_mark(tmp_path, encoding):
    path = tmp_path / "x.toml"
    path.write_bytes(bytes_of('name = "größe"\r\n', encoding))
    assert load_config(str(path), dict) == {"name": "größe"}


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"x" * 10**7, "is not TOML"),
        (b"name = \xe9", "byte 0xe9 in line 1 is not UTF-8"),
        (b"\0\0\0", "is a binary file"),
        (b"a = " + b"[" * 100_000, "is nested too deeply"),
        (b"a = 1\na = 2", "is not TOML"),
        (b"a = " + b"9" * 5000, "is not TOML"),
        (b"a = 2001-99-99", "is not TOML"),
    ],
)
def test_a_config_that_is_no_toml_gets_one_line(tmp_path, data, says):
    path = tmp_path / "x.toml"
    path.write_bytes(data)
    with pytest.raises(ConfigError):
        load_config(str(path), dict)
    assert says in one_line(load_config, str(path), dict)


def test_a_setting_given_twice_is_refused(tmp_path):
    path = tmp_path / "x.toml"
    path.write_text("")
    assert load_config(str(path), dict, ["a.b=1", "a.c=2"]) == {"a": {"b": 1, "c": 2}}
    assert one_line(load_config, str(path), dict, ["a.b=1", " a.b = 1"]) == "--set a.b: is given twice; give it once"
