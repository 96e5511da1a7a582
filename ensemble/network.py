"""Ensembles of networks and cascades of exits as torch modules with the predictions that were scored, and as files.

Shape letters in this file: N images, C classes, S side in pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from ensemble.cascade import Cascade
from ensemble.errors import SelectionError
from ensemble.vote import VOTES
from ofa.arch import Arch, ArchError
from ofa.documents import Document
from ofa.export import Description, Input, described, extracted, file_of, filled
from ofa.extract import PlainNet
from ofa.graph import IMAGES
from ofa.images import Scale, resize
from ofa.sharing import Computations


@dataclass(frozen=True, slots=True, kw_only=True)
class Combination(Document):
    """The settings of a vote: the same as for the table that the ensemble was scored on.

    vote: a name in `VOTES`. keep: the number of most probable classes kept of a member's prediction; 0 keeps all. weights:
    of the members' votes; () means equal weights. temperatures: of the members; () means 1 for all.
    """

    vote: str = "soft"
    keep: int = 0
    weights: tuple[float, ...] = ()
    temperatures: tuple[float, ...] = ()

    def votes(self, logits_NC: Tensor, member: int) -> Tensor:
        """The term of a member with these logits in the sum over all members: [N, C]."""
        probs, vote = logits_NC.softmax(1), VOTES[self.vote]
        if self.keep:
            kept = probs.topk(self.keep, dim=1)
            probs = torch.zeros_like(probs).scatter(1, kept.indices, kept.values)
        if self.temperatures and not vote.ordinal:  # the classes that were not kept are together one more class
            rest = (1 - probs.sum(1, keepdim=True)).clamp_min(0)
            power = 1 / self.temperatures[member]
            probs = probs**power / ((probs**power).sum(1, keepdim=True) + rest**power)
        votes = vote.of_network(probs)
        return votes * self.weights[member] if self.weights else votes


SOFT = Combination()


@dataclass(frozen=True, slots=True)
class _Step:
    """A computation: the member and node that do it, its number and those of its inputs, and the inputs of no later step."""

    member: int
    name: str
    number: int
    inputs: tuple[int, ...]
    done: tuple[int, ...]


def _steps(members: Sequence[PlainNet], known: Sequence[dict[str, int]], answers: Sequence[int]) -> list[_Step]:
    """Every computation of the members once, each after its inputs. known: the numbers of each member's nodes."""
    found: dict[int, _Step] = {}
    for index, (member, numbers) in enumerate(zip(members, known, strict=True)):
        for node in member.graph.nodes:
            inputs = tuple(numbers[name] for name in node.inputs)
            found.setdefault(numbers[node.name], _Step(index, node.name, numbers[node.name], inputs, ()))
    seen, steps = set(answers), []
    for step in reversed(found.values()):
        steps.append(replace(step, done=tuple(number for number in dict.fromkeys(step.inputs) if number not in seen)))
        seen.update(step.inputs)
    return steps[::-1]


class EnsembleNetwork(nn.Module):
    """Several networks as one: from images of one size to the mean (with weights the sum) of the members' votes.

    The prediction is the argmax. Images are resized to each member's own resolution. Members are branches of one graph,
    which may run in parallel; what several have in common (`ofa.sharing`) is computed once.
    """

    def __init__(self, members: Sequence[PlainNet], resolutions: Sequence[int], combination: Combination = SOFT) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)
        self.resolutions = list(resolutions)
        self.combination = combination
        same = Computations()
        known = [same.of(member.graph, side) for member, side in zip(members, resolutions, strict=True)]
        self._images = [numbers[IMAGES] for numbers in known]
        self._answers = [numbers[member.graph.outputs[0]] for member, numbers in zip(members, known, strict=True)]
        self._steps = _steps(members, known, self._answers)

    def forward(self, images: Tensor) -> Tensor:
        """The combined votes [N, C] for images [N, 3, S, S]."""
        held = {
            number: resize(images, side) for number, side in dict(zip(self._images, self.resolutions, strict=True)).items()
        }
        for step in self._steps:
            first, *others = step.inputs
            x = held[first]
            for number in others:
                x = x + held[number]
            for number in step.done:
                del held[number]
            held[step.number] = self.members[step.member].part(step.name)(x)  # type: ignore[operator]
        votes = torch.stack([self.combination.votes(held[number], m) for m, number in enumerate(self._answers)])
        return votes.sum(0) if self.combination.weights else votes.mean(0)

    def votes(self, member: int, images: Tensor) -> Tensor:
        """One member's term of the sum: [N, C]."""
        logits = self.members[member](resize(images, self.resolutions[member]))
        return self.combination.votes(logits, member)


