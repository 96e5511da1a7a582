"""Report the results, with plots; leaves one self-contained HTML file.

ofa report configs/digits.toml --store ./runs
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from html import escape
from itertools import combinations, cycle
from operator import attrgetter
from typing import Any

import plotly.graph_objects as go
from plotly.offline import get_plotlyjs
from plotly.subplots import make_subplots

from cluster.run import Step
from ensemble.document import CascadeResult, Ensembles, ExitResult, Exits, ScoredSubset, SubsetFront
from jobs import files
from jobs.batches import shown as shown_times
from jobs.batches import times_file
from jobs.config import AUTO
from jobs.job import Job
from jobs.trials import Trials, ordered
from jobs.trials import shown as of_trial
from ofa.record import Measured
from ofa.timings import BatchTimes, Validated
from search.adapt.history import Adaptation
from search.front import Front
from search.history import History
from search.objective import MACS, PARAMS, TOP1, Objective, first_cost, first_quality, objective_named
from search.predict.quality import PredictorQuality

BLUE, ORANGE, GREEN, GREY, LIGHT = "#1f5fa8", "#d9641e", "#2c8a4b", "#b9bec6", "#dfe3e8"
MARKERS = ((ORANGE, "diamond"), (GREEN, "square"), ("#7a4fa3", "cross"), ("#a3803a", "x"))  # one for each cost rule


def report(job: Job) -> None:
    """Runs the step `report`: writes the HTML file."""
    step = job.run.begin("report")
    front = Front.from_json(step.read_json(files.FRONT))
    ensembles = Ensembles.from_bytes(step.read(files.ENSEMBLES), files.ENSEMBLES.key)
    validated = Validated.from_bytes(step.read(files.VALIDATED), files.VALIDATED.key)
    quality = PredictorQuality.from_bytes(step.read(files.PREDICTOR_QUALITY), files.PREDICTOR_QUALITY.key)
    phases = [step.read_json(files.supernet_meta(p.name)) for p in job.config.phases]
    measured, searched = (
        [Measured.from_json(json.loads(line)) for line in step.read(file).splitlines()]
        for file in (files.MEASURED, files.SEARCHED)
    )
    history = History.from_bytes(step.read(files.HISTORY), files.HISTORY.key)
    objectives = job.config.objectives
    labels = " and ".join(", ".join(escape(o.words) for o in objectives).rsplit(", ", 1))
    training = [("Training", TRAINING_TEXT, training_figure(phases))] if phases else []
    sections = [
        ("The front", FRONT_TEXT.format(labels=labels), front_figure(front, ensembles, measured, searched, objectives)),
        *(pairs_sections(front, objectives) if len(objectives) > 2 else ()),
        ("On the test split", TEST_TEXT.format(images=images_of(job, "test")), test_figure(ensembles)),
        ("Search", history_text(history), history_figure(history)),
        *training,
        ("Predictors against truth", predictor_text(quality), predictor_figure(quality)),
    ]
    if job.config.search_space.values("exit") and (files.EXITS.key in job.run.keys("")):
        exits = Exits.from_bytes(step.read(files.EXITS), files.EXITS.key)
        sections.insert(2, ("The exits of one network", exits_text(exits), exits_figure(exits)))
    if job.config.adapt.iterations:
        adaptation = Adaptation.from_bytes(step.read(files.ADAPTATION), files.ADAPTATION.key)
        sections.insert(2, ("The adaptation of the supernet", adaptation_text(adaptation), adaptation_figure(adaptation)))
    if files.TRIALS.key in job.run.recorded():
        trials = Trials.from_bytes(step.read(files.TRIALS), files.TRIALS.key)
        sections.append(("The search for settings", tuning_text(trials) + trials_table(trials), tuning_figure(trials)))
    body = [summary(job, front, ensembles, measured, searched)]
    evaluations = evaluations_text(job, step)
    for number, (title, text, figure) in enumerate(sections):
        body.append(f"<h2>{escape(title)}</h2><p>{text}</p>{drawn(figure, f'figure{number}')}")
        if number == 0:
            body += [front_table(job, front, ensembles, validated), evaluations, ensemble_table(ensembles)]
    page = PAGE.format(title=escape(job.run.id), plotly=get_plotlyjs(), body="\n".join(body))
    step.write(files.REPORT, page.encode())
    step.finish(job.config.seed)
    job.reporter.say(f"report: {job.run.url}/{files.REPORT}")


def images_of(job: Job, split: str) -> int:
    """The number of images of a split on which the front's members were evaluated."""
    return int((job.run.done("predict") or {}).get("images", job.data.sizes)[split])


