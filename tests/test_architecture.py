"""Imports go down only, without circles, and foreign libraries stay in their rooms; `import` statements are read as text."""

import ast
import re
import subprocess
import sys
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

# Of each package its rooms, lowest first: a folder, or files beside the folders; a room imports itself and those before it.
# A file of a folder that stands in a room by name is not in the folder's room.
ROOMS = {
    "ofa": (
        "checks arch layout compiled documents npz graph space genes cost record timings exits sharing",
        "parts/ memory",
        "spaces/",
        "layers/",
        "norms supernet extract sorting images decode evaluate batches latency energy meters threads export int8 "
        "preprocessing published",
        "phases draws losses teacher train",
    ),
    "cluster": (
        "errors texts reading config seeds progress",
        "stores/",
        "records address store run attempts checkpoint",
        "runtime/",
        "kube/",
        "driver",
    ),
    "search": (
        "errors objective front selection",
        "costs/",
        "problem choose history",
        "algorithms/",
        "predicted targets",
        "predict/",
        "islands/",
        "adapt/",
        "measured asynchronous",
    ),
    "ensemble": (
        "errors table assemble lanes kernels matrix score",
        "calibrate vote rule document",
        "subsets evolve select exit_subsets cascade",
        "intervals gains",
        "network",
    ),
    "jobs": (
        "images/",
        "files settings config trials",
        "images/dataset images/streaming",
        "workers/",
        "operate/",
        "job",
        "costs batches evaluators exits tensorboard",
        "train adapt measure fit search validate predict ensemble report export",
        "pipeline",
        "tools/",
        "cli/",
        "__main__",
    ),
}
# What each package may import of others: rooms of ofa that load no torch, or everything.
LIGHT = ROOMS["ofa"][:3]
BELOW = {
    "ofa": {},
    "cluster": {},
    "search": {"ofa": LIGHT},
    "ensemble": {"ofa": LIGHT},
    "jobs": {name: ROOMS[name] for name in ("ofa", "cluster", "search", "ensemble")},
}
# One file of ensemble is about networks, not tables.
ABOUT_NETWORKS = "ensemble.network"
# Where each library may be imported: files, or folders with a slash.
AT_HOME = {
    "ray": ("cluster/runtime/",),
    "horovod": ("cluster/runtime/",),
    "starlette": ("cluster/runtime/",),
    "boto3": ("cluster/stores/",),
    "botocore": ("cluster/stores/",),
    "google": ("cluster/stores/",),
    "kubernetes": ("cluster/kube/",),
    "jsonschema": ("cluster/kube/",),
    "torch": (
        *(f"ofa/{name}" if name.endswith("/") else f"ofa/{name}.py" for room in ROOMS["ofa"][3:] for name in room.split()),
        *("ensemble/matrix.py", "ensemble/network.py", "cluster/runtime/"),
        "ensemble/vote.py",  # for annotations
        *("jobs/images/", "jobs/workers/", "jobs/tools/", "jobs/evaluators.py"),
        "jobs/export.py",
    ),
    "onnxruntime": ("ofa/export.py", "ofa/int8.py", "jobs/tools/time_parts.py"),
    "executorch": ("ofa/export.py",),
    "safetensors": ("ofa/export.py", "jobs/"),
    "llvmlite": ("ensemble/lanes.py",),
    "numba": ("ofa/compiled.py", "ensemble/lanes.py"),
    "PIL": ("ofa/decode.py", "jobs/images/"),
    "optuna": ("search/islands/", "cluster/runtime/tuning.py"),
    "sklearn": ("search/predict/", "jobs/images/"),
    "scipy": ("search/adapt/", "search/algorithms/", "search/predict/", "ensemble/"),
    "pyarrow": ("jobs/images/",),
    "plotly": ("jobs/report.py",),
    "typer": ("jobs/cli/",),
    "rich": ("cluster/progress.py", "jobs/cli/"),
    "pydantic": ("cluster/config.py", "cluster/records.py", "jobs/config.py"),
    "tomli_w": ("cluster/config.py",),
}


def files(package=""):
    return [path for name in ROOMS for path in sorted((ROOT / name).rglob("*.py")) if name == (package or name)]


