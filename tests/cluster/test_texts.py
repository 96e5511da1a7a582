import json
import math

import pytest

from cluster.errors import StepError
from cluster.texts import json_lines, json_text, jsonl


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(("make", "place"), [
    (lambda x: x, "a result"),
    (lambda x: {"members": [{"top1": 0.5}, {"top1": x}]}, r"members\[1\]: top1"),
    (lambda x: {"a": (1, [x])}, r"a\[1\]\[0\]"),
])  # fmt: skip
def test_a_number_that_is_not_finite_is_an_error_that_names_its_place(number, make, place):
    for write in (json_text, json_lines, lambda doc: jsonl([doc])):
        with pytest.raises(StepError, match=f"{place} is {number}, which JSON cannot hold"):
            write(make(number))
    with pytest.raises(StepError, match=r"^front\.json"):
        json_lines({"x": number}, "front.json")


def test_finite_documents_are_written_as_the_json_module_does():
    doc = {"a": [1, 2.5, None, "é"], "b": {"c": True}, "long": list(range(100))}
    assert json_text(doc) == json.dumps(doc)
    assert json.loads(json_lines(doc)) == doc
