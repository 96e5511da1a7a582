"""Options of every command, and archs that users give."""

import json
import math
from typing import Literal, get_args, get_origin

import pytest
import typer

from cluster.errors import InputError
from jobs.cli.main import app
from jobs.cli.options import parse_arch
from ofa.arch import ArchError
from ofa.spaces import get_space

SMALLEST = get_space("digits").smallest()


def commands(group=None, path=()):
    """Every command of the command line, with the words that name it."""
    group = group or typer.main.get_command(app)
    for name, command in group.commands.items():
        yield from commands(command, (*path, name)) if hasattr(command, "commands") else [((*path, name), command)]


def kind(param):
    """The type of a parameter's values, of a list the type of its entries."""
    annotation = param.type_descriptor.annotation
    return get_args(annotation)[0] if get_origin(annotation) is list else annotation


def given(param, value=None):
    """The words that give a parameter once."""
    words = [] if param.param_type_name == "argument" else [param.opts[0]]
    if kind(param) is bool:
        return words
    choices = get_args(kind(param)) if get_origin(kind(param)) is Literal else [str(math.ceil(param.min or 1))]
    return [*words, value or choices[0]]


def parsed(command, words):
    return command.make_context("command", list(words))


CASES = [
    pytest.param(path, command, param, id=" ".join((*path, param.opts[0])))
    for path, command in commands()
    for param in command.params
    if param.param_type_name == "option"
]


def test_every_command_is_looked_at():
    assert len(CASES) > 80
    assert {"cost --arch", "targets --latency-ms", "results list --store"} <= {case.id for case in CASES}


@pytest.mark.parametrize(("path", "command", "param"), CASES)
def test_an_option_given_twice_is_refused_or_kept_twice(path, command, param):
    needed = [word for other in command.params if other.required and other is not param for word in given(other)]
    once = parsed(command, [*needed, *given(param)]).params[param.name]
    if param.multiple:
        assert len(parsed(command, [*needed, *given(param), *given(param)]).params[param.name]) == 2 * len(once)
    else:
        with pytest.raises(InputError, match=f"{param.opts[0]} is given 2 times; give it once"):
            parsed(command, [*needed, *given(param), *given(param)])


@pytest.mark.parametrize("value", ["nan", "NaN", "inf", "-inf", "Infinity", "1e400", "9" * 30, "9" * 5000])
@pytest.mark.parametrize(("path", "command", "param"), [case for case in CASES if kind(case.values[2]) in (int, float)])
def test_no_option_takes_a_number_that_is_not_finite(ofa, path, command, param, value):
    needed = [word for other in command.params if other.required and other is not param for word in given(other)]
    code, out, err = ofa(*path, *needed, f"{param.opts[0]}={value}")
    assert (code, out, err.count("\n")) == (2, "", 1), err
    assert param.opts[0] in err
    assert len(err) < 2500


DOC = SMALLEST.to_json()
WITH = {
    "a whole number": 5,
    "a text": "3",
    "an empty list": [],
    "a list of lists": [[3]],
    "null": None,
    "an object": {},
    "true": True,
    "a negative number": -1,
    "a fraction": 1.5,
    "a large number": 10**30,
    "a long list": [1] * 100_000,
}


@pytest.mark.parametrize("field", DOC)
@pytest.mark.parametrize("value", WITH.values(), ids=WITH)
def test_a_field_with_a_value_that_no_space_has_is_one_line(ofa, field, value):
    for doc in ({**DOC, field: value}, {**DOC, field: [value, *DOC[field][1:]] if field != "resolution" else -1}):
        if isinstance(doc[field], list) and doc[field][:1] == [5] and field == "kernel":
            continue  # this is an arch
        code, out, err = ofa("cost", "--space", "digits", "--arch", json.dumps(doc))
        assert (code, out, err.count("\n")) == (2, "", 1), (doc, err)
        assert len(err) < 500
        assert field in err or "space" in err


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("5", "'5' is not the name of an arch"),
        ("[]", "'[]' is not the name of an arch"),
        ("{}", "expected exactly resolution, depth, kernel, expand"),
        ('{"archs": 5}', "archs has 5; expected a list of one network"),
        ('{"archs": []}', "archs has 0 networks; expected a list of one network"),
        ('{"archs": [5]}', "found 5; expected an object"),
        ('{"archs": [[]]}', "found [[]]; expected an object".replace("[[]]", "[]")),
        ('{"archs": null}', "archs has None; expected a list of one network"),
        (json.dumps({**DOC, "more": 1}), "expected exactly resolution, depth, kernel, expand"),
        (json.dumps(DOC)[:-1] + ', "depth": [1, 1, 1]}', "the key 'depth' stands twice"),
        (json.dumps(DOC).replace("3", "1e400"), "beyond the range of numbers"),
        (json.dumps(DOC).replace("3", "NaN"), "NaN is no number of JSON"),
        (json.dumps({**DOC, "expand": [12, *DOC["expand"][1:]]}), "entry 0 of expand is 12; expected a number from 0 to 9"),
        (json.dumps({**DOC, "kernel": [9, *DOC["kernel"][1:]]}), "kernel of stage 0 slot 0 is 9, may be 3, 5, 7"),
        (json.dumps({**DOC, "kernel": [0, *DOC["kernel"][1:]]}), "kernel of stage 0 slot 0 is 0, may be 3, 5, 7"),
        ("{" * 100_000, "is not JSON"),
        ("[" * 100_000, "is not the name of an arch"),
        ('{"a":' * 100_000, "is nested too deeply"),
        ("x" * 300, "is not the name of an arch"),
        ("x" * 5000, "is not the name of an arch"),
        ("x" * 300 + ".json", "no such file"),
        ("x/" * 3000, "no such file"),
        ("a\0b", "is not the name of an arch"),
        ("", "the path is ''; give the path of the JSON of an arch"),
        (f"r{'9' * 5000}-d1-k3-e1", "is not the name of an arch"),
        ("r99999999-d1-k3-e1", "resolution is 99999999; expected a whole number from 1 to 65536"),
        ("r24-d111-d111-k300.300.300-e100.100.100", "is not the name of an arch"),
    ],
)
def test_what_is_no_arch_is_one_line(ofa, text, says):
    code, out, err = ofa("cost", "--space", "digits", "--arch", text)
    assert (code, out, err.count("\n")) == (2, "", 1), err
    assert says in err
    assert len(err) < 800


def test_whole_numbers_may_be_written_as_fractions():
    text = json.dumps(DOC).replace("3", "3.0").replace(" 1", " 1.0")
    assert "3.0" in text
    assert parse_arch(text) == SMALLEST
    assert json.dumps(parse_arch(text).to_json()) == json.dumps(DOC)


def test_a_cost_has_any_resolution_but_only_values_of_the_space(ofa):
    doc = {**DOC, "resolution": 224}
    assert ofa("cost", "--space", "digits", "--arch", json.dumps(doc))[0] == 0
    with pytest.raises(ArchError, match="expected a whole number from 1 to 65536"):
        parse_arch(json.dumps({**DOC, "resolution": 2**16 + 1}))
    assert "its strides divide by" in ofa("cost", "--space", "digits", "--arch", json.dumps({**DOC, "resolution": 1}))[2]
