"""Records of a store that are damaged, of another kind, or written by a newer version."""

import copy
import json

import pytest

from cluster.attempts import attempt_record, attempts, read_attempt
from cluster.checkpoint import Checkpoints, Pointer, Progress
from cluster.errors import InputError
from cluster.records import Attempt, Done, RecordError, document
from cluster.run import DamagedObject, File, Run
from cluster.store import open_store
from cluster.stores.errors import StoreError

DIGEST = "0f" * 32
VALID = {
    Done: {
        "step": "fit", "code": "1", "seed": 1, "seconds": 0.5, "machine": "m", "finished": "2026-01-01T00:00:00+00:00",
        "inputs": {"a/b": DIGEST}, "outputs": {"c": {"sha256": DIGEST, "bytes": 3}},
    },
    Attempt: {"attempt": 1, "began": "2026-01-01T00:00:00+00:00", "ended": "2026-01-01T00:00:00+00:00", "exit": 0},
    Pointer: {"number": 1, "object": "a/b", "sha256": DIGEST,
              "progress": {"phase": 0, "epoch": 1, "step": 2, "loss_sum": 0.5, "history": [{}], "phases": {"k": DIGEST}}},
}  # fmt: skip
REQUIRED = {Done: set(VALID[Done]), Attempt: {"attempt"}, Pointer: set(VALID[Pointer])}
CONTENTS = [b"", b" \n", b"\0junk", bytes(range(256)), b"null", b"[]", b"1", b'"x"', b"{", b"[" * 100_000, b"\xff\xfe{\0}\0"]


def paths(doc, path=()):
    """The path of every value in a document."""
    for key, value in doc.items() if isinstance(doc, dict) else enumerate(doc) if isinstance(doc, list) else ():
        yield (*path, key)
        yield from paths(value, (*path, key))


def changed(doc, path, value):
    new = copy.deepcopy(doc)
    here = new
    for part in path[:-1]:
        here = here[part]
    here[path[-1]] = value
    return new


WRONG = [None, True, -1, 0.25, float("nan"), 10**400, "", "../x", "/x", [], [1], {}, {"x": 1}, {"..": {}}]


@pytest.mark.parametrize("kind", VALID)
def test_a_record_of_this_version_and_of_a_newer_one_is_read(kind):
    doc = VALID[kind]
    assert document(json.dumps(doc).encode(), kind) == doc
    newer = {**doc, "more": {"x": [1]}}
    assert document(json.dumps(newer).encode(), kind) == newer


@pytest.mark.parametrize("kind", VALID)
@pytest.mark.parametrize("content", CONTENTS)
def test_what_is_no_record_has_a_reason_of_one_line(kind, content):
    with pytest.raises(RecordError) as caught:
        document(content, kind)
    assert str(caught.value).isprintable() and len(str(caught.value)) < 300


@pytest.mark.parametrize("kind", VALID)
def test_a_record_cut_anywhere_is_refused(kind):
    data = json.dumps(VALID[kind]).encode()
    for end in range(len(data)):
        with pytest.raises(RecordError):
            document(data[:end], kind)


@pytest.mark.parametrize("kind", VALID)
def test_a_wrong_type_at_any_key_names_the_key(kind):
    doc, refused = VALID[kind], 0
    for path in paths(doc):
        if any(part == "history" for part in path[:-1]):
            continue
        for value in WRONG:
            reason = reason_of(json.dumps(changed(doc, path, value)).encode(), kind)
            refused += reason != ""
            assert reason.isprintable()
            assert str(path[0]) in reason or "not JSON" in reason or not reason, (path, value, reason)
    assert refused > 8 * len(list(paths(doc)))


def reason_of(data, kind):
    """Why a record is refused; "" where it is not."""
    try:
        document(data, kind)
    except RecordError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("kind", VALID)
def test_a_record_without_a_required_key_names_it(kind):
    for key in REQUIRED[kind]:
        with pytest.raises(RecordError, match=key):
            document(json.dumps({k: v for k, v in VALID[kind].items() if k != key}).encode(), kind)


