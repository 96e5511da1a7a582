"""A predicted search's problem from files: a space's name, latency tables, and an accuracy predictor."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from cluster.errors import InputError
from cluster.reading import read_bytes, read_json_or_yaml, shortened
from ofa.arch import SCALARS, Arch
from ofa.genes import Genes
from ofa.record import Measured
from ofa.space import Space
from ofa.spaces import get_space
from search.costs.devices import MEMORY
from search.costs.exact import CostTable
from search.costs.latency import LatencyTable, TableLatency
from search.objective import LATENCY, MACS, OBJECTIVES, PARAMS, TOP1, Column, Objective, objective_named
from search.predict.predictor import Predictor
from search.predict.published import PublishedPredictor, is_published
from search.problem import Limit, Problem, Term


@dataclass(frozen=True)
class Loaded:
    """A problem, and the functions that describe its archs: latency (ms) by device, exact costs."""

    problem: Problem
    latencies: dict[str, TableLatency]
    costs: CostTable

    def measured(self, archs: Sequence[Arch]) -> tuple[Measured, ...]:
        """The records of archs with predicted values, in the order of `archs`."""
        genes_BG = Genes(self.problem.space).encode(archs)
        top1_B = self.problem.terms[0].values(genes_BG)
        macs_B, params_B = self.costs(genes_BG)
        ms = {device: table(genes_BG) for device, table in self.latencies.items()}
        others = [t for t in self.problem.terms if t.objective.field in MEMORY]
        extra = {t.objective.field: t.values(genes_BG) for t in others}
        members = []
        for i, arch in enumerate(archs):
            more = tuple((name, float(values_B[i])) for name, values_B in extra.items())
            member = Measured(arch, float(top1_B[i]), int(macs_B[i]), int(params_B[i]), extra=more)
            if ms:
                known = tuple((device, float(ms_B[i])) for device, ms_B in ms.items())
                member = replace(
                    member, latency_ms=known[0][1], device=known[0][0], latencies_ms=known if len(known) > 1 else ()
                )
            members.append(member)
        return tuple(members)


def tables_of(texts: Sequence[str]) -> dict[str, LatencyTable]:
    """Latency tables by device, each given as NAME=FILE, or as FILE alone, whose name is then that of the device."""
    found: dict[str, LatencyTable] = {}
    for text in texts:
        name, _, path = text.rpartition("=")
        device = name or Path(path).name.split(".")[0]
        if device in found:
            raise InputError(f"--latency-table: two tables are both called {device}; name them: --latency-table NAME=FILE")
        found[device] = LatencyTable.parse(read_json_or_yaml(path, "a latency table"), shortened(path))
    return found


def load(space_name: str, tables: Sequence[str], predictor: str, at_most: Sequence[str], at_least: Sequence[str],
         fixed: Sequence[str], classes: int = 1000, costs_of: Sequence[str] = ()) -> Loaded:  # fmt: skip
    """The problem of a command line.

    Objectives are the predictor's top-1, and the costs named in `costs_of`; if none are named, the latency on the device of
    each table, or MACs without a table. The space is restricted to the resolutions that every file has; a run's own
    predictor also brings the run's choices.
    """
    space, data = get_space(space_name), read_bytes(predictor, "a predictor of top-1")
    devices = tables_of(tables)
    where, published = shortened(predictor), is_published(data)
    if not published:
        space = Predictor.fitted_space(data, space, where)
    known = [set(table.resolutions(space)) for table in devices.values()]
    if published:
        known.append(set(PublishedPredictor.resolutions(data, space, where)))
    resolutions = set(space.resolutions).intersection(*known)
    if not resolutions:
        raise InputError(f"no resolution of {space.name} is in all of {', '.join(map(shortened, [*tables, predictor]))}")
    space = space.only(resolutions=sorted(resolutions))
    column: Column
    if published:
        column = PublishedPredictor(data, space, where).predict
    else:
        column = Predictor.from_npz(data, space, "top1", where).predict
    _must_be_fractions(column, space, where)
    costs = CostTable(space, classes)
    latencies = {device: TableLatency(table, space) for device, table in devices.items()}
    by_name = _costs(space, costs, latencies, classes)
    named = [_named_cost(name, by_name) for name in costs_of] or [_latency_key(device) for device in latencies] or [MACS.key]
    if len(set(named)) < len(named):
        raise InputError(f"of {', '.join(costs_of)} two are the same cost; give each once")
    terms = [Term(TOP1, column, exact=False), *(by_name[name]() for name in named)]
    objectives = [term.objective for term in terms]
    limits = [_limit(text, objectives, "minimize", "--at-most") for text in at_most]
    limits += [_limit(text, objectives, "maximize", "--at-least") for text in at_least]
    for option, texts in (("--at-most", at_most), ("--at-least", at_least), ("--fix", fixed)):
        names = [text.rpartition("=")[0].strip() for text in texts]
        if (twice := next((name for i, name in enumerate(names) if name in names[:i]), None)) is not None:
            raise InputError(f"{option} {twice}: is given twice; give it once")
    pinned = dict(_pinned(text, Genes(space)) for text in fixed)
    return Loaded(Problem(space, tuple(terms), tuple(limits), pinned), latencies, costs)


def _costs(
    space: Space, costs: CostTable, latencies: Mapping[str, TableLatency], classes: int
) -> dict[str, Callable[[], Term]]:
    """The costs that are computed exactly, by name: functions that make them."""
    found: dict[str, Callable[[], Term]] = {}
    for device, latency in latencies.items():
        objective = replace(LATENCY, device=device) if len(latencies) > 1 else LATENCY
        found[_latency_key(device)] = partial(Term, objective, latency, exact=True)
    for m, objective in enumerate((MACS, PARAMS)):
        found[objective.key] = partial(Term, objective, partial(_exact, costs, m), exact=True)
    for name, cost in MEMORY.items():
        found[name] = partial(_memory, OBJECTIVES[name], cost(classes), space)
    return found


def _memory(objective: Objective, cost: Callable[[Space], Column], space: Space) -> Term:
    return Term(objective, cost(space), exact=True)


def _exact(costs: CostTable, which: int, genes_BG: np.ndarray) -> np.ndarray:
    return costs(genes_BG)[which].astype(np.float64)


def _latency_key(device: str) -> str:
    return replace(LATENCY, device=device).key


def _named_cost(name: str, known: Mapping[str, object]) -> str:
    """The key of a cost by its name: `latency_ms` is that of the only device."""
    devices = [key for key in known if key.startswith(f"{LATENCY.field}.")]
    objective = objective_named(name)
    key = objective.key if objective is not None else name
    if key == LATENCY.key and len(devices) == 1:
        return devices[0]
    if key not in known:
        raise InputError(
            f"{shortened(repr(name))} is no cost that is computed here; there are {', '.join(known)}; latencies come with "
            "tables"
        )
    return key


def _must_be_fractions(column: Column, space: Space, where: str) -> None:
    """Raises an `InputError` if the predictions for the smallest and the largest network cannot be top-1."""
    with np.errstate(all="ignore"):
        predicted = column(Genes(space).encode([space.smallest(), space.largest()]))
    for which, value in zip(("smallest", "largest"), predicted.tolist(), strict=True):
        if not -math.inf < value <= 1:
            raise InputError(f"{where}: predicts {value:g} for the {which} network; expected top-1, a fraction of at most 1")


def number(text: str, where: str) -> float:
    """`text` as a finite number; raises an `InputError` that starts with `where` for any other text."""
    try:
        value = float(text)
    except ValueError:
        raise InputError(f"{where}: {shortened(repr(text))} is no number") from None
    if not math.isfinite(value):
        raise InputError(f"{where}: {text} is no finite number")
    return value


def named_numbers(text: str, where: str) -> dict[str, float]:
    """`top1=1,latency_ms=2` as a mapping."""
    found: dict[str, float] = {}
    for part in text.split(","):
        name, equals, value = part.rpartition("=")
        if not equals:
            raise InputError(f"{where}: found {part!r}; expected NAME=NUMBER, such as latency_ms=1")
        if name.strip() in found:
            raise InputError(f"{where}: {name.strip()} is given twice; give it once")
        found[name.strip()] = number(value, f"{where} {name.strip()}")
    return found


def _limit(text: str, objectives: Sequence[Objective], direction: str, where: str) -> Limit:
    name, equals, value = text.rpartition("=")
    by_name = {objective.name.replace(" on ", "@"): objective for objective in objectives}
    if not equals or name not in by_name:
        raise InputError(f"{where} {text}: expected one of {', '.join(by_name)} and a number, such as latency_ms=25")
    if by_name[name].direction != direction:
        other = "--at-least" if where == "--at-most" else "--at-most"
        raise InputError(f"{where} {text}: of {name} {'more' if direction == 'minimize' else 'less'} is better; use {other}")
    return Limit(by_name[name], number(value, where))


def _pinned(text: str, genes: Genes) -> tuple[int, int]:
    """`resolution=192` or `depth.2=4` as the index of a gene and of its choice."""
    fields = {field: range(len(genes.sizes_G))[where] for field, where in genes.forest.fields.items()}
    name, _, value = text.partition("=")
    field, _, place = name.partition(".")
    here = fields.get(field, range(0))
    if name in SCALARS and name in fields:
        gene = here[0]
    elif field not in SCALARS and place in map(str, range(len(here))):
        gene = here[int(place)]
    else:
        single = "".join(f"{f}=, " for f in fields if f in SCALARS)
        there = [f"{f}.0 to {f}.{len(where) - 1}" for f, where in fields.items() if f not in SCALARS]
        raise InputError(f"--fix {text}: expected {single}or one of {', '.join(there)} and a value, such as depth.0=3")
    wanted, choices = number(value, f"--fix {text}"), list(genes.choices[gene])
    if wanted not in choices:
        raise InputError(f"--fix {text}: {name} may be {', '.join(f'{c:g}' for c in choices)}")
    return gene, choices.index(wanted)
