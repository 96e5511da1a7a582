import tomllib
from dataclasses import fields, is_dataclass
from itertools import pairwise
from pathlib import Path
from types import UnionType
from typing import get_args, get_type_hints

import helpers
import pytest
import tomli_w
from pydantic import TypeAdapter

from cluster.config import ConfigError, dump
from jobs.config import Experiment, load
from jobs.evaluators import weights_file
from ofa.spaces import get_space

TINY = str(helpers.TINY)


ROOT = Path(__file__).parent.parent.parent
SHIPPED = sorted((ROOT / "configs").glob("*.toml"))


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_every_shipped_config_is_valid_and_its_phases_only_widen(path):
    config = load(str(path))
    phases = config.phases
    if config.train.weights:  # a published supernet, which is searched as it is
        assert not phases
        return
    assert len(phases) >= 2
    for before, after in pairwise(phases):
        for name in before.space.choice_names:
            assert set(getattr(before.space, name)) <= set(getattr(after.space, name)), (before.name, after.name, name)
    assert phases[-1].space == load(str(path)).search_space


def test_digits_shrinks_in_the_published_order():
    opened = [
        [name for name in ("kernels", "depths", "expands") if len(getattr(phase.space, name)) > 1]
        for phase in load(str(ROOT / "configs/digits.toml")).phases
    ]
    assert opened == [[], ["kernels"], ["kernels", "depths"], ["kernels", "depths", "expands"]]


def test_the_published_recipe_is_the_papers():
    """Notes, section 3: epochs with warm-up, rates of 32 GPUs, sub-networks a step, and what opens when."""
    phases = load(str(ROOT / "configs/imagenet.toml")).phases
    recipe = [(p.epochs, p.warmup_epochs, round(p.lr * p.lr_scale, 3), p.draw.subnets, p.distil) for p in phases]
    assert recipe == [(180, 5, 2.6, 1, 0), (125, 5, 0.96, 1, 1), (25, 0, 0.08, 2, 1), (125, 5, 0.24, 2, 1),
                      (25, 0, 0.08, 4, 1), (125, 5, 0.24, 4, 1)]  # fmt: skip
    opened = [tuple(p.space.values(field) for field in ("depth", "kernel", "expand")) for p in phases]
    assert opened == [((4,), (7,), (6,)), ((4,), (3, 5, 7), (6,)), ((3, 4), (3, 5, 7), (6,)), ((2, 3, 4), (3, 5, 7), (6,)),
                      ((2, 3, 4), (3, 5, 7), (4, 6)), ((2, 3, 4), (3, 5, 7), (3, 4, 6))]  # fmt: skip


def test_the_published_recipe_of_ofav2_is_the_released_codes():
    """Epochs with warm-up, rates, sub-networks a step, teachers, and what opens when."""
    config = load(str(ROOT / "configs/tiny_imagenet_ofav2.toml"))
    recipe = [(p.epochs, p.warmup_epochs, p.lr * p.lr_scale, p.draw.subnets) for p in config.phases]
    assert recipe == [
        (180, 0, 0.08, 1), (125, 5, 0.03, 1), (25, 0, 0.0025, 2), (125, 5, 0.0075, 2), (25, 0, 0.001875, 2),
        (65, 5, 0.00375, 2), (95, 5, 0.0075, 2), (125, 5, 0.015, 2), (25, 0, 0.0025, 2), (125, 5, 0.0075, 2),
        (25, 0, 0.0025, 4), (125, 5, 0.0075, 4),
    ]  # fmt: skip
    opened = [{name: getattr(p.space, name) for name in p.space.choice_names if name != "resolutions"}
              for p in config.phases]  # fmt: skip
    largest = {"exits": (5,), "depths": (4,), "levels": (7,), "kernels": (7,), "expands": (6,)}
    order = [{}, {"kernels": (3, 5, 7)}, {"levels": (3, 5, 6, 7)}, {"levels": tuple(range(1, 8))}, {"exits": (4, 5)},
             {"exits": (3, 4, 5)}, {"exits": (2, 3, 4, 5)}, {"exits": (1, 2, 3, 4, 5)}, {"depths": (3, 4)},
             {"depths": (2, 3, 4)}, {"expands": (4, 6)}, {"expands": (3, 4, 6)}]  # fmt: skip
    for found, widened in zip(opened, order, strict=True):
        largest |= widened
        assert found == largest
    assert [(p.distil, p.teacher, p.joint_exits) for p in config.phases] == [
        (0, "first", "ascending"), *[(1, "previous", "last")] * 11
    ]  # fmt: skip
    assert config.train.teacher_exits == "ascending" and config.search_space.resolutions == (48, 52, 56, 60, 64)


