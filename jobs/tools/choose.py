"""Choose one member of a front by limits, the knee, weights or a direction, and report its trade-offs.

ofa choose runs/<id>/front.json --latency-ms 25
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from cluster.errors import InputError
from cluster.reading import read_json, read_json_lines, shortened
from jobs.tools.inputs import named_numbers, number
from ofa.arch import ArchError
from ofa.record import Measured
from search.choose import Choice, choose
from search.front import Front
from search.objective import LATENCY, MACS, OBJECTIVES, TOP1, Objective
from search.problem import Limit


def choose_from(
    path: str, latency_ms: Sequence[str], macs: float | None, top1: float | None, knee: bool, weights: str | None,
    direction: str | None, names: str | None = None,
) -> Choice:  # fmt: skip
    """The choice from a front.json, a targets.json, or a file of one measured record a line.

    names: the objectives, such as top1,macs,params; if not given, top-1 and latency, or MACs where no latency is known.
    Objectives that limits, weights and a direction name are added. Raises an `InputError` for one that members do not have.
    """
    members, path = _members(path), shortened(path)
    devices = _devices(members)
    objectives = [TOP1, *_costs(members, devices)] if names is None else [_named(name, members) for name in names.split(",")]
    limits = [_latency_limit(text, devices, path) for text in latency_ms]
    if (twice := next((o for i, o in enumerate(objectives) if o in objectives[:i]), None)) is not None:
        raise InputError(f"--objectives {names}: {twice.name} is given twice; give it once")
    if len({limit.objective for limit in limits}) < len(limits):
        raise InputError(f"--latency-ms {', '.join(latency_ms)}: give one limit" + " for each device" * bool(devices))
    if macs is not None:
        limits.append(Limit(MACS, macs))
        objectives = [*objectives, *([] if MACS in objectives else [MACS])]
    if top1 is not None:
        limits.append(Limit(TOP1, top1))
        objectives = [*objectives, *([] if TOP1 in objectives else [TOP1])]
    there = {spelling for o in objectives for spelling in _spellings(o)}
    for text, option in ((weights, "--weights"), (direction, "--direction")):
        more = [name for name in named_numbers(text, option) if name not in there] if text is not None else []
        objectives += [_named(name, members) for name in more if name in _known(members)]
    for limit in limits:
        if limit.objective not in objectives:
            raise InputError(f"{path}: its members have no {limit.objective.name}; choose by --macs, or search with a table")
    if top1 is not None and not (latency_ms or macs or knee or weights or direction):
        # top-1 is only a limit: the first of the others decides
        objectives = [*(o for o in objectives if o != TOP1), TOP1]
    by_name = {spelling: o.name for o in objectives for spelling in _spellings(o)}

    def numbers(text: str | None, where: str) -> dict[str, float] | None:
        return None if text is None else {by_name.get(k, k): v for k, v in named_numbers(text, where).items()}

    return choose(
        members,
        objectives,
        limits=limits,
        weights=numbers(weights, "--weights"),
        direction=numbers(direction, "--direction"),
        at_knee=knee,
    )


def to_json(choice: Choice) -> dict[str, Any]:
    """The choice as a JSON document."""
    return {
        "chosen": choice.member.to_json(),
        "reason": choice.reason,
        "gives_up": dict(choice.gives_up),
        "beside": [member.to_json() for member in choice.next],
    }


def words(choice: Choice) -> str:
    """The choice as text: the member, its trade-offs, and its neighbours on the front."""
    lines = [f"{choice.member.arch.key}", f"  {_described(choice.member)}", f"  chosen by {choice.reason}"]
    lines += [f"  gives up {lost:.4g} of the best {name}" for name, lost in choice.gives_up.items()]
    lines += [f"  beside it: {_described(member)}" for member in choice.next]
    return "\n".join(lines)


def _described(member: Measured) -> str:
    latencies = dict(member.latencies_ms) or ({member.device: member.latency_ms} if member.latency_ms is not None else {})
    timed = "".join(f", {ms:.2f} ms{f' on {device}' if device else ''}" for device, ms in latencies.items())
    more = "".join(f", {OBJECTIVES[n].text(v)} {OBJECTIVES[n].label}" if n in OBJECTIVES else "" for n, v in member.extra)
    return f"top-1 {member.top1:.4f}, {member.macs / 1e6:.1f}M MACs, {member.params / 1e6:.2f}M params{timed}{more}"


def _members(path: str) -> list[Measured]:
    expected, where = "a front.json, a targets.json or a measured.jsonl", shortened(path)
    try:
        if Path(path).suffix == ".jsonl":
            members = [Measured.from_json(doc) for doc in read_json_lines(path, expected)]
        else:
            members = list(Front.from_json(read_json(path, expected)).members)
    except ArchError as error:
        raise InputError(f"{where}: {error}; give {expected}") from None
    if not members:
        raise InputError(f"{where}: has no members; give {expected}")
    return members


def _devices(members: Sequence[Measured]) -> list[str]:
    """The devices whose latencies every member has; none where there is only one, which needs no name."""
    shared = [{device for device, _ in member.latencies_ms} for member in members]
    order = [device for device, _ in members[0].latencies_ms] if members else []
    return [device for device in order if all(device in known for known in shared)]


def _costs(members: Sequence[Measured], devices: Sequence[str]) -> list[Objective]:
    if devices:
        return [replace(LATENCY, device=device) for device in devices]
    return [LATENCY] if all(member.latency_ms is not None for member in members) else [MACS]


def _known(members: Sequence[Measured]) -> dict[str, Objective]:
    """The objectives of which every member has a value, by name."""
    devices = _devices(members) or [device for device in {member.device for member in members} if device]
    there = {**OBJECTIVES, **{o.key: o for o in (replace(LATENCY, device=device) for device in devices)}}
    there |= {spelling: o for o in list(there.values()) for spelling in _spellings(o)}
    return {name: o for name, o in there.items() if all(o.known(member) is not None for member in members)}


def _spellings(objective: Objective) -> tuple[str, str]:
    """The names of an objective in options: `latency_ms.phone` or `latency_ms@phone`."""
    return objective.key, objective.key.replace(".", "@", 1)


def _named(name: str, members: Sequence[Measured]) -> Objective:
    known = _known(members)
    if name not in known:
        there = ", ".join(dict.fromkeys(objective.key for objective in known.values()))
        raise InputError(f"no objective of these members is called {name!r}; they have {there}")
    return known[name]


def _latency_limit(text: str, devices: Sequence[str], path: str) -> Limit:
    device, _, value = text.rpartition("=")
    if bool(device) != bool(devices) or (device and device not in devices):
        form = f"DEVICE=MS with DEVICE one of {', '.join(devices)}" if devices else "a number of milliseconds"
        raise InputError(f"--latency-ms {text}: {path} needs {form}")
    return Limit(replace(LATENCY, device=device) if device else LATENCY, number(value, "--latency-ms"))
