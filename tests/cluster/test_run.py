import json
from contextlib import suppress

import pytest

from cluster.checkpoint import Checkpoints, Progress
from cluster.errors import InputError
from cluster.run import DamagedObject, File, Run
from cluster.texts import json_lines, sha256


@pytest.fixture
def run(tmp_path):
    return Run.open(str(tmp_path), "r", "title = 1\n", code="test")


def finished(run, name, reads=(), **objects):
    step = run.begin(name)
    for key in reads:
        step.read(File(key, "one"))
    for key, text in objects.items():
        step.write(File(key, "one"), text.encode())
    step.finish(seed=1)


def test_a_step_is_finished_once_its_record_is_there(run):
    step = run.begin("one")
    step.write(File("a", "one"), b"1")
    assert not run.finished("one")
    step.finish(seed=7)
    assert run.finished("one")
    record = run.done("one")
    assert record["outputs"] == {"a": {"sha256": sha256(b"1"), "bytes": 1}}
    assert (record["seed"], record["code"]) == (7, "test")
    assert record["seconds"] >= 0


def test_reads_are_checked_and_recorded(run):
    finished(run, "one", a="1")
    finished(run, "two", reads=["a"], b="2")
    assert run.done("two")["inputs"] == {"a": sha256(b"1")}


def test_what_no_step_wrote_is_answered_with_the_command_that_makes_it(run):
    with pytest.raises(InputError, match=r"'front.json' is not in .*/r; run `ofa search` first"):
        run.read(File("front.json", "search"))


@pytest.mark.parametrize("damage", ["changed", "missing"])
def test_a_damaged_object_is_never_read(run, damage):
    finished(run, "one", a="1")
    if damage == "changed":
        run.store.write("r/a", b"2")
    else:
        run.store.delete("r/a")
    with pytest.raises(DamagedObject, match=r"/r/a: .*delete one.done.json there and run the same command again"):
        run.read(File("a", "one"))


def test_a_step_whose_input_changed_is_not_finished(run):
    finished(run, "one", a="1")
    finished(run, "two", reads=["a"], b="2")
    finished(run, "one", a="1")  # the same again: nothing is stale
    assert run.finished("two")
    finished(run, "one", a="other")
    assert not run.finished("two")
    assert run.finished("one")


def test_verify_finds_every_kind_of_damage(run):
    run.begin("one")
    assert list(run.problems()) == ["no step has finished"]
    finished(run, "one", a="1", b="1", c="1")
    finished(run, "two", reads=["c"], d="1")
    assert list(run.problems()) == []
    run.store.write("r/a", b"2")
    run.store.delete("r/b")
    run.store.write("r/x", b"")
    finished(run, "three", c="2")
    problems = sorted(run.problems())
    assert len(problems) == 5
    for expected in ("a: damaged", "b: missing", "c: damaged", "two.done.json: stale", "x: no finished step wrote it"):
        assert any(problem.startswith(expected) for problem in problems), problems


def test_a_ledger_keeps_what_was_appended_until_the_step_is_finished(run):
    step = run.begin("one")
    step.ledger.append([{"n": 1}, {"n": 2}])
    step.ledger.append([])
    again = run.begin("one")  # after a kill
    assert again.ledger.rows() == [{"n": 1}, {"n": 2}]
    again.ledger.append([{"n": 3}])
    assert run.begin("one").ledger.rows() == [{"n": 1}, {"n": 2}, {"n": 3}]
    again.write(File("a", "one"), b"")
    again.finish(seed=1)
    assert run.keys("partial/") == []


def test_rows_of_a_second_are_one_part_of_the_ledger(run, monkeypatch):
    now = 0.0
    monkeypatch.setattr("cluster.run.time.monotonic", lambda: now)
    step = run.begin("one")
    with step.ledger.collecting() as collect:
        for row in range(100):
            now = row / 25
            collect(row)
    assert run.keys("partial/one") == [f"partial/one/{part:06d}.jsonl" for part in range(1, 5)]
    assert run.begin("one").ledger.rows() == list(range(100))