@pytest.mark.parametrize(
    ("name", "batch", "resolutions", "exits"),
    [("nat", 96, (192, 224, 256), "last"), ("natv2", 256, (48, 56, 64), "descending")],
)
def test_the_published_warm_up_is_the_released_codes(name, batch, resolutions, exits):
    """Epochs with warm-up, learning rates and sub-networks a step: the largest network, then uniform sampling."""
    config = load(str(ROOT / f"configs/cifar10_{name}_transfer.toml"))
    assert [(p.epochs, p.warmup_epochs, p.lr * p.lr_scale, p.draw.subnets, p.distil) for p in config.phases] == [
        (100, 5, 0.0075, 1, 0), (150, 10, 0.0075, 4, 1)
    ]  # fmt: skip
    largest, uniform = config.phases
    assert largest.space.largest() == uniform.space.largest()
    assert [len(set(largest.space.values(field))) for field in ("depth", "kernel", "expand")] == [1, 1, 1]
    assert uniform.space == config.search_space and (uniform.teacher, uniform.joint_exits) == ("previous", "last")
    assert (largest.joint_exits, config.train.teacher_exits) == (exits, exits)
    assert config.search_space.resolutions == resolutions and config.data.selection == 5000
    train = config.train
    assert (train.momentum, train.weight_decay, train.clip_norm, train.gradients) == (0.9, 3e-4, 5, "sum")
    assert (train.batch, train.lr_batch, train.schedule, train.label_smoothing) == (batch, 0, "phase", 0)


def test_the_small_transfer_is_between_halves_of_one_space():
    half, other = (load(str(ROOT / f"configs/cifar10_{name}.toml")) for name in ("half", "transfer"))
    assert half.search_space == other.search_space
    assert len({*half.data.classes, *other.data.classes}) == 10


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.toml")), ids=lambda path: path.name)
def test_phases_only_widen(path):
    phases = load(str(path)).phases
    for before, after in pairwise(phases):
        assert before.space.choice_names == after.space.choice_names
        for name in before.space.choice_names:
            assert set(getattr(before.space, name)) <= set(getattr(after.space, name)), (path, after.name)


def test_one_config_is_one_run_wherever_it_runs():
    elsewhere = ["ray.evaluators=8", "ray.address=auto", "train.workers=4", "train.backend=local", "data.readers=8"]
    here, there = load(TINY), load(TINY, elsewhere)
    assert here.id == there.id
    assert here.id.startswith("tiny-")


def test_evaluators_on_a_gpu_make_another_run_and_their_share_of_it_does_not():
    gpu = ["measure.device=cuda", "ray.evaluator_gpus=1"]
    assert load(TINY, gpu).id != load(TINY).id == load(TINY, ["ray.scorers=1", "ray.scorer_gpus=0.5"]).id
    assert load(TINY, gpu).id == load(TINY, [gpu[0], "ray.evaluator_gpus=0.25"]).id


@pytest.mark.parametrize(
    ("settings", "gpus"),
    [
        ([], 0),
        (["train.device=cuda"], 2),
        (["measure.device=cuda", "ray.evaluators=3", "ray.evaluator_gpus=0.5"], 2),
        (["measure.device=cuda", "ray.evaluators=3", "ray.evaluator_gpus=0.4"], 2),
        (["measure.device=cuda", "ray.evaluators=3", "ray.evaluator_gpus=0.3"], 1),
        (["measure.device=cuda", "ray.evaluators=3", "ray.evaluator_gpus=2"], 6),
        (["ray.scorers=5", "ray.scorer_gpus=0.25"], 2),
    ],
)
def test_a_run_needs_the_gpus_on_which_its_processes_fit(settings, gpus):
    config = load(TINY, settings)
    assert config.gpus(config.train.least_workers if config.train.device == "cuda" else 0) == gpus