class CascadeNetwork(nn.Module):
    """A network with several exits that an image leaves at the first one that is confident enough (`ensemble.cascade`).

    Layers past the exit of an image are not computed for it. thresholds: of every exit but the last.
    """

    def __init__(self, network: PlainNet, thresholds: Sequence[float]) -> None:
        super().__init__()
        if len(thresholds) + 1 != len(network.graph.outputs):
            raise ArchError(f"cascade: {len(thresholds)} thresholds and {len(network.graph.outputs)} exits; "
                            "give one for each but the last")  # fmt: skip
        self.network = network
        self.cascade = Cascade(tuple(thresholds))

    def forward(self, images: Tensor) -> Tensor:
        """The probabilities [N, C] of images [N, 3, S, S], each at the exit that it leaves by."""
        return self.leave(images)[0]

    def leave(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """The probabilities [N, C], and the place among the network's exits that each image leaves by: int64 [N]."""
        graph = self.network.graph
        held, rows = {IMAGES: images}, torch.arange(len(images), device=images.device)
        exits = torch.zeros(len(images), dtype=torch.int64, device=images.device)
        probs: list[tuple[Tensor, Tensor]] = []
        for node, done in zip(graph.nodes, graph.last_uses, strict=True):
            x = held[node.inputs[0]]
            for name in node.inputs[1:]:
                x = x + held[name]
            for name in done:
                del held[name]
            y = self.network.part(node.name)(x)
            if node.name not in graph.outputs:
                held[node.name] = y
                continue
            place, found = graph.outputs.index(node.name), y.softmax(1)
            leaves = torch.ones(len(found), dtype=torch.bool, device=found.device)
            if place < len(self.cascade.thresholds):
                leaves = found.max(1).values > self.cascade.thresholds[place]
            exits[rows[leaves]] = place
            probs.append((rows[leaves], found[leaves]))
            rows = rows[~leaves]
            if not len(rows):
                break
            held = {name: one[~leaves] for name, one in held.items()}
        order = torch.cat([left for left, _ in probs]).argsort()
        return torch.cat([found for _, found in probs])[order], exits


@dataclass(frozen=True, slots=True, kw_only=True)
class CascadeDescription(Description):
    """The description of an exported cascade: that of its network, and the threshold of every exit but the last."""

    thresholds: tuple[float, ...]

    @classmethod
    def of_exits(
        cls, space: str, classes: int, arch: Arch, scale: Scale, exits: tuple[int, ...], thresholds: tuple[float, ...]
    ) -> CascadeDescription:
        """The description of a sub-network with these exits."""
        return cls(
            space=space,
            classes=classes,
            archs=(arch,),
            input=Input.of(scale, arch.resolution),
            output="probabilities",
            exits=exits,
            thresholds=thresholds,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class EnsembleDescription(Description):
    """The description of an exported ensemble: that of its networks, and how they are combined."""

    combination: Combination

    @classmethod
    def of_members(
        cls, space: str, classes: int, archs: Sequence[Arch], scale: Scale, resolution: int, combination: Combination
    ) -> EnsembleDescription:
        """The description of an ensemble of these sub-networks; resolution: of the input images, in pixels."""
        taken = Input.of(scale, resolution)
        return cls(
            space=space, classes=classes, archs=tuple(archs), input=taken, output="probabilities", combination=combination
        )


def from_safetensors(path: str) -> tuple[nn.Module, Description]:
    """The network, ensemble or cascade in a file of `ofa.export.to_safetensors`, in evaluation mode; else an `ArchError`."""
    doc, tensors = file_of(path)
    keys = doc if isinstance(doc, dict) else {}
    make = _cascade if "thresholds" in keys else _ensemble if "combination" in keys else _single
    network, description = make(doc, tensors, path)
    return filled(network, tensors, path), description


def _single(doc: Any, tensors: dict[str, Tensor], path: str) -> tuple[nn.Module, Description]:
    description = described(Description, doc, tensors, path)
    [network] = extracted(description)
    return network, description


def _ensemble(doc: Any, tensors: dict[str, Tensor], path: str) -> tuple[nn.Module, Description]:
    description = described(EnsembleDescription, doc, tensors, path)
    if (vote := description.combination.vote) not in VOTES:
        raise ArchError(f"{path}: its members vote by {vote!r}; there are {', '.join(VOTES)}")
    rule, members = description.combination, len(description.archs)
    wrong = [
        (not members, "has no members"),
        (len(rule.weights) not in (0, members), f"has {len(rule.weights)} weights for {members} members"),
        (len(rule.temperatures) not in (0, members), f"has {len(rule.temperatures)} temperatures for {members} members"),
        (min(rule.temperatures, default=1) <= 0, f"has a temperature of {min(rule.temperatures, default=1):g}"),
        (not 0 <= rule.keep <= description.classes, f"keeps {rule.keep} of {description.classes} classes"),
    ]
    if reason := next((reason for holds, reason in wrong if holds), None):
        raise ArchError(f"{path}: {reason}; this is no exported ensemble: `ofa export` makes them")
    resolutions = [arch.resolution for arch in description.archs]
    return EnsembleNetwork(extracted(description), resolutions, description.combination), description


def _cascade(doc: Any, tensors: dict[str, Tensor], path: str) -> tuple[nn.Module, Description]:
    description = described(CascadeDescription, doc, tensors, path)
    [network] = extracted(description)
    try:
        return CascadeNetwork(network, description.thresholds), description
    except (SelectionError, ArchError) as error:
        raise ArchError(f"{path}: {error}") from None
