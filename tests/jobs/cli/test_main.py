"""The command line in this process: what it prints, and how it ends."""

import json
import os
import shutil
import sys

import helpers
import numpy as np
import pytest
from samples import write_predictor, write_table

from cluster.run import Run
from ensemble.select import ALGORITHMS
from ensemble.table import Table
from jobs.cli import main
from ofa.cost import cost
from ofa.memory import peak_bytes
from ofa.spaces import get_space
from search.front import Front, hypervolume

TINY = str(helpers.TINY)


def test_cost_takes_a_name_json_or_a_file(ofa, tmp_path):
    arch = get_space("digits").smallest()
    file = tmp_path / "arch.json"
    file.write_text(json.dumps(arch.to_json()))
    outputs = [ofa("cost", "--space", "digits", "--classes", 10, "--arch", text)
               for text in (arch.key, json.dumps(arch.to_json()), file)]  # fmt: skip
    assert len({out for _, out, _ in outputs}) == 1
    assert [code for code, _, _ in outputs] == [0, 0, 0]
    _, out, _ = ofa("cost", "--space", "digits", "--classes", 10, "--arch", arch.key, "--json")
    assert json.loads(out)["arch"] == arch.to_json()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["run", "nowhere.toml"], "nowhere.toml: No such file or directory; give the path of a config file"),
        (["run", TINY, "--set", "search.trails=3"], "search: no setting 'trails'"),
        (["run", TINY, "--set", "space=nowhere"], "no space is called 'nowhere'; there are"),
        (["run", TINY, "--store", "ftp://x"], "ftp://x: a store is a directory or s3://bucket/prefix"),
        (
            ["run", TINY, "--store", "STORE", "--until", "serch"],
            "no step is called 'serch'; there are train, adapt, measure",
        ),
        (["search", TINY, "--store", "STORE"], "run `ofa train` first"),
        (["adapt", TINY, "--store", "STORE/nowhere"], "nowhere: there is no such directory"),
        (["fit", TINY, "--store", "STORE/nowhere"], "nowhere: there is no such directory"),
        (["fit", TINY, "--store", "STORE/nowhere"], "; measured.jsonl of the run tiny-"),
        (["report", TINY, "--store", "STORE"], "is made by `ofa search`"),
        (["export", TINY, "--store", "STORE", "--arch", "r1-x"], "'r1-x' is not the name of an arch"),
        (["cost", "--space", "digits", "--arch", "{"], "--arch is not JSON"),
        (["cost", "--space", "ofa_mbv3_w1.0", "--arch", get_space("digits").smallest().key], "is not in the space"),
        (["ensemble"], "give a config file or --predictions, one of them"),
        (["ensemble", "--predictions", "nowhere.npz"], "nowhere.npz: No such file"),
        (["ensemble", "--predictions", TINY], "tiny.toml: it is not an npz file"),
        (["results", "show", "--store", "STORE"], "there is no run; `ofa run` makes one"),
        (["results", "list", "--store", "STORE/nowhere"], "nowhere: there is no such directory"),
        (["run", TINY, "--store", ""], "a store is a directory or s3://bucket/prefix"),
        (["run", TINY, "--store", "STORE", "--until", "fit", "--only", "fit"], "exclude each other"),
        (["run", TINY, "--set", "train.batch=abc"], "--set train.batch=abc: train: batch is 'abc'"),
        (["run"], "Missing argument 'CONFIG'"),
        (["serch"], "No such command 'serch'"),
        (["run", TINY, "--stoer", "x"], "No such option: --stoer"),
        (["cost", "--space", "digits", "--arch", "nowhere.json"], "--arch nowhere.json: no such file"),
        (["cost", "--space", "digits", "--arch", sys.executable], "python: is a binary file; give the JSON of an arch"),
        (["ensemble", TINY, "--cost", "sum"], "--cost goes with --predictions"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(ofa, tmp_path, arguments, says):
    arguments = [argument.replace("STORE", str(tmp_path)) for argument in arguments]
    code, out, err = ofa(*arguments)
    assert code == 2, (out, err)
    assert err.startswith("ofa: ")
    assert says in err
    assert err.count("\n") == 1


def test_a_backend_that_is_not_installed_is_one_line_and_leaves_nothing(ofa, tmp_path, monkeypatch):
    for name in ("horovod", "horovod.torch"):
        monkeypatch.setitem(sys.modules, name, None)
    code, _, err = ofa("train", TINY, "--store", tmp_path / "runs", "--set", "train.backend=horovod")
    assert (code, err) == (2, "ofa: train.backend is 'horovod', which is not installed: make horovod\n")
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_horovodrun_starts_no_other_backend(ofa, tmp_path, monkeypatch):
    monkeypatch.setattr("cluster.runtime.horovod.launched", lambda: (0, 2))
    monkeypatch.setattr("cluster.runtime.horovod.started", lambda: None)
    code, _, err = ofa("train", TINY, "--store", tmp_path / "runs")
    assert code == 2
    assert "train.backend is 'ray', and horovodrun started 2 processes of this command; add --set train.backend=horov" in err


def test_a_record_that_is_none_is_one_line(ofa, tmp_path):
    Run.open(str(tmp_path), helpers.run_id(), helpers.TINY.read_text(), "test").begin("train")
    (tmp_path / helpers.run_id() / "train.done.json").write_text("{}")
    code, _, err = ofa("results", "verify", "--store", tmp_path)
    assert (code, err.count("\n")) == (2, 1)
    assert "train.done.json: is no done record: step: field required; delete it" in err


def test_the_commands_are_made_once_for_a_process_and_the_next_one_knows_nothing_of_the_one_before(ofa, monkeypatch):
    make, made = main.typer.main.get_command, []
    monkeypatch.setattr(main.typer.main, "get_command", lambda app: made.append(app) or make(app))
    main.command.cache_clear()
    cost_of = ["cost", "--space", "digits", "--arch", get_space("digits").smallest().key]
    first = ofa("--log-format", "json", *cost_of, "--classes", 7, "--json")
    assert first[0] == 0 and json.loads(first[1])["classes"] == 7
    plain, again = ofa(*cost_of), ofa(*cost_of)
    assert plain == again and plain[0] == 0 and not plain[1].startswith("{")
    code, _, err = ofa(*cost_of, "--classes", "none")
    assert code == 2 and err.startswith("ofa")
    assert len(made) == 1


def test_without_a_command_there_is_help(ofa):
    code, _, err = ofa()
    assert code == 2
    assert "Usage: " in err
    assert "results" in err


def test_an_exported_description_is_an_arch(ofa, tmp_path):
    arch = get_space("digits").smallest()
    (tmp_path / "knee.json").write_text(json.dumps({"archs": [arch.to_json()]}))
    assert ofa("cost", "--space", "digits", "--classes", 10, "--arch", tmp_path / "knee.json")[1].startswith(arch.key)


def test_an_unknown_algorithm_is_one_line(ofa, tmp_path):
    save_table(tmp_path)
    code, _, err = ofa("ensemble", "--predictions", tmp_path / "t.npz", "--algorithm", "foo", "--out", tmp_path)
    assert (code, err.count("\n")) == (2, 1)
    assert "no algorithm is called 'foo'; there are default, greedy, exhaustive" in err


def save_table(folder, members=1):
    rng = np.random.default_rng(0)
    probs = -np.sort(-rng.random((members, 100, 3)), axis=2).astype(np.float32)
    classes = np.argsort(rng.random((members, 100, 10)), axis=2)[:, :, :3]
    table = Table(classes, probs, rng.integers(0, 10, 100), np.arange(1.0, members + 1))
    (folder / "t.npz").write_bytes(table.to_npz())
    return table


def test_limits_that_no_ensemble_keeps_are_one_line(ofa, tmp_path):
    save_table(tmp_path)
    code, _, err = ofa("ensemble", "--predictions", tmp_path / "t.npz", "--most-cost", 0.5, "--out", tmp_path)
    assert (code, err.count("\n")) == (2, 1)
    assert "no subset keeps to the limits" in err


def test_an_error_in_our_own_code_is_not_called_bad_input(ofa, tmp_path, monkeypatch):
    def bug(*_):
        raise ValueError("operands could not be broadcast together")

    save_table(tmp_path)
    monkeypatch.setitem(ALGORITHMS, "greedy", bug)
    code, _, err = ofa("ensemble", "--predictions", tmp_path / "t.npz", "--algorithm", "greedy", "--out", tmp_path)
    assert (code, err.count("\n")) == (1, 1)
    assert "ValueError: operands could not be broadcast together" in err
    monkeypatch.undo()
    monkeypatch.setattr("ensemble.table._objection", bug)
    with pytest.raises(ValueError, match="operands could not be broadcast together"):
        Table.from_npz((tmp_path / "t.npz").read_bytes(), "t.npz")


def test_bad_input_is_also_said_in_json(ofa):
    code, out, err = ofa("run", "nowhere.toml", "--json")
    assert code == 2
    assert json.loads(out) == {"event": "error", "message": err.removeprefix("ofa: ").strip(), "exit": 2}


def test_a_missing_bucket_and_wrong_keys_are_one_line(ofa, radosgw, monkeypatch):
    for name, value in radosgw.environment.items():
        monkeypatch.setenv(name, value)
    code, _, err = ofa("run", TINY, "--store", "s3://nowhere/x")
    assert (code, err.count("\n")) == (2, 1)
    assert "there is no bucket 'nowhere'" in err
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrongsecret")
    code, _, err = ofa("run", TINY, "--store", "s3://results/x")
    assert (code, err.count("\n")) == (2, 1)
    assert "the secret key is wrong" in err
    assert "wrongsecret" not in err


def test_a_failed_step_ends_with_1_and_an_unforeseen_error_with_a_hint(ofa, tmp_path, monkeypatch):
    from cluster.errors import StepError

    def full(*_, **__):
        raise StepError("no space left for x; free some")

    monkeypatch.setattr("jobs.cli.runs.run_steps", full)
    assert ofa("train", TINY, "--store", tmp_path)[::2] == (1, "ofa: no space left for x; free some\n")

    def bug(*_, **__):
        raise RuntimeError("oh\nno")

    monkeypatch.setattr("jobs.cli.runs.run_steps", bug)
    code, _, err = ofa("train", TINY, "--store", tmp_path)
    assert code == 1
    assert err == "ofa: RuntimeError: oh; OFA_TRACEBACK=1 shows where\n"
    monkeypatch.setenv("OFA_TRACEBACK", "1")
    assert "Traceback" in ofa("train", TINY, "--store", tmp_path)[2]


def test_ensembles_of_any_predictions_file(ofa, tmp_path):
    table = save_table(tmp_path, members=4)
    for rule in ("max", "sum"):
        code, out, _ = ofa("ensemble", "--predictions", tmp_path / "t.npz", "--cost", rule, "--algorithm", "default",
                           "--seed", 1, "--out", tmp_path / "out", "--json")  # fmt: skip
        assert code == 0
        assert json.loads(out)["event"] == "result"
        doc = json.loads((tmp_path / "out/ensembles.json").read_text())
        assert doc["cost"] == rule
        assert doc["unit"]
        for member in doc["members"]:
            cost = table.cost_M[member["members"]]
            assert member["cost"] == (cost.max() if rule == "max" else cost.sum())
            assert 0 <= member["top1"] <= 1


def test_the_version_is_that_of_done_records(ofa):
    from jobs.job import code_version

    assert ofa("--version") == (0, f"ofa-cluster {code_version()}\n", "")


def test_python_m_jobs_is_the_same_command():
    import subprocess

    done = subprocess.run([sys.executable, "-m", "jobs", "cost", "--space", "digits", "--arch", "x"], cwd=os.getcwd(),
                          capture_output=True, text=True, check=False)  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.startswith("ofa: 'x' is not the name of an arch")


@pytest.fixture
def published(reference):
    """The options that name the published problem: two devices' tables and a predictor."""
    folder = reference / "ofa"
    tables = f"phone={folder / 'note10_latency_lut_w1.2.json'}", f"cpu={folder / 'i7_8700k_latency_lut.yaml'}"
    options = ["--space", "ofa_mbv3_w1.2", "--predictor", folder / "ofa_acc_predictor_w1.2.npz"]
    return [*options, *(part for table in tables for part in ("--latency-table", table))]


def test_a_search_on_two_devices_gives_a_front_to_choose_from(ofa, published, tmp_path):
    code, _, err = ofa("search", *published, "--evaluations", 2000, "--population", 30, "--at-most", "latency_ms@phone=30",
                       "--out", tmp_path)  # fmt: skip
    assert code == 0, err
    members = json.loads((tmp_path / "front.json").read_text())["members"]
    assert 10 <= len(members) <= 30
    assert all(member["latencies_ms"]["phone"] <= 30 for member in members)
    [curve] = json.loads((tmp_path / "history.json").read_text())["searches"]
    assert (curve["evaluations"][-1], curve["between"]) == (2000, "not sampled")
    code, out, _ = ofa("choose", tmp_path / "front.json", "--latency-ms", "phone=25", "--latency-ms", "cpu=20", "--json")
    assert code == 0
    chosen = json.loads(out)["chosen"]
    fits = [m for m in members if m["latencies_ms"]["phone"] <= 25 and m["latencies_ms"]["cpu"] <= 20]
    assert chosen["top1"] == max(m["top1"] for m in fits)


def test_the_history_of_a_search_is_its_hypervolume_against_a_point_that_no_seed_changes(ofa, reference, tmp_path):
    folder, found = reference / "ofa", {}
    options = ["--space", "ofa_mbv3_w1.2", "--predictor", folder / "ofa_acc_predictor_w1.2.npz",
               "--latency-table", folder / "note10_latency_lut_w1.2.json", "--evaluations", 1500]  # fmt: skip
    for algorithm, seed in (("default", 1), ("random", 2)):
        out = tmp_path / algorithm
        code, _, err = ofa("search", *options, "--algorithm", algorithm, "--seed", seed, "--population", 1500, "--out", out)
        assert code == 0, err
        history = json.loads((out / "history.json").read_text())
        reference_point = [axis["reference"] for axis in history["objectives"]]
        points = [[-m["top1"], m["latency_ms"]] for m in json.loads((out / "front.json").read_text())["members"]]
        [curve] = history["searches"]
        whole = hypervolume(np.array(points), np.array([-reference_point[0], reference_point[1]]))
        assert curve["hypervolume"][-1] == pytest.approx(whole)
        assert (curve["algorithm"], curve["evaluations"][-1], curve["between"]) == (algorithm, 1500, "unchanged")
        found[algorithm] = reference_point, curve["hypervolume"][-1]
    assert found["default"][0] == found["random"][0]
    assert found["default"][1] > found["random"][1]


def test_targets_on_two_devices_are_kept_in_the_order_given(ofa, published, tmp_path):
    asked = "--latency-ms", "phone=20,30", "--latency-ms", "cpu=15"
    code, _, err = ofa("targets", *published, *asked, "--evaluations", 1500, "--out", tmp_path)
    assert code == 0, err
    first, second, third = json.loads((tmp_path / "targets.json").read_text())["members"]
    assert first["latencies_ms"]["phone"] <= 20
    assert second["latencies_ms"]["phone"] <= 30
    assert third["latencies_ms"]["cpu"] <= 15
    assert second["top1"] > first["top1"]


def test_targets_of_any_costs_are_kept_in_the_order_given(ofa, tmp_path):
    write_predictor(tmp_path / "p.npz")
    write_table(tmp_path / "t.json")
    asked = ["--space", "digits", "--classes", 10, "--predictor", tmp_path / "p.npz", "--latency-table",
             f"phone={tmp_path / 't.json'}", "--target", "params=9000,20000", "--target", "activation_bytes=10000",
             "--target", "latency_ms=0.1"]  # fmt: skip
    code, _, err = ofa("targets", *asked, "--evaluations", 500, "--out", tmp_path)
    assert code == 0, err
    members = Front.from_json(json.loads((tmp_path / "targets.json").read_text())).members
    space = get_space("digits")
    for member in members:
        graph = space.graph(member.arch, (), 10)
        assert member.extra == (("activation_bytes", peak_bytes(graph, member.arch.resolution)),)
        assert (member.macs, member.params) == cost(space, member.arch, 10)
    small, large, little, fast = members
    assert small.params <= 9000 and large.params <= 20000 and large.top1 > small.top1
    assert little.value("activation_bytes") <= 10000
    assert fast.latency_ms <= 0.1 and fast.device == "phone"


@pytest.mark.parametrize(
    ("target", "line"),
    [
        (["params"], "--target params: expected NAME=N,N,..., such as params=4e6,5e6"),
        (["params=x"], "--target params: 'x' is no number"),
        (["params=1", "params=2"], "--target params: is given twice"),
        (["energy_mj=1"], "'energy_mj' is no cost that is computed here; there are macs, params, activation_bytes, weight_"),
        (["latency_ms=1"], "latencies come with tables"),
        (["top1=1"], "'top1' is no cost"),
        (["params=1"], "no sub-network of digits with params at most 1 among"),
    ],
)
def test_targets_of_what_is_no_cost_are_one_line(ofa, tmp_path, target, line):
    write_predictor(tmp_path / "p.npz")
    options = [part for text in target for part in ("--target", text)]
    asked = "--space", "digits", "--predictor", tmp_path / "p.npz", "--evaluations", 100
    code, _, err = ofa("targets", *asked, *options, "--out", tmp_path / "out")
    assert (code, err.strip().count("\n")) == (2, 0), err
    assert line in err
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize(
    ("asked", "line"),
    [
        ([], "give --latency-ms with a table, or --macs without"),
        (["--macs", "1e8", "--target", "macs=1e8"], "give --latency-ms with a table"),
        (["--macs", "1e8"], "--macs 1e8: the costs here are --latency-ms phone=N,N,... --latency-ms cpu=N,N,..."),
        (["--latency-ms", "20"], "--latency-ms 20: the costs here are --latency-ms phone="),
        (["--latency-ms", "phone=20,fast"], "'fast' is no number"),
        (["--latency-ms", "phone=1", "--latency-ms", "cpu=15", "--evaluations", "200"], "latency_ms on phone"),
        (["--latency-ms", "phone=20"], "expected all but one of the problem's objectives"),
    ],
)
def test_targets_that_cannot_be_are_one_line(ofa, published, tmp_path, asked, line):
    code, _, err = ofa("targets", *published, *asked, "--out", tmp_path)
    assert code == 2
    assert line in err
    assert err.strip().count("\n") == 0
    assert not list(tmp_path.iterdir())


def test_a_published_algorithm_chooses_ensembles_of_a_table(ofa, tmp_path):
    rng = np.random.default_rng(0)
    probs = np.sort(rng.dirichlet(np.ones(3), (6, 200)), axis=2)[:, :, ::-1].astype(np.float32)
    classes = np.argsort(rng.random((6, 200, 3)), axis=2)
    table = Table(classes, probs, rng.integers(0, 3, 200), np.arange(1.0, 7))
    (tmp_path / "t.npz").write_bytes(table.to_npz())
    for algorithm in ("default", "nsga2"):
        code, _, err = ofa("ensemble", "--predictions", tmp_path / "t.npz", "--cost", "max", "--algorithm", algorithm,
                           "--evaluations", 60, "--seed", 3, "--out", tmp_path / algorithm)  # fmt: skip
        assert code == 0, err
    best = [json.loads((tmp_path / a / "ensembles.json").read_text())["members"][-1]["top1"] for a in ("default", "nsga2")]
    assert best[0] == best[1], "63 subsets, of which 60 are scored"


def test_results_compare_says_what_differs_between_two_runs_and_nothing_else(ofa, tiny_run, tmp_path):
    shutil.copytree(tiny_run.folder, tmp_path / "one")
    shutil.copytree(tiny_run.folder, tmp_path / "other")
    asked = ("results", "compare", "one", "other", "--store", tmp_path)
    assert ofa(*asked)[:2] == (0, "nothing differs\n")
    config = tmp_path / "other/config.toml"
    config.write_text(config.read_text().replace("evaluations = 80", "evaluations = 81"))
    record = json.loads((tmp_path / "other/search.done.json").read_text())
    (tmp_path / "other/search.done.json").write_text(json.dumps({**record, "evaluations": 81}))
    assert [json.loads(line) for line in ofa(*asked, "--json")[1].splitlines()] == [
        {"what": "search.evaluations", "one": 80, "other": 81},
        {"what": "search: evaluations", "one": record["evaluations"], "other": 81},
    ]


def test_a_front_that_is_none_is_one_line_with_its_path(ofa, tmp_path):
    (tmp_path / "front.json").write_text("{}")
    code, _, err = ofa("choose", tmp_path / "front.json", "--knee")
    assert code == 2
    assert err.startswith(f"ofa: {tmp_path / 'front.json'}: a front is")
    assert err.count("\n") == 1


def test_cost_takes_the_keys_of_nas_bench_macro_and_prints_them(ofa):
    """With the classes of its table, unless others are given."""
    at = ("cost", "--space", "nas_bench_macro")
    code, out, _ = ofa(*at, "--arch", "02012100")
    assert (code, out) == (0, "r32-d231-e16.136.300 (02012100): 47,327,744 MACs, 890,666 params, with 10 classes\n")
    assert "48,594,944 MACs, 2,158,856 params, with 1000 classes" in ofa(*at, "--arch", "02012100", "--classes", 1000)[1]
    [first, second] = [json.loads(ofa(*at, "--json", "--arch", key)[1]) for key in ("20001201", "20010210")]
    assert first == second and first["name"] == "20010210"
    assert ofa(*at, "--arch", json.dumps(first["arch"]), "--json")[1] == json.dumps(first) + "\n"
    code, _, err = ofa(*at, "--arch", "0201")
    assert (code, err) == (2, "ofa: '0201' is no key of nas_bench_macro; one has 8 digits from 0 to 2, such as 02012100\n")


def test_commands_of_a_run_take_the_names_of_its_space(ofa, tmp_path):
    phases = 'train.phases=[{name="a",epochs=1,lr=1}]'
    sets = [part for setting in ("space=nas_bench_macro", "choices={}", phases) for part in ("--set", setting)]
    code, _, err = ofa("export", TINY, "--store", tmp_path, "--arch", "0201", *sets)
    assert (code, err.count("\n")) == (2, 1) and "no key of nas_bench_macro" in err