def test_an_adaptations_evaluators_keep_their_gpus_while_it_trains():
    adapts = ["adapt.iterations=1", "adapt.archs=10", "adapt.oversample=1", "adapt.batch=2", "adapt.survivors=5"]
    both = ["train.device=cuda", "measure.device=cuda", "ray.evaluators=2", "ray.evaluator_gpus=1"]
    assert load(TINY, [*both, *adapts]).gpus(2) == 4 > load(TINY, both).gpus(2)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (["ray.evaluator_gpus=1.5"], "ray.evaluator_gpus is 1.5; use a share of one GPU, below 1, or a whole number"),
        (["measure.device=cuda"], "measure.device is 'cuda', but ray.evaluator_gpus is 0; set it to 1"),
        (["ray.evaluator_gpus=1"], "ray.evaluator_gpus is 1, but measure.device is 'cpu'"),
        (["ray.scorer_gpus=1"], "ray.scorer_gpus is 1, but ray.scorers is 0"),
    ],
)
def test_gpus_that_nothing_would_use_are_refused(settings, says):
    with pytest.raises(ConfigError, match=says):
        load(TINY, settings)


DEVICES = ['search.latency_tables=[{name="phone",file="/a/phone.json"},{name="cpu",file="s3://b/cpu.yaml"}]']


def test_tables_and_limits_make_another_run_only_where_they_are_given():
    there = load(TINY)
    none = ["search.latency_tables=[]", "search.at_most={}", "search.at_least={}"]
    assert load(TINY, none).id == there.id == "tiny-a8419b48"
    for setting in (*DEVICES, "search.at_most.macs=200000", "search.at_least.top1=0.5"):
        assert load(TINY, [setting]).id != there.id


def test_objectives_and_limits_are_of_any_device_of_the_run():
    names = 'search.objectives=["top1","latency_ms.phone","latency_ms.here","params"]'
    limits = ["search.at_most.latency_ms.phone=25", "search.at_least={top1=0.5}", "ensemble.unit=latency_ms.cpu"]
    config = load(TINY, [*DEVICES, names, *limits])
    assert [(o.key, o.bound) for o in config.objectives] == [
        ("top1", 0.5), ("latency_ms.phone", 25), ("latency_ms.here", None), ("params", None)
    ]  # fmt: skip
    assert config.devices == ("phone", "cpu", "here")
    assert load(TINY, DEVICES).devices == ("phone", "cpu") and load(TINY).devices == ()
    one = load(TINY, ['search.latency_tables=[{name="phone",file="/a.json"}]', 'search.objectives=["top1","latency_ms"]'])
    assert [o.key for o in one.objectives] == ["top1", "latency_ms"]


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (['search.objectives=["top1","latency_ms.phone"]'], "'latency_ms.phone'; there are top1, macs, params"),
        (
            [*DEVICES, 'search.objectives=["top1","latency_ms"]'],
            "'latency_ms'; there are .*latency_ms.phone, latency_ms.cpu",
        ),
        (["ensemble.unit=latency_ms.phone"], "ensemble.unit is 'latency_ms.phone'; there are macs, params"),
        (["ensemble.unit=top1"], "ensemble.unit is 'top1'"),
        (["search.at_most.params=9"], "search.at_most: 'params' is no objective of this run .* there are macs"),
        (["search.at_least.macs=9"], "search.at_least: 'macs' is no objective of this run .* there are top1"),
        (['search.latency_tables=[{name="here",file="/a"}]'], "'here' is not a valid name"),
        (['search.latency_tables=[{name="a b",file="/a"}]'], "'a b' is not a valid name"),
        (['search.latency_tables=[{name="a",file="/a"},{name="a",file="/b"}]'], "'a' is not a valid name or is used twice"),
        (["search.predicted_algorithm=evolution"], "needs a limit on every objective but one"),
    ],
)
def test_unknown_objectives_tables_and_limits_are_refused(settings, says):
    with pytest.raises(ConfigError, match=says):
        load(TINY, settings)


def test_one_limit_is_enough_for_a_search_that_needs_one():
    assert load(TINY, ["search.predicted_algorithm=evolution", "search.at_most.macs=200000"]).objectives[1].bound == 200000


