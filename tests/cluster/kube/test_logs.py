"""Lines of pods: where a broken response is resumed, and what a second submitter repeats."""

import threading

import pytest

from cluster.errors import InputError
from cluster.kube.api import Lost, NotThere, Refused
from cluster.kube.logs import PodLog, Replay, instant, rest_of

POD = {"metadata": {"name": "p", "uid": "1"}}
FIRST = ["submitting", "job r-1 submitted", "run r", "train: epoch 1", "train: epoch 2"]


def fed(before, lines):
    replay = Replay(before)
    return [shown for line in lines for shown in replay.feed(line)] + replay.end()


@pytest.mark.parametrize(
    ("second", "shown"),
    [
        # the same driver, from its beginning
        (["status: RUNNING", *FIRST[2:], "train: epoch 3"], ["status: RUNNING", "train: epoch 3"]),
        # another driver, which begins alike
        (["run r", "train: finished before"], ["run r", "train: finished before"]),
        (["run r", "train: epoch 1", "train: epoch 1b", "end"], ["run r", "train: epoch 1", "train: epoch 1b", "end"]),
        # one that ends while it repeats
        (["run r", "train: epoch 1"], ["run r", "train: epoch 1"]),
        ([], []),
        # lines that were equal only once
        ([*FIRST[2:], "a", *FIRST[2:]], ["a", *FIRST[2:]]),
    ],
)
def test_a_second_submitter_shows_what_is_new(second, shown):
    assert fed(FIRST, second) == shown


def test_of_a_first_submitter_every_line_is_shown():
    assert fed([], ["a", "a", "b"]) == ["a", "a", "b"]


def test_what_the_first_submitter_printed_of_its_own_end_is_not_expected_again():
    lost = ["Traceback (most recent call last):", "  ...", "RuntimeError: WebSocket connection closed with close code 1006"]
    assert fed([*FIRST, *lost], ["status: RUNNING", *FIRST[2:]]) == ["status: RUNNING"]
    assert fed([*FIRST, *lost], [*FIRST[2:], "train: epoch 3", "run r"]) == ["train: epoch 3", "run r"]
    assert fed([*FIRST, lost[-1]], ["another"]) == ["another"]


@pytest.mark.parametrize(
    ("log", "shown", "rest"),
    [
        (["a", "b", "c"], ["x", "a", "b"], ["c"]),
        (["a", "", "b", "", "c", ""], ["a", "", "b", ""], ["c", ""]),
        (["a", "b"], [], ["a", "b"]),
        (["a", "b"], ["x"], ["a", "b"]),
        (["a", "b"], ["a", "b"], []),
        (["a", "b", "c"], ["a", "b", "a line that only Ray prints"], ["c"]),
    ],
)
def test_the_rest_of_a_log_begins_after_what_was_shown(log, shown, rest):
    assert rest_of(log, shown) == rest


def test_timestamps_are_compared_by_their_time():
    stamps = ["2026-01-01T00:00:00Z", "2026-01-01T00:00:00.1Z", "2026-01-01T00:00:00.123Z", "2026-01-01T00:00:01Z"]
    assert sorted(stamps, key=instant) == stamps


class Pods:
    """An API with one pod: each request for its log takes the next answer, a list of lines or an error at its end."""

    def __init__(self, *answers, ended=True, uid="1"):
        self.answers, self.ended, self.uid, self.asked = list(answers), ended, uid, []

    def path(self, *parts):
        return "/".join(parts)

    def lines(self, path, query):
        self.asked.append(query)
        for line in self.answers.pop(0) if self.answers else []:
            if isinstance(line, Exception):
                raise line
            yield line.encode()

    def find(self, kind, name):
        if self.uid is None:
            return None
        ended = self.ended and not self.answers
        return {"metadata": {"name": name, "uid": self.uid}, "status": {"phase": "Succeeded" if ended else "Running"}}


def followed(*answers, **how):
    log = PodLog(Pods(*answers, **how), POD, "submitter")
    return list(log.followed(threading.Event())), log


def stamped(second, *texts):
    return [f"2026-01-01T00:00:0{second}.5Z {text}" for text in texts]


class TestOnePod:
    @pytest.mark.parametrize("broken", [Lost("reset"), InputError("container is waiting to start"), Refused("403")])
    def test_a_response_that_breaks_off_is_resumed_where_it_broke(self, broken):
        first, second = stamped(1, "a", "b"), stamped(1, "c")
        shown, log = followed([*first, broken], [*first, *second, *stamped(2, "d")])
        assert shown == ["a", "b", "c", "d"]
        assert log.api.asked[1]["sinceTime"] == "2026-01-01T00:00:01.5Z"
        assert log.whole

    def test_what_comes_after_the_response_and_before_the_pods_end_is_read(self):
        pods = Pods(stamped(1, "a"))
        log = PodLog(pods, POD, "submitter")
        lines = log.followed(threading.Event())
        assert next(lines) == "a"
        pods.find, ended = lambda kind, name: {"metadata": {"uid": "1"}, "status": {"phase": "Failed"}}, stamped(2, "b")
        pods.answers = [[*stamped(1, "a"), *ended]]
        assert list(lines) == ["b"]

    def test_remarks_of_the_kubelet_do_not_move_the_place(self):
        remark = "unable to retrieve container logs for x"
        shown, _ = followed([*stamped(1, "a"), remark, Lost("reset")], stamped(1, "a", "b"))
        assert shown == ["a", remark, "b"]

    @pytest.mark.parametrize("how", [{"uid": None}, {"uid": "another"}])
    def test_a_pod_that_is_deleted_or_replaced_is_not_whole(self, how):
        shown, log = followed([*stamped(1, "a"), Lost("reset")], stamped(2, "of another pod"), **how)
        assert shown == ["a"]
        assert not log.whole
        shown, log = followed([NotThere("gone")])
        assert (shown, log.whole) == ([], False)

    def test_a_user_who_may_not_read_logs_is_told(self, monkeypatch):
        monkeypatch.setattr("cluster.kube.logs.REFUSED_S", 0.1)
        with pytest.raises(Refused):
            followed(*[[Refused("403")]] * 20)

    def test_an_outage_is_no_failure_of_a_pod_that_has_ended_meanwhile(self):
        pods = Pods(*[[Lost("refused")]] * 12, stamped(1, "a"), [])
        there, calls = pods.find, iter(range(100))

        def find(kind, name):
            if next(calls) < 10:
                raise Lost("refused")
            return {**there(kind, name), "status": {"phase": "Succeeded"}}

        pods.find = find
        log = PodLog(pods, POD, "submitter")
        stop = threading.Event()
        stop.wait = lambda seconds: None
        assert list(log.followed(stop)) == ["a"]
        assert log.whole
