"""Choices from files of any content."""

import json

import pytest

from ofa.spaces import get_space

SPACE = get_space("digits")
A, B = ({"arch": a.to_json(), "top1": t, "macs": m, "params": 10} for a, t, m in (
    (SPACE.smallest(), 0.1, 100), (SPACE.largest(), 0.2, 200)))  # fmt: skip
FRONT = {"space": "digits", "members": [A, B]}


def members(**changes):
    """The front with a first member that has other values; `...` leaves one out."""
    member = {name: value for name, value in {**A, **changes}.items() if value is not ...}
    return {**FRONT, "members": [member, B]}


@pytest.fixture
def choose(ofa, tmp_path):
    """Chooses from a document, or from text or bytes: (exit code, stdout, stderr)."""

    def call(content, *arguments, name="front.json", encoding="utf-8"):
        path = tmp_path / name
        text = content if isinstance(content, str | bytes) else json.dumps(content)
        path.write_bytes(text if isinstance(text, bytes) else text.encode(encoding))
        return ofa("choose", path, *(arguments or ("--macs", 150)))

    return call


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_a_front_is_read_in_every_encoding_with_a_mark(choose, encoding):
    assert choose(FRONT, encoding=encoding)[0] == 0
    lines = f"{json.dumps(A)}\n\n{json.dumps(B)}\n"
    assert choose(lines, name="measured.jsonl", encoding=encoding)[0] == 0


def test_other_keys_of_a_front_and_equal_members_do_no_harm(choose):
    assert choose({"made": [1], **FRONT, "members": [A, A, B]})[0] == 0
    assert choose(members(macs=100.0, latency_ms=None, top1=0))[0] == 0


NUMBERS = {"a text": "0.5", "null": None, "true": True, "a list": [1], "an object": {}, "beyond floats": 10**400}


@pytest.mark.parametrize(
    ("doc", "says"),
    [
        (None, "a front is"),
        ([], "a front is"),
        ("front", "is not JSON"),
        (5, "a front is"),
        ({}, "a front is"),
        ({"space": "digits"}, "a front is"),
        *(({**FRONT, "members": wrong}, "members of the front is") for wrong in (None, 5, "x", {}, True)),
        *(({**FRONT, "space": wrong}, "space of the front is") for wrong in (None, 5, [], {}, True)),
        ({**FRONT, "space": "nowhere"}, "no space is called 'nowhere'"),
        ({**FRONT, "space": "ofa_mbv3_w1.0"}, "ofa_mbv3_w1.0"),
        ({**FRONT, "members": []}, "has no members"),
        *(({**FRONT, "members": [A, wrong]}, "member 1: measured: found") for wrong in (1, None, "x", [], True)),
        *((members(**{name: ...}), f"member 0: measured: unknown [], missing ['{name}']") for name in A),
        (members(more=1), "member 0: measured: unknown ['more']"),
        *((members(top1=wrong), "member 0: measured: top1 is") for wrong in (*NUMBERS.values(), 78.5)),
        *((members(macs=wrong), "member 0: measured: macs is") for wrong in (*NUMBERS.values(), -1, 0.5, 1e300)),
        *((members(params=wrong), "member 0: measured: params is") for wrong in (*NUMBERS.values(), -1, 0.5)),
        *((members(latency_ms=wrong), "measured: latency_ms is") for wrong in NUMBERS.values() if wrong is not None),
        *((members(latencies_ms=wrong), "measured: latencies_ms is") for wrong in (5, None, [], "x")),
        *((members(latencies_ms={"a": wrong}), "measured: latencies_ms of 'a' is") for wrong in NUMBERS.values()),
        *((members(extra={"a": wrong}), "measured: extra of 'a' is") for wrong in NUMBERS.values()),
        *((members(device=wrong), "measured: device is") for wrong in (5, None, [], True)),
        *((members(**{name: -1}), f"measured: {name} is -1; expected") for name in ("latency_ms", "latency_spread_ms")),
        (members(latencies_ms={"a": -1}), "measured: latencies_ms of 'a' is -1; expected milliseconds, not negative"),
        (members(extra={"top1": 0.9}), "measured: extra has 'top1', which is a field of the record"),
        (members(split=5), "measured: split is 5; expected a text"),
        *((members(arch=wrong), "member 0: arch: found") for wrong in (5, None, "x", [], {})),
        (members(arch={**A["arch"], "depth": [1.5, 1, 1]}), "member 0: arch: entry 0 of depth is 1.5"),
        (json.dumps(FRONT).replace("0.1", "NaN"), "NaN is no number of JSON"),
        (json.dumps(FRONT).replace("0.1", "Infinity"), "Infinity is no number of JSON"),
        (json.dumps(FRONT).replace("0.1", "1e400"), "1e400 is beyond the range of numbers"),
        (json.dumps(FRONT).replace('"macs": 100', '"macs": 100, "macs": 1'), "the key 'macs' stands twice"),
        (json.dumps(FRONT)[:-1] + ', "members": []}', "the key 'members' stands twice"),
        ("", "is empty"),
        (b"\xff\xff", "is not UTF-8"),
        (b"\0\1\2", "is a binary file"),
        ("x" * 10**7, "is not JSON"),
        ("[" * 10**6, "is nested too deeply"),
    ],
)
def test_what_is_no_front_gets_one_line(choose, doc, says):
    code, out, err = choose(doc)
    assert (code, out, err.count("\n")) == (2, "", 1), err
    assert says in err
    assert "front.json" in err
    assert len(err) < 700


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--weights", "top1=nan,macs=1"], "--weights top1: nan is no finite number"),
        (["--weights", "top1=1,top1=2"], "--weights: top1 is given twice; give it once"),
        (["--direction", "top1=inf,macs=1"], "--direction top1: inf is no finite number"),
        (["--weights", "top1"], "--weights: found 'top1'; expected NAME=NUMBER"),
        (["--objectives", "top1,macs,top1"], "top1 is given twice; give it once"),
        (["--latency-ms", "nan"], "nan"),
        (["--latency-ms", "4", "--latency-ms", "5"], "give one limit"),
    ],
)
def test_numbers_that_are_none_and_names_given_twice_get_one_line(choose, arguments, says):
    timed = {**FRONT, "members": [{**member, "latency_ms": 3.0} for member in (A, B)]}
    code, out, err = choose(timed, *arguments)
    assert (code, out, err.count("\n")) == (2, "", 1), err
    assert says in err


def test_one_limit_for_each_device(choose):
    timed = {**FRONT, "members": [{**member, "latencies_ms": {"a": 3.0, "b": 4.0}} for member in (A, B)]}
    assert choose(timed, "--latency-ms", "a=5", "--latency-ms", "b=5")[0] == 0
    assert "give one limit for each device" in choose(timed, "--latency-ms", "a=5", "--latency-ms", "a=6")[2]


@pytest.mark.parametrize(
    ("path", "says"),
    [
        (".", "is a directory"),
        ("x" * 300, "File name too long"),
        ("x/" * 3000, "File name too long"),
        ("s3://bucket/front.json", "is an address; give the path of a front.json"),
        ("a\nb", "a\\nb: No such file"),
    ],
)
def test_a_path_without_a_front_gets_one_line(ofa, path, says):
    code, out, err = ofa("choose", path, "--knee")
    assert (code, out, err.count("\n")) == (2, "", 1), err
    assert says in err
    assert len(err) < 400