def test_a_run_without_phases_searches_given_weights():
    config = load(TINY, ["train.phases=[]", "train.weights=/a/w.safetensors"])
    assert (config.phases, config.last_phase) == ((), "given")
    assert weights_file(config).key == "supernet/given/weights.safetensors"
    assert weights_file(load(TINY)).key == "supernet/width/weights.safetensors"


def test_a_new_head_teaches_nothing():
    given, distils = "train.weights=/a/w.safetensors", 'train.phases=[{name="a",epochs=1,lr=1,distil=1}]'
    assert load(TINY, [given, distils]).phases[0].distil == 1
    with pytest.raises(ConfigError, match="'a' comes first and has no teacher yet"):
        load(TINY, [given, distils, "train.head=new"])


@pytest.mark.parametrize("setting", ["seed=2", "search.evaluations=99", "train.batch=64", "train.threads=2", "name=other"])
def test_another_setting_is_another_run(setting):
    assert load(TINY).id != load(TINY, [setting]).id


def test_the_written_config_is_the_same_run(tmp_path):
    path = tmp_path / "config.toml"
    path.write_text(dump(load(TINY)))
    assert load(str(path)) == load(TINY)
    assert load(str(path)).id == load(TINY).id


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        (
            "search.trails=3",
            "search: no setting 'trails'; here you may set objectives, latency_tables, at_most, at_least, algorithm, mode",
        ),
        ("space=digit", "no space is called 'digit'; there are digits"),
        ("name=My Run", "name is 'My Run'; use small letters"),
        ("train.batch=1", r"train.batch is 1, less than one image for each of train.workers \(2\); use at least 2"),
        ("train.head=new", "train.head is 'new', but there are no train.weights whose head it could replace"),
        ("train.head=old", "train: head is 'old'; input should be 'kept' or 'new'"),
        ("data.classes=[3, 4]", r"data.classes: 0 is 3; input should be a valid string"),
        ("train.backend=horses", "train.backend is 'horses'; there are ray, horovod, local"),
        ("train.teacher=train", "train: no setting 'teacher'; here you may set phases, .*teacher_norm"),
        ("train.workers=0", "train: workers is 0; input should be greater than or equal to 1"),
        (
            "train.workers=[0, 2]",
            r"train: workers is \[0, 2\]; input should be greater .* 1; give a number, or \[least, most\]",
        ),
        ("train.workers=[1, 2, 3]", r"train: workers is \[1, 2, 3\]; .*; give a number, or \[least, most\]"),
        ("train.workers=[2, 1]", r"train: workers is \[2, 1\]; expected a number, or \[least, most\]"),
        ("train.workers=[1, 300]", r"train.batch is \d+, less than one image for each of train.workers \(300\)"),
        ("data.test=0.9", "selection and test together leave nothing to train on"),
        (
            'train.phases=[{name="a",epochs=1,lr=1,sandwich=true,largest=true}]',
            "'a': sandwich trains the largest network anyway",
        ),
        ("choices.kernels=[9]", r"kernels \[9\] are not among 3, 5, 7"),
        ("choices.resolutions=[2]", "its strides divide by"),
        ("choices.resolutions=[24.5]", "choices.resolutions has 24.5; use whole numbers of pixels"),
        ("choices.levels=[7]", "choices: no setting 'levels'; here you may set resolutions, depths, kernels, expands$"),
        (
            'train.phases=[{name="a",epochs=1,lr=1,levels=[7]}]',
            "'a': no setting 'levels'; here you may set name, epochs, lr, .*, resolutions, depths, kernels, expands$",
        ),
        (
            'train.phases=[{name="a",epochs=1,lr=1,epoch=3}]',
            "train.phases.0: no setting 'epoch'; here you may set name",
        ),
        ("search.population=5", "search.population is 5, too few for 2 islands; use at least 8"),
        ("measure.latency_archs=61", "measure.latency_archs is 61, more than measure.archs"),
        (
            "fit.held_out=0.9",
            r"fit.held_out is 0.9, which leaves 1 of measure.latency_archs \(10\) to fit a predictor to; it",
        ),
        ("ensemble.vote=loud", "ensemble: vote is 'loud'; there are soft, hard, weighted"),
        ("ensemble.algorithm=magic", "ensemble: algorithm is 'magic'; there are default, greedy, exhaustive, nsga2"),
        ('ensemble.costs=["max", "mean"]', "ensemble.costs: 1 is 'mean'; there are max, sum"),
        ("ensemble.costs=[]", "ensemble: costs is .*at least 1 item"),
        (
            "search.algorithm=magic",
            "search: algorithm is 'magic'; there are default, nsga2, nsga3, sms-emoa, spea2, guided, random, and Optuna's",
        ),
        (
            "search.algorithm=optuna:TPE",
            "search.algorithm: no sampler is called 'optuna:TPE'; there are .*optuna:TPESampler",
        ),
        ("search.algorithm=optuna:CmaEsSampler", "search.algorithm: optuna:CmaEsSampler cannot be used: .*multi-objective"),
        ("search.sampler.multivariate=true", "search.algorithm: the algorithm 'default' has no settings; only a sampler"),
        (
            "search.predicted_algorithm=evolution",
            "predicted_algorithm is 'evolution', which needs a limit on every objective but one; use default",
        ),
        (
            "search.predicted_algorithm=magic",
            "'magic'; there are default, archive, nsga2, sms-emoa, spea2, nsga3, evolution, random",
        ),
        ('search.objectives=["top1","latency_ms"]', "'latency_ms'; there are top1, macs, params"),
        ('search.objectives=["top1"]', r"is \['top1'\]; give two or more of top1, macs, params, .*, once each"),
        ('search.objectives=["top1","top1"]', "give two or more of top1, macs, params, .*, once each"),
        ("ensemble.unit=top1", "ensemble.unit is 'top1'; there are macs, params"),
        ("train.phases=[]", "there are no phases"),
        ('train.phases=[{name="a",epochs=1,lr=1,kernels=[9]}]', r"kernels \[9\] are not among 3, 5, 7"),
        ('train.phases=[{name="a",epochs=1,lr=1,distil=1}]', "'a' comes first and has no teacher yet"),
        ('train.phases=[{name="a/b",epochs=1,lr=1}]', "'a/b' is not a valid name or is used twice"),
        ('train.phases=[{name="a",epochs=1,lr=1},{name="a",epochs=1,lr=1}]', "'a' is not a valid name or is used twice"),
        ('train.phases=[{name="a",epochs=1}]', "train.phases.0: lr is missing"),
        (
            'train.phases=[{name="a",epochs=1,lr=1,kernels=[3],choices={kernels=[5]}}]',
            "kernels is a setting of the phase and of its choices; give it once",
        ),
    ],
)
def test_what_cannot_work_is_one_line_before_anything_starts(setting, says):
    with pytest.raises(ConfigError, match=says) as caught:
        load(TINY, [setting])
    assert str(caught.value).startswith((TINY, f"--set {setting}: "))
    assert "\n" not in str(caught.value)


