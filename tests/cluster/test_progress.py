import json
import time
from datetime import datetime

import pytest

from cluster import progress
from cluster.progress import LOG, Log, Reporter


def test_without_a_terminal_lines_are_plain_and_timed(capsys):
    reporter = Reporter("plain", every_s=0)
    with reporter.track("measure", 4, "archs") as tracker:
        time.sleep(0.02)
        tracker.advance(2, note="best 0.5")
    reporter.say("done")
    out, err = capsys.readouterr()
    assert out == ""
    first, second = err.splitlines()
    assert "  0:00  measure: 2/4 archs, " in first
    assert " archs/s, " in first
    assert " s left, best 0.5" in first
    assert second == "  0:00  done"
    assert "\x1b" not in err


def test_lines_come_no_more_often_than_asked(capsys):
    with Reporter("plain", every_s=100).track("s", 1000, "u") as tracker:
        for _ in range(999):
            tracker.advance()
        assert capsys.readouterr().err == ""
        tracker.advance()  # the last one is always shown
    assert "1000/1000" in capsys.readouterr().err


def test_json_is_one_object_a_line_on_stdout(capsys):
    reporter = Reporter("json", every_s=0)
    reporter.say("hello", event="finished", step="fit")
    with reporter.track("s", 10, "u") as tracker:
        time.sleep(0.02)
        tracker.at(5, "best 1")
    out, err = capsys.readouterr()
    assert err == ""
    said, progress = map(json.loads, out.splitlines())
    assert said == {"event": "finished", "text": "hello", "step": "fit"}
    assert {k: progress[k] for k in ("event", "step", "done", "total", "unit", "note")} == {
        "event": "progress", "step": "s", "done": 5, "total": 10, "unit": "u", "note": "best 1",
    }  # fmt: skip
    assert progress["per_s"] > 0
    assert progress["eta_s"] >= 0


def test_the_rate_is_this_processs_own():
    tracker_rate = []
    with Reporter("json").track("s", 1000, "u") as tracker:
        tracker.resumed(900)
        assert tracker.per_s is None
        time.sleep(0.05)
        tracker.advance(1)
        tracker_rate.append(tracker.per_s)
    assert tracker_rate[0] < 100


def test_on_a_terminal_one_line_lives(monkeypatch, capsys):
    reporter = Reporter("live")
    with reporter.track("s", 3, "u") as tracker:
        tracker.advance(1, "best 7")
        assert str(tracker.line()).startswith("s: 1/3 u")
        assert str(tracker.line()).endswith("best 7")


class TestTheLogAsJson:
    @pytest.fixture
    def log(self, monkeypatch):
        monkeypatch.setattr(progress, "LOG", log := Log("json", "digits-1", "fit"))
        return log

    def test_a_line_is_one_object_on_stderr_with_time_level_run_step_and_message(self, log, capsys):
        Reporter().say("two of\nthem", "warning", event="left", step="other", images=2)
        out, err = capsys.readouterr()
        assert (out, err.count("\n")) == ("", 1)
        found = json.loads(err)
        assert datetime.fromisoformat(found.pop("time")).tzinfo is not None
        assert found == {"level": "warning", "run": "digits-1", "step": "fit", "message": "two of\nthem", "images": 2}

    def test_a_line_of_progress_has_its_numbers(self, log, capsys):
        with Reporter(every_s=0).track("measure", 4, "archs") as tracker:
            tracker.at(4, "best 0.5")
        found = json.loads(capsys.readouterr().err)
        assert {name: found[name] for name in ("level", "done", "total", "unit", "note")} == {
            "level": "info", "done": 4, "total": 4, "unit": "archs", "note": "best 0.5",
        }  # fmt: skip
        assert found["message"].startswith("measure: 4/4 archs")

    def test_an_error_is_a_line_too(self, log):
        found = json.loads(log.error("no room"))
        assert (found["level"], found["message"], found["step"]) == ("error", "no room", "fit")
        assert Log().error("no room") == "ofa: no room"

    def test_events_on_stdout_stay_as_they_are(self, log, capsys):
        Reporter("json").say("hello", "warning", step="fit")
        assert json.loads(capsys.readouterr().out) == {"event": "message", "text": "hello", "step": "fit"}


def test_the_progress_that_changed_last_is_known():
    reporter = Reporter("plain")
    assert reporter.progress() is None
    with reporter.track("s", 3, "u") as tracker:
        tracker.advance(1, "best 7")
    assert reporter.progress() == {"step": LOG.step, "title": "s", "done": 1, "total": 3, "unit": "u", "note": "best 7"}