def test_rows_that_were_collected_before_an_error_are_in_the_ledger(run):
    step = run.begin("one")
    with suppress(ValueError), step.ledger.collecting() as collect:
        collect({"n": 1})
        raise ValueError
    assert run.begin("one").ledger.rows() == [{"n": 1}]


def test_two_processes_on_one_step_do_not_mix_their_parts(run):
    one, other = run.begin("one").ledger, run.begin("one").ledger
    one.append([1])
    with pytest.raises(InputError, match="another process works on this run"):
        other.append([2])


def test_the_first_config_of_a_run_is_kept(run, tmp_path):
    for config in ("title = 1\n", "title = 2\n"):
        Run.open(str(tmp_path), "r", config, code="test").begin("one")
    assert run.raw("config.toml") == b"title = 1\n"


def test_a_run_that_is_opened_and_looked_at_writes_nothing(run, tmp_path):
    assert (run.steps(), run.finished("one"), run.keys()) == ({}, False, [])
    with pytest.raises(InputError, match="run `ofa one` first"):
        run.read(File("a", "one"))
    assert list(tmp_path.iterdir()) == []


def test_a_new_run_is_refused_where_nothing_can_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written to: Not a directory"):
        Run.open(str(tmp_path / "file" / "runs"), "r", "title = 1\n", code="test")


class TestExistingRuns:
    def test_a_run_is_there_once_a_step_has_begun(self, run, tmp_path):
        with pytest.raises(InputError, match=r"there is no run; `ofa run` makes one, run `ofa train` first"):
            Run.existing(str(tmp_path), "r", "test")
        run.begin("one")
        assert Run.existing(str(tmp_path), "r", "test").keys() == ["config.toml"]

    def test_the_nearest_of_other_runs_are_named(self, tmp_path):
        for number in range(30):
            Run.open(str(tmp_path), f"digits-{number:08d}", "title = 1\n", "test").begin("one")
        with pytest.raises(InputError, match=r"has no run 'digits-0000007'; the nearest of 30: .*digits-00000007") as caught:
            Run.existing(str(tmp_path), "digits-0000007", "test")
        assert str(caught.value).count("digits-") == 4

    @pytest.mark.parametrize("run_id", ["", "r/supernet", "../r", ".", "..", "/r", "r\nr", "r" * 300])
    def test_what_is_no_id_is_no_run(self, run, tmp_path, run_id):
        run.begin("one")
        with pytest.raises(InputError):
            Run.existing(str(tmp_path), run_id, "test")

    def test_a_missing_store_is_not_made_and_the_nearest_are_named(self, run, tmp_path):
        run.begin("one")
        (tmp_path / "results").mkdir()
        with pytest.raises(InputError, match=r"result: there is no such directory; nearest: .*/results"):
            Run.existing(str(tmp_path / "result"), "r", "test")
        assert not (tmp_path / "result").exists()

    def test_a_run_is_no_store(self, run, tmp_path):
        run.begin("one")
        with pytest.raises(InputError, match="is a run, not a store; leave out the last part"):
            Run.existing(str(tmp_path / "r"), "r", "test")


def test_json_is_written_for_people_and_read_back():
    doc = {"a": [{"b": list(range(100)), "c": "x" * 200}] * 3, "d": {}, "e": 1.5, "f": None}
    text = json_lines(doc)
    assert json.loads(text) == doc
    assert '"b": [0, 1, 2' in text


STATE = f"supernet/k/checkpoint-{sha256(b'state')[:16]}.safetensors"