def test_horovod_trains_on_cpus():
    with pytest.raises(ConfigError, match=r"train.device is 'cuda', and train.backend 'horovod' is built for CPUs alone"):
        load(TINY, ["train.backend=horovod", "train.device=cuda"])


def test_the_settings_of_a_sampler_are_part_of_the_run_where_there_are_some():
    tpe = load(TINY, ["search.algorithm=optuna:TPESampler"])
    group = load(TINY, ["search.algorithm=optuna:TPESampler", "search.sampler={multivariate=true,n_ei_candidates=12}"])
    assert group.search.sampler == {"multivariate": True, "n_ei_candidates": 12}
    assert len({load(TINY).id, tpe.id, group.id}) == 3
    with pytest.raises(ConfigError, match="has no setting 'color'; it has "):
        load(TINY, ["search.algorithm=optuna:TPESampler", "search.sampler={color=1}"])


def test_choices_and_phases_take_any_gene_of_the_space():
    phase = '{name="a",epochs=1,lr=1,widths=[2],choices={depths=[1,2]}}'
    config = load(
        TINY, ["space=ofa_resnet50", "choices.widths=[0, 2]", "choices.expands=[0.2, 0.35]", f"train.phases=[{phase}]"]
    )
    assert config.search_space == get_space("ofa_resnet50").only(widths=(0, 2), expands=(0.2, 0.35))
    assert config.phases[0].space == config.search_space.only(widths=(2,), depths=(1, 2))


