"""Documents written and read back, and what is refused."""

import copy
import json
from dataclasses import replace

import pytest

from ensemble.document import Ensembles, Optimism, ScoredSubset, Subset, SubsetFront, TableEnsembles
from ofa.documents import DocumentError
from ofa.spaces import get_space
from ofa.timings import ArchLatency, BatchTime, BatchTimes, Latencies, Validated, ValidatedMember
from search.predict.quality import DeviceQuality, PredictorQuality, Quality

SINGLE = ScoredSubset(members=(0,), cost=5.0, top1=0.5, test_top1=0.4, test_interval=(0.3, 0.5))
SEVERAL = replace(SINGLE, members=(0, 2), weights=(0.4, 0.6), single=0, gain=-0.1, gain_interval=(-0.2, 0.0))
FRONT = SubsetFront(
    cost="sum", unit="macs", members=(SINGLE, SEVERAL), optimism=Optimism(drop=0.1, typical_drop=0.0, gap=0.1)
)
ENSEMBLES = Ensembles(
    cost="max", unit="macs", members=(SEVERAL,), optimism=FRONT.optimism, other_costs=(FRONT,), singles=(SINGLE,),
    vote="soft", temperatures=(1.0, 2.0, 0.5),
)  # fmt: skip
QUALITY = Quality("ridge", {"ridge": 0.9}, 40, 2, 0.01, 0.8, 1.0, (0.5, 0.6), (0.5, 0.7))
DOCUMENTS = [
    ENSEMBLES,
    replace(ENSEMBLES, other_costs=(), temperatures=()),
    TableEnsembles(cost="max", unit="cost", vote="soft", members=(Subset(members=(1,), cost=1.0, top1=1.0),)),
    PredictorQuality(QUALITY, DeviceQuality.on("a CPU", QUALITY)),
    Latencies(
        device="a CPU", threads=1, batch=1, runs=9,
        rows=(ArchLatency(arch=get_space("digits").smallest(), latency_ms=1.5, latency_spread_ms=0.25),),
    ),
    Validated(
        device="a CPU", threads=1, batch=1,
        members=(ValidatedMember(key="r24", top1=0.5, predicted_top1=0.5, latency_ms=1.0, latency_spread_ms=0.0,
                                 predicted_latency_ms=2.0),),
    ),
    BatchTimes(device="a GPU", arch=get_space("digits").largest(), rows=(BatchTime(batch=32, image_ms=0.5),)),
]  # fmt: skip


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: type(document).__name__)
def test_what_is_written_is_read_back(document):
    data = json.dumps(document.to_json()).encode()
    assert type(document).from_bytes(data, "file.json") == document


def test_what_is_not_known_is_left_out_and_the_order_is_that_of_the_fields():
    assert list(SINGLE.to_json()) == ["members", "cost", "top1", "test_top1", "test_interval"]
    names = ["cost", "unit", "members", "curse", "other_costs", "singles", "vote", "temperatures"]
    assert list(ENSEMBLES.to_json()) == names
    assert list(DOCUMENTS[1].to_json()) == names[:-1]


def without(doc, name):
    return {key: value for key, value in doc.items() if key != name}


def changed(doc, *path, to):
    doc = copy.deepcopy(doc)
    here = doc
    for part in path[:-1]:
        here = here[part]
    here[path[-1]] = to
    return doc


DOC = ENSEMBLES.to_json()


@pytest.mark.parametrize(
    ("doc", "says"),
    [
        ([], "ensembles.json: is a list; expected an object with cost, unit, members, curse"),
        ({}, "ensembles.json: has no 'cost'; expected cost"),
        (without(DOC, "vote"), "ensembles.json: has no 'vote'; expected cost"),
        ({**DOC, "votes": "soft"}, "ensembles.json: has an unknown 'votes'; expected cost"),
        (changed(DOC, "unit", to=3), "ensembles.json: unit: is 3; expected a text"),
        (changed(DOC, "members", 0, "cost", to="5"), "ensembles.json: members: 0: cost: is '5'; expected a number"),
        (changed(DOC, "members", 0, "cost", to=True), "ensembles.json: members: 0: cost: is True; expected a number"),
        (changed(DOC, "members", 0, "members", to=[0.5]), "members: 0: members: 0: is 0.5; expected a whole number"),
        (changed(DOC, "singles", to=None), "ensembles.json: singles: is None; expected a list"),
        (changed(DOC, "singles", 0, "test_interval", to=[1]), "test_interval: is a list; expected a list of 2"),
        (changed(DOC, "other_costs", 0, "curse", "gap", to={}), "other_costs: 0: curse: gap: is a dict; expected a number"),
    ],
)
def test_a_foreign_document_is_one_line(doc, says):
    with pytest.raises(DocumentError) as caught:
        Ensembles.from_json(doc, "ensembles.json")
    assert says in str(caught.value)
    assert str(caught.value).startswith("ensembles.json: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("data", [b"", b"{", b"\xff"])
def test_what_is_not_json_is_one_line(data):
    with pytest.raises(DocumentError, match=r"^latency.json: is not JSON: [^\n]+$"):
        Latencies.from_bytes(data, "latency.json")


def test_an_architecture_that_is_none_is_one_line():
    doc = changed(DOCUMENTS[4].to_json(), "rows", 0, "arch", to={"resolution": 24})
    with pytest.raises(DocumentError, match=r"^latency.json: rows: 0: arch: [^\n]+$"):
        Latencies.from_json(doc, "latency.json")


def test_the_best_ensemble_has_two_members_if_any_has():
    assert replace(ENSEMBLES, members=(SEVERAL, SINGLE)).best_of_several == SEVERAL
    assert replace(ENSEMBLES, members=(SEVERAL, SINGLE)).best == SINGLE
    assert replace(ENSEMBLES, members=(SINGLE,)).best_of_several == SINGLE
    assert [front.cost for front in ENSEMBLES.fronts] == ["max", "sum"]