class TestWhereRecordsAreRead:
    @pytest.fixture
    def run(self, tmp_path):
        run = Run.open(str(tmp_path), "r", "title = 1\n", code="test")
        step = run.begin("fit")
        step.write(File("a", "fit"), b"1")
        step.finish(seed=1)
        return run

    @pytest.mark.parametrize("content", CONTENTS)
    def test_a_damaged_done_record_is_named(self, run, content):
        run.store.write("r/fit.done.json", content)
        for read in (run.steps, run.recorded, lambda: run.finished("fit"), lambda: list(run.problems())):
            with pytest.raises(DamagedObject, match=r"/r/fit\.done\.json: is no done record: .*; delete it and run"):
                read()

    def test_a_record_of_another_step_is_named(self, run):
        run.store.write("r/train.done.json", run.raw("fit.done.json"))
        with pytest.raises(DamagedObject, match=r"train\.done\.json: is no done record: is of the step 'fit'"):
            run.done("train")

    @pytest.mark.parametrize("content", CONTENTS)
    def test_a_damaged_pointer_to_a_checkpoint_is_named(self, run, content):
        checkpoints = Checkpoints(run, "supernet")
        checkpoints.save(b"state", Progress(step=1), "k")
        run.store.write("r/supernet/checkpoint.json", content)
        with pytest.raises(
            DamagedObject, match=r"checkpoint\.json: is no pointer to a checkpoint: .*; delete .* to train anew"
        ):
            checkpoints.latest()

    def test_progress_of_a_newer_version_is_read(self, run):
        checkpoints = Checkpoints(run, "supernet")
        checkpoints.save(b"state", Progress(step=7), "k")
        pointer = json.loads(run.raw("supernet/checkpoint.json"))
        pointer["progress"]["more"] = 1
        run.store.write("r/supernet/checkpoint.json", json.dumps(pointer).encode())
        assert checkpoints.latest() == (b"state", Progress(step=7))

    @pytest.mark.parametrize("content", [b"\0", b"{", b'{"cut": ', b"\xff"])
    def test_a_damaged_part_of_a_step_is_named(self, run, content):
        step = run.begin("search")
        step.ledger.append([{"row": 1}])
        run.store.write("r/partial/search/000001.jsonl", content)
        with pytest.raises(DamagedObject, match=r"partial/search/000001\.jsonl: is not JSON, or is cut short; delete "):
            run.begin("search").ledger.rows()

    def test_other_objects_beside_parts_are_no_parts(self, run):
        ledger = run.begin("search").ledger
        ledger.append([{"row": 1}])
        ledger.append([{"row": 2}])
        run.store.write("r/partial/search/notes.txt", b"?")
        run.store.delete("r/partial/search/000001.jsonl")
        again = run.begin("search").ledger
        assert again.rows() == [{"row": 2}]
        again.append([{"row": 3}])  # the next number, although there is one part
        assert again.rows() == [{"row": 2}, {"row": 3}]

    @pytest.mark.parametrize("content", CONTENTS)
    def test_a_damaged_attempt_is_named_and_other_objects_are_none(self, tmp_path, content):
        store = open_store(str(tmp_path))
        store.write("r/partial/attempts/notes.txt", b"?")
        store.write(f"r/{attempt_record(3)}", content)
        assert attempts(store, "r") == [3]
        with pytest.raises(InputError, match=r"attempts/000003\.json: is no record of an attempt: .*; delete it"):
            read_attempt(store, "r", 3)

    @pytest.mark.parametrize("content", [b"", b"\0junk", b"a = ", b"\xff\xfe"])
    def test_a_damaged_config_is_named(self, run, content):
        run.store.write("r/config.toml", content)
        with pytest.raises(
            DamagedObject, match=r"/r/config\.toml: is (empty|not TOML); copy the config file of the run to it"
        ):
            run.config()
        assert [line.partition(":")[0] for line in run.problems()] == ["config.toml"]

    def test_a_store_that_cannot_be_read_is_not_called_damage(self, run, monkeypatch):
        run.begin("search").ledger.append([{"row": 1}])
        ledger = run.begin("search").ledger

        def refused(store, key):
            raise StoreError(f"{store.url}: cannot read {key}")

        monkeypatch.setattr(type(run.store), "read", refused)
        for read in (run.config, ledger.rows, run.steps, Checkpoints(run, "supernet").latest):
            with pytest.raises(StoreError, match="cannot read"):
                read()