def test_phases_take_the_names_that_only_the_space_has():
    phase = 'train.phases=[{name="a",epochs=1,lr=1,archs=["02012100"]}]'
    config = load(TINY, ["space=nas_bench_macro", "choices={resolutions=[16]}", phase])
    assert [arch.key for arch in config.phases[0].draw.archs] == ["r16-d231-e16.136.300"]


def test_every_setting_is_documented():
    """docs/configuration.md has a line for each, with its default."""
    text = (ROOT / "docs/configuration.md").read_text()
    for name, _ in settings(load(TINY)):
        assert f"| `{name}` |" in text, name


def settings(config: Experiment):
    """The names of all settings, section by section."""
    for field in fields(config):
        value = getattr(config, field.name)
        if is_dataclass(value):
            yield from ((f"{field.name}.{name}", v) for name, v in settings(value))
        elif field.name == "phases":
            yield from ((f"phases.{f.name}", None) for f in fields(value[0]))
        else:
            yield field.name, value


def test_workers_may_be_the_fewest_and_the_most(tmp_path):
    config = load(TINY, ["train.workers=[1, 3]", "train.batch=32"])
    assert (config.train.least_workers, config.train.most_workers) == (1, 3)
    assert config.id == load(TINY, ["train.batch=32"]).id
    path = tmp_path / "config.toml"
    path.write_text(dump(config))
    assert load(str(path)) == config
    fixed = load(TINY, ["train.workers=[2, 2]", "train.backend=ray"]).train
    assert fixed.least_workers == fixed.most_workers == load(TINY, ["train.workers=2"]).train.most_workers


def test_workers_that_come_and_go_need_a_backend_and_places_for_that():
    says = r"train\.workers is \[1, 2\], but the number of workers of train\.backend 'local' is fixed; .* backend 'ray'"
    with pytest.raises(ConfigError, match=says):
        load(TINY, ["train.workers=[1, 2]", "train.backend=local"])
    adapts = ["adapt.iterations=1", "adapt.archs=10", "adapt.oversample=1", "adapt.batch=2", "adapt.survivors=5"]
    with pytest.raises(ConfigError, match="the evaluators of an adaptation stay while it trains"):
        load(TINY, [*adapts, "train.workers=[1, 2]"])


def number_settings(kind=Experiment, path=()):
    """(path, type) of every setting of a config that is a number, or holds numbers; 0 stands for an entry of a list."""
    for name, hint in get_type_hints(kind, include_extras=True).items():
        if name == "__pydantic_config__":
            continue
        section = next((arg for arg in (hint, *get_args(hint)) if isinstance(arg, type) and is_dataclass(arg)), None)
        if section is not None:
            yield from number_settings(section, (*path, name, *(("0",) if hint is not section else ())))
        else:
            yield from numbers_of(hint, (*path, name))


def numbers_of(hint, path):
    origin = get_args(hint)
    if getattr(hint, "__metadata__", None) and isinstance(origin[0], UnionType):
        for one in get_args(origin[0]):
            yield from numbers_of(one, path)
    elif hint in (int, float) or (origin and origin[0] in (int, float)):
        yield ".".join(path), hint
    elif origin and getattr(hint, "__origin__", None) is dict:
        yield from numbers_of(origin[1], (*path, "kernels"))
    elif origin and getattr(hint, "__origin__", None) is tuple:
        yield from numbers_of(origin[0], (*path, "0"))


NUMBERS = dict(number_settings())


def test_the_settings_that_are_numbers_are_found():
    assert {"seed", "train.phases.0.lr", "train.phases.0.choices.kernels.0", "choices.kernels.0", "data.selection",
            "search.population", "ensemble.most_cost", "kube.train.gpus", "kube.head.cpus"} <= set(NUMBERS)  # fmt: skip
    assert len(NUMBERS) > 60


