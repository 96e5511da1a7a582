import json
import time

from cluster.progress import Reporter


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