def described(name: str) -> Objective:
    """The objective of this name; one that is not known has no unit and is minimised."""
    return objective_named(name) or Objective(name, "minimize", label=name)


def percent(fraction: float) -> str:
    """A fraction in per cent."""
    return f"{fraction * 100:.2f}"


def with_interval(row: ScoredSubset) -> str:
    """A subset's test top-1 and its interval, in per cent."""
    low, high = row.test_interval
    return f"{percent(row.test_top1)} [{percent(low)}, {percent(high)}]"


def ensembles_of(front: SubsetFront) -> list[ScoredSubset]:
    """The subsets of two members or more."""
    return [row for row in front.members if len(row.members) > 1]


FRONT_TEXT = (
    "Every dot is one sub-network with the supernet's weights and batch-norm statistics of its own, evaluated on the "
    "selection split, which is not used for training. The front is the set of networks that are non-dominated in {labels} "
    "(MACs: multiply-accumulates); ensembles of its members are chosen and shown on the same split."
)
TEST_TEXT = (
    "The same networks and ensembles on {images} images of the held-out test split, with 95 % intervals. A "
    "network chosen as the best of many on the selection split tends to have a lower top-1 here: these are the unbiased "
    "estimates."
)
TRAINING_TEXT = (
    "The training of the supernet, phase by phase: each phase adds choices. Accuracies are of the largest and the "
    "smallest sub-network of the phase, on the selection split."
)


def predictor_text(quality: PredictorQuality) -> str:
    """Errors and rank correlations of both predictors on held-out rows."""
    accuracy, latency = quality.accuracy, quality.latency
    return (
        f"On held-out rows, the accuracy predictor has an RMSE of {accuracy.rmse * 100:.2f} points and a "
        f"Kendall tau of {accuracy.kendall_tau:.2f} ({accuracy.held_out} rows), the latency predictor an RMSE of "
        f"{latency.rmse:.3f} ms and a tau of {latency.kendall_tau:.2f} ({latency.held_out} rows) "
        f"({escape(latency.device)})."
    )


def styled(figure: go.Figure, height: int) -> go.Figure:
    """The figure in the report's style; height in pixels."""
    figure.update_layout(
        template="plotly_white",
        height=height,
        margin={"l": 60, "r": 20, "t": 30, "b": 50},
        font={"family": "system-ui, sans-serif", "size": 13},
        legend={"orientation": "h", "y": -0.18 if height > 350 else -0.3},
    )
    return figure


def drawn(figure: go.Figure, name: str) -> str:
    """The figure as HTML in an element of this name."""
    html: str = figure.to_html(
        full_html=False, include_plotlyjs=False, div_id=name, config={"displaylogo": False, "responsive": True}
    )
    return html


def front_figure(
    front: Front,
    ensembles: Ensembles,
    measured: Sequence[Measured],
    searched: Sequence[Measured],
    objectives: Sequence[Objective],
) -> go.Figure:
    """All observations over the first cost; with more than two objectives this is a projection of the front."""
    figure, cost, quality = go.Figure(), first_cost(objectives), first_quality(objectives)
    for rows, name, colour in ((measured, "random", LIGHT), (searched, "found by the searches", GREY)):
        figure.add_scatter(
            x=shown(cost, rows),
            y=shown(quality, rows),
            text=[m.arch.key for m in rows],
            mode="markers",
            name=name,
            marker={"color": colour, "size": 6},
        )
    figure.add_scatter(
        x=shown(cost, front.members),
        y=shown(quality, front.members),
        text=[f"member {i}: {m.arch.key}" for i, m in enumerate(front.members)],
        mode="lines+markers" if len(objectives) == 2 else "markers",
        name="front",
        line={"color": BLUE, "shape": "hv", "width": 2},
        marker={"size": 8},
    )
    comparable = (described(ensembles.unit), TOP1) == (cost, quality)
    for found, (colour, symbol) in zip(ensembles.fronts if comparable else (), cycle(MARKERS), strict=False):
        several = ensembles_of(found)
        figure.add_scatter(
            x=[row.cost * cost.scale for row in several],
            y=[row.top1 * 100 for row in several],
            text=[f"members {list(row.members)}" for row in several],
            mode="markers",
            name=f"ensembles, cost = {found.cost}",
            marker={"color": colour, "symbol": symbol, "size": 9},
        )
    figure.update_xaxes(title=f"{cost.title} (of an ensemble: by its cost rule)", type="log")
    figure.update_yaxes(title=f"{quality.title} on the selection split")
    return styled(figure, 480)