@pytest.mark.parametrize("name", NUMBERS)
def test_every_number_has_a_range(name):
    schema = TypeAdapter(NUMBERS[name]).json_schema()
    assert {"minimum", "exclusiveMinimum"} & set(schema), schema
    assert {"maximum", "exclusiveMaximum"} & set(schema), schema


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize("value", ["nan", "inf", "-inf", "1" + 30 * "0", "-1" + 30 * "0", "1e300", "-1e300"])
def test_no_number_is_infinite_or_not_a_number_or_absurd(tmp_path, name, value):
    """In the file, and by --set."""
    doc = tomllib.loads(Path(TINY).read_text())
    del doc["train"]["phases"][0]["kernels"]
    *path, last = name.split(".")
    here = doc
    for part, after in pairwise([*path, last]):
        if part.isdigit() and after.isdigit():  # a list in a list
            here[int(part)] = [0.0]
        here = here[int(part)] if part.isdigit() else here.setdefault(part, [0.0] if after.isdigit() else {})
    here[int(last) if last.isdigit() else last] = tomllib.loads(f"x = {value}")["x"]
    file = tmp_path / "bad.toml"
    file.write_text(tomli_w.dumps(doc))
    with pytest.raises(ConfigError) as caught:
        load(str(file))
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(f"{file}: ")
    assert last in str(caught.value) or path[-1] in str(caught.value)
    assert len(str(caught.value)) < 400
    if "0" not in (last, *path):
        with pytest.raises(ConfigError, match=f"--set {name}="):
            load(TINY, [f"{name}={value}"])


@pytest.mark.parametrize(
    ("one", "other"),
    [("images", "./images//"), ("/data/a b", "file:///data/a%20b/"), ("s3://bucket/x", "S3://bucket/x/"), ("~/x", "~//x/")],
)
def test_one_place_has_one_run_id_however_it_is_spelled(one, other):
    for setting in ("data.source", "train.weights"):
        ids = {load(str(TINY), [f"{setting}={text}"]).id for text in (one, other)}
        assert len(ids) == 1, setting


@pytest.mark.parametrize(
    ("one", "other"), [("digits", "./digits"), ("a", "A"), ("/a", "a"), ("a#b", "a"), ("s3://bucket/a", "s3://bucket")]
)
def test_two_places_have_two_run_ids(one, other):
    ids = {load(str(TINY), [f"data.source={text}"]).id for text in (one, other)}
    assert len(ids) == 2


@pytest.mark.parametrize("text", ["", "http://host/x", "s3://Bucket", "s3:/bucket", "a:b"])
def test_a_source_that_can_be_no_store_is_refused_with_the_settings(text):
    with pytest.raises(ConfigError, match=r"data: source is "):
        load(str(TINY), [f"data.source={text}"])


@pytest.mark.parametrize(("expands", "advice"), [([1], "give it more choices"), ([1, 2], "use at most 16, or give it")])
def test_more_archs_to_measure_than_the_space_has_are_refused_before_anything_starts(expands, advice):
    phases = '[{name="a",epochs=1,lr=1}]'
    sets = [f"choices={{resolutions=[24, 28],depths=[1],kernels=[3],expands={expands}}}", f"train.phases={phases}"]
    with pytest.raises(ConfigError, match=rf"measure\.archs is 60; the space digits .* has \d+ sub-networks; {advice}"):
        load(TINY, sets)


def test_a_name_too_long_for_a_directory_is_refused():
    assert len(load(TINY, [f"name={'x' * 200}"]).id) < 255
    with pytest.raises(ConfigError, match="name has 201 characters; use at most 200"):
        load(TINY, [f"name={'x' * 201}"])


class TestTheBatchOfAnEvaluation:
    def test_is_a_number_or_chosen_by_measurement(self):
        assert load(TINY, ["measure.batch=auto"]).measure.batch == "auto"
        assert load(TINY, ["measure.batch=64"]).measure.batch == 64
        for wrong, says in (("x", "batch is 'x'; give a number, or 'auto'"), ("0", "batch is 0; input should be greater")):
            with pytest.raises(ConfigError, match=says):
                load(TINY, [f"measure.batch={wrong}"])

    def test_is_that_of_the_calibration_unless_it_is_chosen_or_another_one_is_given(self):
        found = {}
        for settings in ((), ("batch=64",), ("batch=auto",), ("batch=auto", "calibration_batch=32")):
            measure = load(TINY, [f"measure.{setting}" for setting in settings]).measure
            found[settings] = (measure.fixed_batch, measure.norm_batch)
        assert [*found.values()] == [(128, 128), (64, 64), (128, 128), (128, 32)]

    def test_of_the_calibration_is_no_part_of_the_id_while_it_is_the_default(self):
        assert load(TINY, ["measure.calibration_batch=0"]).id == load(TINY).id == "tiny-a8419b48"
        assert load(TINY, ["measure.calibration_batch=64"]).id != load(TINY).id
        assert load(TINY, ["measure.batch=auto"]).id != load(TINY).id