class TestCheckpoints:
    def test_the_latest_state_is_kept_and_older_ones_go(self, run):
        checkpoints = Checkpoints(run, "supernet")
        assert checkpoints.latest() is None
        for step in (1, 2, 3):
            checkpoints.save(f"state{step}".encode(), Progress(step=step), "kernel")
        state, progress = Checkpoints(run, "supernet").latest()
        assert (state, progress.step) == (b"state3", 3)
        assert run.keys("supernet/kernel/") == [f"supernet/kernel/checkpoint-{sha256(b'state3')[:16]}.safetensors"]

    def test_a_finished_phase_is_the_state_that_training_goes_on_from(self, run):
        checkpoints = Checkpoints(run, "supernet")
        checkpoints.save(b"state", Progress(step=5), "kernel")
        checkpoints.finish_phase(b"weights", b"{}", Progress(phase=1, phases={"kernel": sha256(b"weights")}), "kernel")
        state, progress = checkpoints.latest()
        assert (state, progress.phase) == (b"weights", 1)
        assert checkpoints.phase("kernel", progress) == b"weights"
        assert run.keys("supernet/kernel/") == ["supernet/kernel/meta.json", "supernet/kernel/weights.safetensors"]

    @pytest.mark.parametrize(
        ("key", "data"),
        [
            (STATE, b""),
            (STATE, b"stat"),
            (STATE, None),
            ("supernet/checkpoint.json", b""),
            ("supernet/checkpoint.json", b"{damaged"),
        ],
    )
    def test_a_damaged_checkpoint_gets_one_line(self, run, key, data):
        Checkpoints(run, "supernet").save(b"state", Progress(), "k")
        if data is None:
            run.store.delete(f"r/{key}")
        else:
            run.store.write(f"r/{key}", data)
        with pytest.raises(DamagedObject, match=r"supernet to train anew, or restore the object") as caught:
            Checkpoints(run, "supernet").latest()
        assert key in str(caught.value)
        assert "\n" not in str(caught.value)

    def test_a_predecessor_that_still_publishes_spoils_nothing(self, run):
        """Two writers, as after a kill: each pointer names a state that is there and whole."""
        mine, predecessor = Checkpoints(run, "supernet"), Checkpoints(run, "supernet")
        predecessor.save(b"early", Progress(step=1), "k")
        mine.save(b"mine", Progress(step=2), "k")
        predecessor.save(b"late", Progress(step=2), "k")
        assert mine.latest() == (b"late", Progress(step=2))
        mine.save(b"early", Progress(step=1), "k")
        assert predecessor.latest() == (b"early", Progress(step=1))

    def test_a_state_that_is_replaced_while_it_is_read_is_read_anew(self, run, monkeypatch):
        checkpoints = Checkpoints(run, "supernet")
        checkpoints.save(b"old", Progress(step=1), "k")
        raw = Run.raw

        def slow(run, key):
            if "/checkpoint-" in key:
                monkeypatch.undo()
                Checkpoints(run, "supernet").save(b"new", Progress(step=2), "k")
            return raw(run, key)

        monkeypatch.setattr(Run, "raw", slow)
        assert checkpoints.latest() == (b"new", Progress(step=2))

    def test_checkpoints_of_other_trainings_in_the_same_folder_are_kept(self, run):
        one, other = (Checkpoints(run, f"finetuned/{name}") for name in ("one", "other"))
        for checkpoints in (one, other):
            checkpoints.save(b"state", Progress(step=5), "k")
        one.finish_phase(b"weights", b"{}", Progress(phase=1, phases={"k": sha256(b"weights")}), "k")
        step = run.begin("one")
        step.adopt(File("finetuned/one/k/weights.safetensors", "one"))
        step.write(File("finetuned/one/result.json", "one"), b"{}")
        step.finish(seed=1)
        assert other.latest() == (b"state", Progress(step=5))
        assert run.keys("finetuned/one/") == [
            "finetuned/one/k/meta.json", "finetuned/one/k/weights.safetensors", "finetuned/one/result.json"
        ]  # fmt: skip

    def test_finishing_the_step_removes_checkpoints_and_keeps_phases(self, run):
        checkpoints = Checkpoints(run, "supernet")
        checkpoints.finish_phase(b"weights", b"{}", Progress(phase=1), "kernel")
        checkpoints.save(b"state", Progress(phase=1), "depth")
        step = run.begin("train")
        step.adopt(File("supernet/kernel/weights.safetensors", "train"))
        step.finish(seed=1)
        assert run.keys("supernet/") == ["supernet/kernel/meta.json", "supernet/kernel/weights.safetensors"]
