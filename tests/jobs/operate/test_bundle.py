"""The archive for a report of a fault, and what is not in it."""

import base64
import json
import zipfile

import helpers
import pytest

from cluster.config import dump
from cluster.errors import InputError
from cluster.run import File, Run
from jobs.config import load
from jobs.operate import bundle
from jobs.operate.bundle import hidden_values, without_secrets, write_bundle
from jobs.operate.doctor import Check

SECRET, PASSWORD = 'wJalr/XUtn+FEMI "K7MDENG"', "hunter2hunter2"


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A run with secrets in its config, its records and its log, on a machine without a cluster."""
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("KUBECONFIG", raising=False)
    monkeypatch.setattr(bundle, "checks", lambda *given: [Check("store", False, f"refused {SECRET}", "see")])
    config = dump(load(str(helpers.TINY))).replace('"digits"', f'"https://user:{PASSWORD}@data.example/images"')
    made = Run.open(str(tmp_path / "store"), "tiny-1", config, "test")
    step = made.begin("report")
    step.write(File("report.html", "report"), b"<html>")
    step.finish(seed=1, note=SECRET)
    made.store.write(
        "tiny-1/logs/driver-000001.log", f"begin\nkey {SECRET}\nAuthorization: Bearer abc.def-123\nend\n".encode()
    )
    made.store.write("tiny-1/supernet/width/weights.safetensors", b"weights")
    return made


def content(place):
    with zipfile.ZipFile(place) as archive:
        return {name: archive.read(name).decode() for name in archive.namelist()}


class TestWriteBundle:
    def test_it_has_versions_checks_config_records_and_logs_and_no_secret(self, run, tmp_path):
        count = write_bundle(run, str(tmp_path / "fault.zip"), "ofa", None)
        found = content(tmp_path / "fault.zip")
        names = {name.removeprefix("tiny-1/") for name in found}
        assert len(names) == count
        assert {"versions.json", "checks.jsonl", "objects.txt", "left-out.txt", "run/config.toml"} <= names
        assert {"run/report.done.json", "run/logs/driver-000001.log"} <= names
        assert not any("weights" in name or "report.html" in name for name in names)
        assert "torch" in json.loads(found["tiny-1/versions.json"])["packages"]
        assert "supernet/width/weights.safetensors" in found["tiny-1/objects.txt"]
        assert "events.jsonl: " in found["tiny-1/left-out.txt"]
        assert "https://***@data.example/images" in found["tiny-1/run/config.toml"]
        log = found["tiny-1/run/logs/driver-000001.log"]
        assert log.startswith("begin\nkey ***\n")
        assert log.endswith("\nend\n")
        whole = "\n".join(found.values())
        spellings = (SECRET, json.dumps(SECRET)[1:-1], PASSWORD, "abc.def", base64.b64encode(SECRET.encode()).decode())
        assert [text for text in spellings if text in whole] == []
        assert {path.name for path in tmp_path.iterdir()} == {"store", "fault.zip"}

    def test_a_long_log_is_cut_at_its_beginning_and_that_is_noted(self, run, tmp_path, monkeypatch):
        monkeypatch.setattr(bundle, "LONGEST", 6)
        write_bundle(run, str(tmp_path / "fault.zip"), "ofa", None)
        found = content(tmp_path / "fault.zip")
        assert found["tiny-1/run/logs/driver-000001.log"] == "*\nend\n"
        assert "run/logs/driver-000001.log: the first " in found["tiny-1/left-out.txt"]

    @pytest.mark.parametrize(
        ("out", "said"),
        [("fault.txt", "give a name that ends with .zip"), ("store", "give a name"), ("a/b.zip", "no directory")],
    )
    def test_a_path_that_cannot_be_written_gets_one_line(self, run, tmp_path, monkeypatch, out, said):
        monkeypatch.chdir(tmp_path)
        with pytest.raises(InputError, match=said):
            write_bundle(run, out, "ofa", None)
        assert {path.name for path in tmp_path.iterdir()} == {"store"}

    def test_what_is_there_is_not_overwritten(self, run, tmp_path):
        (tmp_path / "fault.zip").write_text("mine")
        with pytest.raises(InputError, match="is there already"):
            write_bundle(run, str(tmp_path / "fault.zip"), "ofa", None)
        assert (tmp_path / "fault.zip").read_text() == "mine"


class TestWithoutSecrets:
    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("s3://key:pass/word@host/bucket", "s3://***@host/bucket"),
            ("AWS_SECRET_ACCESS_KEY=abcd next", "AWS_SECRET_ACCESS_KEY=*** next"),
            ('{"session_token": "a b", "x": 1}', '{"session_token": ***, "x": 1}'),
            ("db_password: hunter2", "db_password: ***"),
            ("https://h/o?X-Amz-Signature=0a1b&part=2", "https://h/o?X-Amz-Signature=***&part=2"),
            ("id AKIAIOSFODNN7EXAMPLE.", "id AKIAIOSF***."),
            ("Authorization: AWS4-HMAC-SHA256 Credential=a/b, Signature=c", "Authorization: AWS4-HMAC-SHA256 ***"),
            ("eyJhbGciOiJI.eyJzdWIiOiIx.SflKxw", "***"),
            (
                "-----BEGIN RSA PRIVATE KEY-----\nMIIE\nabc\n-----END RSA PRIVATE KEY-----",
                "-----BEGIN RSA PRIVATE KEY-----***-----END RSA PRIVATE KEY-----",
            ),
            ("s3://bucket/prefix and /home/me", "s3://bucket/prefix and /home/me"),
            ('seed = 1\nsha256 = "0a1b"', 'seed = 1\nsha256 = "0a1b"'),
        ],
    )
    def test_everything_in_the_form_of_a_secret_is_replaced_and_the_rest_is_kept(self, text, expected):
        assert without_secrets(text, []) == expected

    def test_values_of_the_environment_are_hidden_in_every_spelling_but_not_those_of_other_variables(self):
        hidden = hidden_values({"API_TOKEN": "a/b+c d=efg", "HOME": "/home/somebody"})
        text = "a/b+c d=efg a%2Fb%2Bc%20d%3Defg " + base64.b64encode(b"a/b+c d=efg").decode()
        assert without_secrets(text, hidden) == "*** *** ***"
        assert without_secrets("/home/somebody", hidden) == "/home/somebody"