WIDE = '{name="a",epochs=4,lr=0.1}'


def phases(**settings):
    """The setting of two phases, the second with these settings."""
    text = "".join(f",{name}={value}" for name, value in settings.items())
    return f'train.phases=[{WIDE},{{name="b",epochs=2,lr=0.1{text}}}]'


@pytest.mark.parametrize(
    "setting",
    [
        *("train.zero_last_gamma=true", "train.average=0.99", "train.distil_loss=alpha"),
        *(phases(extremes="[0.25,0.25]"), phases(coupled="[[1,2],[3,4]]"), phases(sandwich="true", ramp_epochs=0.5)),
        phases(largest="true", distil=1.0, teacher='"largest"'),
    ],
)
def test_a_setting_of_a_recipe_is_part_of_the_id_only_where_it_is_given(setting):
    defaults = ["train.zero_last_gamma=false", "train.average=0", "data.alternating_flip=false"]
    assert load(TINY, defaults).id == load(TINY).id
    plain = phases() if "phases" in setting else "train.distil_loss=ce"
    given = phases(extremes="[0,0]", coupled="[]", ramp_epochs=0) if "phases" in setting else plain
    assert load(TINY, [plain]).id == load(TINY, [given]).id != load(TINY, [setting]).id


def test_an_alternating_flip_is_part_of_the_id_and_needs_a_flip():
    assert load(TINY, ["data.flip=true", "data.alternating_flip=true"]).id != load(TINY, ["data.flip=true"]).id
    with pytest.raises(ConfigError, match=r"data\.alternating_flip is true, but data\.flip is false"):
        load(TINY, ["data.alternating_flip=true"])


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"extremes": "[0.6,0.5]"}, r"extremes is \[0\.6, 0\.5\]; give two probabilities that are at most 1 together"),
        ({"extremes": "[0.5,0.5]", "sandwich": "true"}, "only where sandwich"),
        ({"extremes": "[0.5]"}, r"train\.phases\.1\.extremes: has 1 values; give one more"),
        ({"coupled": "[[3]]"}, r"train\.phases\.1\.coupled\.0: has 1 values; give one more"),
        ({"ramp_epochs": 0.5}, "ramp_epochs is 0.5, but not every step trains the largest network"),
        ({"ramp_epochs": 3, "sandwich": "true"}, "ramp_epochs is 3, of 2 epochs; lower it"),
        ({"teacher": '"largest"', "distil": 1.0}, "teacher is 'largest', which needs largest = true"),
        ({"teacher": '"largest"', "distil": 1.0, "sandwich": "true"}, "teacher is 'largest', which needs largest = true"),
        ({"coupled": "[[9,2]]"}, r"coupled is \[\[9\.0, 2\.0\]\]; give pairs of a depth \(1, 2, 3\) and an expand ratio"),
        ({"coupled": "[[3,4],[1,2]]"}, "that ascend in both"),
        ({"archs": '["r24-x"]', "extremes": "[0.5,0]"}, "archs are trained one per step; leave out extremes"),
    ],
)
def test_settings_of_a_recipe_that_exclude_each_other_are_refused(settings, says):
    with pytest.raises(ConfigError, match=says) as caught:
        load(TINY, [phases(**settings)])
    assert "\n" not in str(caught.value)


def test_the_first_phase_may_learn_from_the_largest_network_of_its_steps():
    [phase] = load(TINY, ['train.phases=[{name="a",epochs=1,lr=0.1,largest=true,distil=1.0,teacher="largest"}]']).phases
    assert not phase.has_teacher