PAIRS_TEXT = (
    "The same front for every pair of objectives: a network that is dominated in one pair is on the front for another "
    "objective. Numbers are the members of the table above."
)
PICK_TEXT = (
    "Every line is a network of the front, every axis an objective. Dragging along an axis keeps the networks in the range. "
    "The first column is the member's number in the table above."
)


def pairs_sections(front: Front, objectives: Sequence[Objective]) -> list[tuple[str, str, go.Figure]]:
    """The sections of a front with more than two objectives: its pairs side by side, and axes to pick a member by."""
    return [
        ("Pairs of objectives", PAIRS_TEXT, pairs_figure(front, objectives)),
        ("One network by all objectives", PICK_TEXT, pick_figure(front, objectives)),
    ]


def pairs_figure(front: Front, objectives: Sequence[Objective]) -> go.Figure:
    """The front's members in every pair of objectives, three pairs in a row; the colour is the first objective."""
    pairs = list(combinations(objectives, 2))
    columns = min(3, len(pairs))
    rows = -(-len(pairs) // columns)
    figure = make_subplots(rows=rows, cols=columns, horizontal_spacing=0.09, vertical_spacing=0.16)
    first = objectives[0]
    for place, (y, x) in enumerate(pairs):
        row, column = place // columns + 1, place % columns + 1
        figure.add_scatter(
            x=shown(x, front.members),
            y=shown(y, front.members),
            text=[f"member {i}: {m.arch.key}" for i, m in enumerate(front.members)],
            mode="markers",
            showlegend=False,
            marker={"size": 7, "color": shown(first, front.members), "colorscale": "Viridis"},
            row=row,
            col=column,
        )
        figure.update_xaxes(title=x.title, row=row, col=column)
        figure.update_yaxes(title=y.title, row=row, col=column)
    return styled(figure, 340 * rows)


def pick_figure(front: Front, objectives: Sequence[Objective]) -> go.Figure:
    """Parallel axes, one for each objective and one for the member's number; a range on any axis picks members."""
    axes = [{"label": "member", "values": list(range(len(front.members)))}]
    axes += [{"label": o.title, "values": shown(o, front.members)} for o in objectives]
    line = {"color": shown(objectives[0], front.members), "colorscale": "Viridis"}
    return styled(go.Figure(go.Parcoords(dimensions=axes, line=line)), 380)


def shown(objective: Objective, rows: Sequence[Measured]) -> list[float]:
    """Values in the unit of plots."""
    return [objective.of(m) * objective.scale for m in rows]


def test_figure(ensembles: Ensembles) -> go.Figure:
    """The front's members and the ensembles on the test split, with intervals."""
    figure, cost = go.Figure(), described(ensembles.unit)
    groups = [("single networks of the front", list(ensembles.singles), BLUE, "circle")]
    for found, (colour, symbol) in zip(ensembles.fronts, cycle(MARKERS), strict=False):
        groups.append((f"ensembles, cost = {found.cost}", ensembles_of(found), colour, symbol))
    for name, rows, colour, symbol in groups:
        figure.add_scatter(
            x=[row.cost * cost.scale for row in rows],
            y=[row.test_top1 * 100 for row in rows],
            text=[f"members {list(row.members)}, selection {percent(row.top1)}" for row in rows],
            mode="markers",
            name=name,
            marker={"color": colour, "symbol": symbol, "size": 8},
            error_y=interval_bars(rows),
        )
    figure.update_xaxes(title=f"{cost.title} (of an ensemble: by its cost rule)", type="log")
    figure.update_yaxes(title="top-1 on the test split, %")
    return styled(figure, 420)


def exits_text(exits: Exits) -> str:
    """The description of the figure of one network's exits."""
    kept, last = exits.kept, exits.singles[-1]
    return (
        f"The most accurate network with several exits, <code>{escape(exits.arch.key)}</code>: each exit alone, and all of "
        "them as a cascade, which an image leaves at the first exit that is confident enough. Thresholds are tuned on the "
        "selection split for every average cost; shown is the test split, with 95 % intervals. Of all subsets of exits "
        f"whose logits are added up ({exits.weights} weights), {', '.join(map(str, kept.exits))} is the best on the "
        f"selection split: {percent(kept.test_top1)} % on the test split, the last exit alone {percent(last.test_top1)} %."
    )


def exits_figure(exits: Exits) -> go.Figure:
    """Test accuracy against average MACs: single exits, the kept subset, and the cascade's curve."""
    figure = go.Figure()
    shapes = (("each exit", exits.singles, BLUE, "circle"), ("exits added up", (exits.kept,), GREEN, "square"))
    for name, rows, colour, symbol in shapes:
        figure.add_scatter(
            x=[row.macs / 1e6 for row in rows],
            y=[100 * row.test_top1 for row in rows],
            error_y=interval_bars(rows),
            text=[f"exit {', '.join(map(str, row.exits))}" for row in rows],
            mode="markers",
            name=name,
            marker={"color": colour, "symbol": symbol, "size": 9},
        )
    figure.add_scatter(
        x=[row.test_macs / 1e6 for row in exits.cascade],
        y=[100 * row.test_top1 for row in exits.cascade],
        error_y=interval_bars(exits.cascade),
        text=["thresholds " + ", ".join(f"{t:.2f}" for t in row.thresholds) for row in exits.cascade],
        mode="lines+markers",
        name="cascade",
        line={"color": ORANGE, "width": 2},
        marker={"size": 4},
    )
    figure.update_xaxes(title="average MACs of an image, millions")
    figure.update_yaxes(title="top-1 on the test split, %")
    return styled(figure, 420)


def interval_bars(rows: Sequence[ScoredSubset | ExitResult | CascadeResult]) -> dict[str, Any]:
    """The error bars of the 95 % intervals on the test split, in percent."""
    return {
        "type": "data",
        "array": [(row.test_interval[1] - row.test_top1) * 100 for row in rows],
        "arrayminus": [(row.test_top1 - row.test_interval[0]) * 100 for row in rows],
        "thickness": 1,
        "width": 3,
    }


def history_text(history: History) -> str:
    """The description of the curves, with the reference point."""
    worst = ", ".join(f"{escape(axis.name)} {described(axis.name).text(axis.reference)}" for axis in history.objectives)
    known = "".join(f" The {s.search} search began with {s.known} known sub-networks." for s in history.searches if s.known)
    return (
        f"The hypervolume that the front dominates, up to the reference point ({worst}), after every evaluation; larger is "
        f"better. The curve of the predicted search uses predictions, which measurements may not confirm.{known}"
    )


def adaptation_text(found: Adaptation) -> str:
    """What the adaptation did and cost."""
    first, last = found.iterations[0], found.iterations[-1]
    quality = first_quality([described(axis.name) for axis in found.objectives])
    picks = ", ".join(f"<code>{escape(arch.key)}</code>" for arch in found.tradeoffs)
    return (
        f"The archive of evaluated sub-networks after each of {last.iteration} iterations, in which the supernet was "
        f"fine-tuned on sub-networks like its best ones. Its hypervolume went from {first.hypervolume:.4g} to "
        f"{last.hypervolume:.4g}, its best {quality.label} from {quality.text(first.best)} to {quality.text(last.best)}, "
        f"for {last.evaluations:,} evaluations of sub-networks and {last.device_seconds:,.0f} device-seconds. "
        + (f"Among its networks, these lose most in one objective for a gain in another: {picks}." if picks else "")
    )


def adaptation_figure(found: Adaptation) -> go.Figure:
    """Hypervolume and best quality by iteration, over what they cost."""
    figure, rows = make_subplots(specs=[[{"secondary_y": True}]]), found.iterations
    quality = first_quality([described(axis.name) for axis in found.objectives])
    text = [f"iteration {row.iteration}, {row.device_seconds:,.0f} device-seconds, {row.front} on the front" for row in rows]
    x = [row.evaluations for row in rows]
    figure.add_scatter(
        x=x, y=[row.hypervolume for row in rows], text=text, mode="lines+markers", name="hypervolume", line={"color": BLUE}
    )
    best = [row.best * quality.scale for row in rows]
    figure.add_scatter(
        x=x, y=best, text=text, mode="lines+markers", name=f"best {quality.label}", line={"color": ORANGE}, secondary_y=True
    )
    figure.update_xaxes(title="evaluations of sub-networks")
    figure.update_yaxes(title="hypervolume", secondary_y=False)
    figure.update_yaxes(title=quality.title, secondary_y=True, showgrid=False)
    return styled(figure, 380)


def tuning_text(found: Trials) -> str:
    """What the trials of `ofa tune` were, and which one was chosen."""
    states = [trial.state for trial in found.trials]
    best = ", ".join(f"{escape(name)} {value:.4f}" for name, value in found.best_trial.values.items())
    return (
        f"{len(states)} short runs of {found.epochs} epochs with other settings, on the selection split; trial 0 has those "
        f"of the config. {states.count('stopped')} were stopped early and {states.count('diverged')} diverged. Trial "
        f"{found.best} was chosen, with {best}; its settings are in {files.TUNED}. ×: a factor of the config's value."
    )


def trials_table(found: Trials) -> str:
    """The trials, the best one first, and what ended them."""
    rows = []
    for trial in ordered(found):
        values = [f"{trial.values[name]:.4f}" if trial.values else "" for name in found.objectives]
        settings = "as in the config" if trial.trial == 0 else of_trial(trial.settings, found.relative)
        ended = trial.state if trial.state == "complete" else f"{trial.state} after epoch {len(trial.compared)}"
        cells = [str(trial.trial), *values, ended, settings]
        rows.append("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in cells) + "</tr>")
    return table("trials", ("trial", *found.objectives, "ended", "settings"), rows)


def tuning_figure(found: Trials) -> go.Figure:
    """The mean top-1 of the largest and the smallest network by epoch, a line for each trial."""
    figure = go.Figure()
    for trial in ordered(found)[::-1]:
        colour = BLUE if trial.trial == found.best else ORANGE if trial.trial == 0 else GREY
        figure.add_scatter(
            x=list(range(1, len(trial.compared) + 1)),
            y=[top1 * 100 for top1 in trial.compared],
            text=[of_trial(trial.settings, found.relative)] * len(trial.compared),
            mode="lines+markers",
            name=f"trial {trial.trial}",
            showlegend=trial.trial in (0, found.best),
            line={"color": colour, "width": 1 if colour == GREY else 2},
            marker={"size": 4},
        )
    figure.update_xaxes(title="epoch of the trial")
    figure.update_yaxes(title="top-1 on the selection split, %")
    return styled(figure, 380)


def history_figure(history: History) -> go.Figure:
    """Hypervolume against evaluations, a line for each search."""
    figure = go.Figure()
    for search, colour in zip(history.searches, cycle((BLUE, ORANGE, GREEN)), strict=False):
        curve = {max(count, 1): volume for count, volume in zip(search.evaluations, search.hypervolume, strict=True)}
        x, y = list(curve), list(curve.values())
        name = f"{search.search} ({search.algorithm})"
        figure.add_scatter(x=x, y=y, mode="lines", name=name, line={"color": colour, "shape": "hv", "width": 2})
        figure.add_scatter(x=x[-1:], y=y[-1:], mode="markers", name=name, marker={"color": colour}, showlegend=False)
    figure.update_xaxes(title="evaluations", type="log")
    figure.update_yaxes(title="hypervolume")
    return styled(figure, 400)


def training_figure(phases: Sequence[dict[str, Any]]) -> go.Figure:
    """Loss and top-1 of every epoch, phase by phase."""
    figure = make_subplots(rows=1, cols=2, subplot_titles=("training loss", "top-1 on the selection split, %"))
    epoch = 0
    curves: dict[str, tuple[list[int], list[float]]] = {"largest": ([], []), "smallest": ([], [])}
    for number, phase in enumerate(phases):
        rows = phase["history"]
        x = [epoch + row["epoch"] for row in rows]
        figure.add_scatter(
            x=x, y=[row["loss"] for row in rows], mode="lines", line={"color": BLUE}, showlegend=False, row=1, col=1
        )
        for column in (1, 2):
            figure.add_vrect(
                x0=epoch,
                x1=epoch + len(rows),
                fillcolor=LIGHT,
                opacity=0.5 if number % 2 else 0,
                line_width=0,
                annotation_text=escape(phase["phase"]),
                annotation_position="bottom left",
                row=1,
                col=column,
            )
        for name, (xs, ys) in curves.items():
            seen = [row for row in rows if name in row]
            xs += [epoch + row["epoch"] for row in seen]
            ys += [row[name] * 100 for row in seen]
        epoch += len(rows)
    for (name, (xs, ys)), colour in zip(curves.items(), (BLUE, ORANGE), strict=True):
        figure.add_scatter(
            x=xs, y=ys, mode="lines+markers", name=f"{name} sub-network of the phase", line={"color": colour}, row=1, col=2
        )
    figure.update_xaxes(title="epoch")
    return styled(figure, 360)


def predictor_figure(quality: PredictorQuality) -> go.Figure:
    """Predictions against measurements on held-out rows."""
    figure = make_subplots(rows=1, cols=2, subplot_titles=("accuracy, top-1 in %", "latency, ms"))
    for column, (of, scale) in enumerate(((quality.accuracy, 100), (quality.latency, 1)), start=1):
        truth, predicted = [value * scale for value in of.truth], [value * scale for value in of.predicted]
        ends = [min(truth + predicted), max(truth + predicted)]
        figure.add_scatter(
            x=ends, y=ends, mode="lines", line={"color": GREY, "dash": "dot"}, showlegend=False, row=1, col=column
        )
        figure.add_scatter(
            x=truth, y=predicted, mode="markers", marker={"color": BLUE, "size": 7}, showlegend=False, row=1, col=column
        )
        figure.update_xaxes(title="measured", row=1, col=column)
        figure.update_yaxes(title="predicted", row=1, col=column)
    return styled(figure, 360)


def summary(job: Job, front: Front, ensembles: Ensembles, measured: Sequence[Measured], searched: Sequence[Measured]) -> str:
    """The headline figures as HTML."""
    single, ensemble = max(ensembles.singles, key=attrgetter("top1")), ensembles.best
    unit, cost = described(ensembles.unit), first_cost(job.config.objectives)
    costs = [cost.of(member) for member in front.members]
    facts = [
        ("Best single network", f"{with_interval(single)} % on test", f"{unit.text(single.cost)} {escape(unit.words)}"),
        (
            f"Best ensemble, cost = {ensembles.cost}",
            f"{with_interval(ensemble)} % on test",
            f"{len(ensemble.members)} members, {unit.text(ensemble.cost)} {escape(unit.words)}",
        ),
        ("Front", f"{len(front.members)} networks", f"{escape(cost.words)} span a factor of {max(costs) / min(costs):.1f}"),
        (
            "Evaluated",
            f"{len(measured) + len(searched)} sub-networks",
            f"of {job.config.search_space.size:.2e} in {escape(job.config.space)}",
        ),
    ]
    cards = "".join(f"<div><b>{a}</b><span>{b}</span><i>{c}</i></div>" for a, b, c in facts)
    made = f"run {escape(job.run.id)}, seed {job.config.seed}, code {escape(job.run.code)}"
    data = f'<p class="made" id="data">{escape(str(job.data.description))}</p>'
    return f'<h1>{escape(job.config.name)}</h1><p class="made">{made}</p>{data}<div class="cards">{cards}</div>'


def front_table(job: Job, front: Front, ensembles: Ensembles, validated: Validated) -> str:
    """The table of the front's members, each with the command that exports it."""
    rows = []
    more = [o for o in job.config.objectives if o not in (TOP1, MACS, PARAMS)]
    for i, (member, single, seen) in enumerate(zip(front.members, ensembles.singles, validated.members, strict=True)):
        command = f"ofa export {job.asked} --arch {member.arch.key}"
        cells = [
            str(i),
            str(member.arch.resolution),
            *(o.text(o.of(member)) for o in (MACS, PARAMS, *more)),
            percent(member.top1),
            with_interval(single),
            f"{seen.latency_ms:.2f} ± {seen.latency_spread_ms:.2f}",
            f"<code>{escape(command)}</code>",
        ]
        rows.append("<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>")
    costs = [escape(o.words) for o in (MACS, PARAMS, *more)]
    heads = ("", "pixels", *costs, "selection %", "test % [95 %]", "ms", "export")
    where = f"{escape(validated.device)}, {validated.threads} thread, one image"
    return table("front", heads, rows) + f'<p class="made">ms: median and half the interquartile range, {where}.</p>'


def evaluations_text(job: Job, step: Step) -> str:
    """The evaluators' batch size and the times by which it was chosen, where it was."""
    if job.config.measure.batch != AUTO:
        return ""
    times = BatchTimes.from_bytes(step.read(times_file(job.config)), files.BATCHES)
    return f'<p class="made">Evaluations: {escape(shown_times(times))}.</p>'


def ensembles_text(ensembles: Ensembles) -> str:
    """The ensembles' gains and the optimism of the best score, a sentence or two for each cost."""
    said = []
    for found in ensembles.fronts:
        gains = [row.gain for row in found.members if row.gain is not None]
        intervals = [row.gain_interval for row in found.members if row.gain_interval is not None]
        more, above = sum(gain > 0 for gain in gains), sum(low > 0 for low, _ in intervals)
        below = sum(high < 0 for _, high in intervals)
        said.append(
            f"Where the cost is the {found.cost} over the members, {more} of {len(gains)} ensembles classify more images of "
            f"the test split correctly than the best single network within their cost: {above} with a 95 % interval above "
            f"0, {below} with one below. Of the best subset's top-1 on the split that it was chosen on, "
            f"{100 * found.optimism.gap:+.2f} points are optimism: they come from choosing the best of many."
        )
    return " ".join(said)


def ensemble_table(ensembles: Ensembles) -> str:
    """The ensembles as an HTML table, with a sentence on their gains."""
    rows, unit = [], described(ensembles.unit)
    for found in ensembles.fronts:
        for row in found.members:
            cells = [
                found.cost,
                ", ".join(map(str, row.members)),
                unit.text(row.cost),
                percent(row.top1),
                with_interval(row),
                gain_text(row),
            ]
            rows.append("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in cells) + "</tr>")
    heads = (
        "cost",
        "members",
        unit.words,
        "selection %",
        "test % [95 %]",
        "gain over the best single within its cost, points [95 %]",
    )
    text = f"<p>{escape(ensembles_text(ensembles))}</p>"
    return text + "<details><summary>All ensembles</summary>" + table("ensembles", heads, rows) + "</details>"


def gain_text(row: ScoredSubset) -> str:
    """The gain of an ensemble in points; "" for a single network."""
    if row.gain is None or row.gain_interval is None:
        return ""
    low, high = row.gain_interval
    return f"{100 * row.gain:+.2f} [{100 * low:+.2f}, {100 * high:+.2f}]"


def table(name: str, heads: Sequence[str], rows: Sequence[str]) -> str:
    """An HTML table of this id; rows are HTML."""
    head = "".join(f"<th>{escape(head)}</th>" for head in heads)
    return f'<div class="wide"><table id="{name}"><thead><tr>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>'


PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<link rel="icon" href="data:,">
<style>
body {{ font: 15px/1.5 system-ui, sans-serif; color: #1c2733; max-width: 1080px; margin: 2rem auto; padding: 0 1rem; }}
h1 {{ margin-bottom: 0; }}
h2 {{ margin: 2.2rem 0 0.3rem; }}
p {{ max-width: 46rem; }}
.made {{ color: #66717e; font-size: 13px; margin-top: 0.2rem; }}
.cards {{ display: grid; grid-template-columns: repeat(auto-fit, minmax(220px, 1fr)); gap: 0.8rem; margin-top: 1rem; }}
.cards div {{ border: 1px solid #dfe3e8; border-radius: 6px; padding: 0.7rem 0.9rem; }}
.cards div {{ display: flex; flex-direction: column; }}
.cards span {{ font-size: 17px; }}
.cards i {{ color: #66717e; font-style: normal; font-size: 13px; }}
.wide {{ overflow-x: auto; }}
table {{ border-collapse: collapse; font-size: 13px; margin: 0.6rem 0; }}
th, td {{ text-align: left; padding: 0.25rem 0.7rem 0.25rem 0; border-bottom: 1px solid #e8ebef; white-space: nowrap; }}
code {{ font: 12px ui-monospace, monospace; background: #f3f5f7; padding: 0.1rem 0.3rem; user-select: all; }}
details {{ margin-top: 0.6rem; }}
</style>
<script>{plotly}</script>
</head>
<body>
{body}
</body>
</html>
"""