def name_of(path):
    """The module of a file: `ofa.spaces` of ofa/spaces/__init__.py."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(path): path for path in files()}


def imports(tree, *, types=True):
    """The modules that a syntax tree imports, wherever in it; without `types` not those for annotations alone."""
    skipped = set()
    for node in ast.walk(tree):
        if not types and isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
            skipped.update(id(inner) for statement in node.body for inner in ast.walk(statement))
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"relative import of {node.module}"
            names = {alias.name: f"{node.module}.{alias.name}" for alias in node.names}
            yield from {names[name] if names[name] in MODULES else node.module for name in names}


@cache
def imported(path, *, types=True):
    return set(imports(ast.parse(path.read_text(encoding="utf-8")), types=types))


def room_of(module):
    """The package of a module of ours, and the place of its room in it; packages themselves belong to all their rooms."""
    package, *rest = module.split(".")
    if not rest:
        return package, -1
    place_of = {name: place for place, room in enumerate(ROOMS[package]) for name in room.split()}
    names = ("/".join(rest), f"{rest[0]}/" if (ROOT / package / rest[0]).is_dir() else rest[0])
    found = next((place_of[name] for name in names if name in place_of), None)
    assert found is not None, f"{module}: is in no room of ROOMS; give it the one where it belongs"
    return package, found


def objection(module, other):
    """Why `module` may not import `other`, both ours; None if it may."""
    (package, room), (theirs, below) = room_of(module), room_of(other)
    if package == theirs:
        return f"its room is above, {ROOMS[package][below]!r}" if below > room else None
    allowed = ROOMS["ofa"] if (module, theirs) == (ABOUT_NETWORKS, "ofa") else BELOW[package].get(theirs, ())
    if below >= 0 and ROOMS[theirs][below] not in allowed:
        return f"{package} may use of {theirs} {', '.join(allowed) or 'nothing'}"
    return None if below >= 0 or allowed else f"{package} does not use {theirs}"


def ours(modules):
    return sorted(module for module in modules if module.split(".")[0] in ROOMS)


@pytest.mark.parametrize("package", ROOMS)
def test_rooms_import_rooms_below_only(package):
    wrong = {(module, other): objection(module, other)
             for module, path in MODULES.items() if module.split(".")[0] == package
             for other in ours(imported(path)) if objection(module, other)}  # fmt: skip
    assert wrong == {}


def test_rooms_are_those_that_are_there():
    named = {f"{package}.{name}" for package, rooms in ROOMS.items() for room in rooms for name in room.split()}
    there = {name for name in named if (ROOT / name.replace(".", "/", 1)).is_dir() or name.replace("/", ".") in MODULES}
    assert named - there == set()


def circle(uses):
    """The modules of one circle of imports, if there is any."""
    done, path = set(), []

    def visit(module):
        if module in path:
            return [*path[path.index(module) :], module]
        if module in done:
            return None
        path.append(module)
        found = next((found for other in sorted(uses[module]) if (found := visit(other))), None)
        path.pop()
        done.add(module)
        return found

    return next((found for module in sorted(uses) if (found := visit(module))), None)


def test_no_modules_import_each_other_in_a_circle_not_even_within_functions():
    assert circle({module: set(ours(imported(path, types=False))) for module, path in MODULES.items()}) is None


def test_a_circle_is_found():
    tree = ast.parse("import ofa.arch\nif TYPE_CHECKING:\n    import ofa.genes\ndef f():\n    from ofa import npz")
    assert set(imports(tree, types=False)) == {"ofa.arch", "ofa.npz"}
    assert circle({"a": {"b", "c"}, "b": {"d"}, "c": {"d"}, "d": set()}) is None
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c", "b"]


def test_a_room_that_is_too_low_is_found():
    assert objection("cluster.store", "cluster.driver")
    assert objection("search.front", "ofa.supernet")
    assert objection("ofa.arch", "cluster.errors")
    assert objection("cluster.seeds", "jobs.config")
    assert objection("jobs.train", "ofa.supernet") is None


def test_libraries_stay_in_their_rooms():
    for path in files():
        where = path.relative_to(ROOT).as_posix()
        for module in imported(path):
            homes = AT_HOME.get(module.split(".")[0])
            assert homes is None or where.startswith(homes), f"{where} imports {module}"


@pytest.mark.parametrize("library", AT_HOME)
def test_every_home_of_a_library_uses_it(library):
    users = [path.relative_to(ROOT).as_posix() for path in files()
             if library in {module.split(".")[0] for module in imported(path)}]  # fmt: skip
    folders = [home for home in AT_HOME[library] if home.endswith("/")]
    unused = {f"{library} in {home}" for home in folders if not any(user.startswith(home) for user in users)}
    assert unused == set()


def test_package_files_are_empty_but_the_one_that_finds_spaces():
    assert [path for path in files() if path.name == "__init__.py" and path.read_text()] == [ROOT / "ofa/spaces/__init__.py"]


def loaded_by(code):
    """The top names of all modules in a new interpreter after `code`."""
    code = f"import sys\n{code}\nprint(*sorted({{name.partition('.')[0] for name in sys.modules}}))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(done.stdout.splitlines()[-1].split())


def test_light_rooms_load_no_torch_and_searches_no_ray():
    light = [module for module in MODULES if module.split(".")[0] == "ofa" and room_of(module)[1] < len(LIGHT)]
    assert "ofa.cost" in light
    assert not {"torch", "ray", "pandas"} & loaded_by(f"import {', '.join(light)}")
    others = [module for module in MODULES if module.split(".")[0] in ("search", "ensemble")]
    others = [module for module in others if module not in ("ensemble.matrix", ABOUT_NETWORKS)]
    assert not {"torch", "ray", "boto3"} & loaded_by(f"import {', '.join(others)}")


def test_an_evaluator_loads_nothing_of_ray_data():
    """There are many of them, and pandas alone is 100 MB."""
    loaded = loaded_by("import jobs.workers.evaluator, jobs.workers.trainer")
    assert "torch" in loaded
    assert not {"pandas", "pyarrow", "scipy"} & loaded


def test_every_step_of_the_pipeline_is_a_file_of_the_steps_room():
    from jobs.pipeline import STEPS

    steps = next(room for room in ROOMS["jobs"] if "train" in room.split()).split()
    assert sorted(module for module, _ in STEPS.values()) == sorted(f"jobs.{name}" for name in steps)
    for module, function in STEPS.values():
        assert any(isinstance(node, ast.FunctionDef) and node.name == function
                   for node in ast.parse(MODULES[module].read_text()).body), f"{module}.{function}"  # fmt: skip


def test_nothing_is_unpickled_and_no_global_seed_is_set():
    unpickling = (
        r"import pickle|pickle\.load|cloudpickle|allow_pickle=True|joblib|shelve"
        r"|(?<!safetensors\.)torch\.load\((?!.*weights_only=True\)$)"  # which refuses everything but tensors
    )
    seeding = r"random\.seed\(|(?<!Generator\(\)\.)manual_seed\(|manual_seed_all\("
    for path in files():
        assert not re.search(f"{unpickling}|{seeding}", path.read_text(), re.MULTILINE), path


@cache
def installed():
    """Of every top module that can be imported, the distributions that it is from."""
    return {top: {dist.replace("_", "-").lower() for dist in dists} for top, dists in packages_distributions().items()}


def dependencies():
    """Of each dependency in pyproject.toml: its name, and the comment beside it."""
    section = re.findall(r"^(?:dependencies|dev) = \[\n(.*?)^\]", (ROOT / "pyproject.toml").read_text(), re.M | re.S)
    return re.findall(r'^ +"([\w-]+)[^"]*", *(?:# (.*))?$', "\n".join(section), re.M)


def mistake(name, comment):
    """What is wrong with a dependency's comment; None if nothing is.

    It names files or folders that import the package, or "LIBRARY imports it for FILE" where the file uses that library; a
    file that is not Python has the package's name in it.
    """
    through = re.match(r"([\w.]+) imports it for ", comment)
    tops = [name.replace("-", "_"), *(top for top, dists in installed().items() if name in dists)]
    words = [word.strip(",:;()") for word in comment.split()]
    named = [word for word in words if "/" in word or (ROOT / word).is_file()]
    for word in named:
        path = ROOT / word
        if not path.exists():
            return f"{word} is not there"
        if through:
            pattern = rf"\b{re.escape(through[1])}\b"
        elif path.is_dir() or path.suffix == ".py":
            pattern = rf"^\s*(import|from) ({'|'.join(map(re.escape, tops))})\b"
        else:
            pattern = rf"\b{re.escape(name)}\b"
        texts = (file.read_text() for file in (path.rglob("*.py") if path.is_dir() else [path]))
        if not any(re.search(pattern, text, re.M) for text in texts):
            return f"{word} does not use {through[1] if through else name}"
    return None if named else "names no file"


def test_every_dependency_names_files_that_import_it():
    found = dependencies()
    assert len(found) > 30
    assert {name: wrong for name, comment in found if (wrong := mistake(name, comment))} == {}


def test_a_dependency_comment_that_names_another_file_is_found():
    assert mistake("optuna", "search/front.py") == "search/front.py does not use optuna"
    assert mistake("pillow", "ofa/decode.py") is None
    assert mistake("onnx", "torch.onnx imports it for search/front.py") == "search/front.py does not use torch.onnx"
    assert mistake("numpy", "") == "names no file"
    assert mistake("numpy", "search/nowhere.py") == "search/nowhere.py is not there"


def test_tests_lie_where_what_they_test_lies():
    """Below the name of a package every folder of tests is a room of it; imitations and other kits have no tests."""
    folders = {path.parent.relative_to(ROOT / "tests") for path in (ROOT / "tests").rglob("test_*.py")}
    assert {folder.parts[0] for folder in folders if folder.parts} == {*ROOMS, "bench", "k8s"}
    assert [str(folder) for folder in folders if not (ROOT / folder).is_dir()] == []


def test_json_is_written_by_one_function_which_refuses_nan():
    """`cluster.texts.json_text`; elsewhere `json.dumps` has allow_nan=False. The lint only compares documents."""
    loose = []
    for path in files():
        for node in ast.walk(ast.parse(path.read_text())):
            call = isinstance(node, ast.Call) and ast.unparse(node.func) in ("json.dumps", "json.dump")
            if call and not any(k.arg == "allow_nan" and ast.unparse(k.value) == "False" for k in node.keywords):
                loose.append(str(path.relative_to(ROOT)))
    assert set(loose) <= {"cluster/kube/lint.py"}
