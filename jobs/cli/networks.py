"""The commands for single networks and published ones: export, evaluation, fine-tuning, import, cost, serving."""

from __future__ import annotations

import os
from itertools import chain
from typing import Annotated, Any, Literal

import typer

from cluster.config import MOST
from cluster.errors import InputError
from cluster.progress import Reporter
from cluster.texts import json_text
from jobs import files
from jobs.cli.options import DEFAULT_STORE, ConfigPath, Json, Sets, StoreUrl, named_in, open_job, parse_arch
from jobs.job import Job
from jobs.pipeline import run_steps
from ofa.arch import Arch, ArchError
from ofa.checks import shown
from ofa.cost import cost
from ofa.exits import SCHEMES
from ofa.spaces import get_space

app = typer.Typer()


@app.command("export")
def export_command(
    config: ConfigPath,
    store: StoreUrl = DEFAULT_STORE,
    sets: Sets = [],  # noqa: B006
    arch: Annotated[str | None, typer.Option(help="one sub-network instead: its name, JSON, or a file of JSON")] = None,
    exits: Annotated[
        str | None, typer.Option(metavar="LIST", help="with --arch: the exits that are outputs, such as 1,3,5, or all")
    ] = None,
    average_macs: Annotated[
        float | None, typer.Option(help="with --arch: a cascade of its exits that costs at most this on average")
    ] = None,
    int8: Annotated[
        bool, typer.Option("--int8", help="an int8 network for ONNX Runtime: the knee, or with --arch another one")
    ] = False,
    preprocess: Annotated[
        bool,
        typer.Option("--preprocess", help="an ONNX file for images of any size: the knee, or with --arch another one"),
    ] = False,
    target: Annotated[
        Literal["executorch"] | None,
        typer.Option(help="a program for another runtime: the knee, or with --arch another network"),
    ] = None,
    as_json: Json = False,
) -> None:
    """Exports networks as safetensors and ONNX: the knee of the front and the best ensemble, or one network by its name."""
    parsed = None if arch is None else parse_arch(arch, named_in(config, sets))
    kinds = {"--int8": int8, "--preprocess": preprocess, "--target": target is not None}
    given = [name for name, asked in kinds.items() if asked]
    kind = given[0] if given else ""
    if kind and (exits is not None or average_macs is not None):
        raise InputError(f"ofa export: {kind} goes with neither --exits nor --average-macs")
    if len(given) > 1:
        raise InputError(f"ofa export: {' and '.join(given)} are different files; give one after the other")
    if target is not None:
        from jobs.tools.executorch import check_package, export_executorch

        check_package()
        with open_job(config, store, sets, as_json) as job:
            return export_executorch(job, parsed)
    if preprocess:
        with open_job(config, store, sets, as_json) as job:
            from jobs.tools.preprocessing import export_preprocessed

            return export_preprocessed(job, parsed)
    if int8:
        with open_job(config, store, sets, as_json) as job:
            from jobs.tools.int8 import export_int8, text

            return typer.echo(text(export_int8(job, parsed), as_json))
    if parsed is None and (exits is not None or average_macs is not None):
        raise InputError("ofa export: --exits and --average-macs are of one network; give its --arch too")
    with open_job(config, store, sets, as_json) as job:
        if parsed is None:
            return run_steps(job, ["export"])
        from jobs.export import export_arch

        return export_arch(job, parsed, exits, average_macs)


@app.command("eval")
def eval_command(
    config: ConfigPath,
    arch: Annotated[list[str], typer.Option(help="a sub-network: its name, JSON, or a file of JSON; may be repeated")] = [],  # noqa: B006
    finetuned: Annotated[
        list[str],
        typer.Option(metavar="NAME", help="a network of `ofa finetune --two-phase` by its name; may be repeated"),
    ] = [],  # noqa: B006
    split: Annotated[Literal["selection", "test"], typer.Option(help="the split to evaluate on")] = "test",
    store: StoreUrl = DEFAULT_STORE,
    sets: Sets = [],  # noqa: B006
    as_json: Json = False,
) -> None:
    """Evaluates the top-1 of any sub-networks of a trained run, with its 95 % interval."""
    from jobs.tools.eval import evaluate, evaluate_finetuned

    archs = [parse_arch(text, named_in(config, sets)) for text in arch]
    if not archs and not finetuned:
        raise InputError("ofa eval: give networks, --arch NAME or --finetuned NAME")
    with open_job(config, store, sets, as_json) as job:
        for row in chain(evaluate(job, archs, split), evaluate_finetuned(job, finetuned, split)):
            low, high = row["interval"]
            found = f"top-1 {row['top1']:.4f} [{low:.4f}, {high:.4f}] on {row['images']} images of {split}"
            print(json_text(row) if as_json else f"{row['key']}: {found}, {row['macs']:,} MACs, {row['params']:,} params")


@app.command("finetune")
def finetune_command(
    config: ConfigPath,
    arch: Annotated[
        list[str],
        typer.Option(help="a sub-network of the run: its name, JSON, or a file of JSON; with --two-phase may be repeated"),
    ] = [],  # noqa: B006
    epochs: Annotated[
        int | None, typer.Option(min=1, help="training epochs: 25; with --two-phase those of phase 1 at most: 150")
    ] = None,
    lr: Annotated[
        float | None, typer.Option(min=1e-9, max=1e6, help="peak learning rate: 0.01; with --two-phase: 0.0001")
    ] = None,
    distil: Annotated[
        float,
        typer.Option(min=0, help="weight of the distillation loss; the teacher is the supernet's largest network"),
    ] = 0.0,
    two_phase: Annotated[
        bool,
        typer.Option(
            "--two-phase",
            help="finds the number of epochs on the selection split, then trains on training and selection images together",
        ),
    ] = False,
    front: Annotated[bool, typer.Option("--front", help="with --two-phase: every network of the front")] = False,
    patience: Annotated[
        int | None, typer.Option(min=1, help="with --two-phase: epochs without a better top-1 that end phase 1: 30")
    ] = None,
    exits: Annotated[
        Literal["own", "all"] | None,
        typer.Option(help="with --two-phase: train a network's own exit (default), or all up to it and add them up"),
    ] = None,
    weights: Annotated[
        str | None,
        typer.Option(help="with --exits all: of the losses and logits of exits: UNIF (default), ASC, DESC or MIX"),
    ] = None,
    optimizer: Annotated[
        str | None,
        typer.Option(help="with --two-phase: sgd or adamw; default: adamw for a space with exits, otherwise sgd"),
    ] = None,
    weight_decay: Annotated[float | None, typer.Option(min=0, help="with --two-phase: 0.0005")] = None,
    batch: Annotated[int | None, typer.Option(min=1, max=MOST, help="with --two-phase: images per step: 64")] = None,
    store: StoreUrl = DEFAULT_STORE,
    sets: Sets = [],  # noqa: B006
    as_json: Json = False,
) -> None:
    """Fine-tunes one sub-network of a trained run; the result is a run of its own, with the network in subnets/.

    With --two-phase, fine-tunes networks on training and selection images, for as many epochs as are best on the selection
    split; the results are in the run. Neither reads the test split: `ofa eval --split test` does.
    """
    archs = [parse_arch(text, named_in(config, sets)) for text in arch]
    only = {"--front": front or None, "--patience": patience, "--exits": exits, "--weights": weights,
            "--optimizer": optimizer, "--weight-decay": weight_decay, "--batch": batch}  # fmt: skip
    if two_phase:
        given = {"epochs": epochs, "lr": lr, "patience": patience, "weight_decay": weight_decay, "batch": batch}
        chosen = {name: value for name, value in given.items() if value is not None} | {"distil": distil}
        if bool(archs) == front:
            raise InputError("ofa finetune: give networks, --arch NAME, or --front for all of the front")
        with open_job(config, store, sets, as_json, reads=files.FRONT if front else None) as job:
            return finetune_in_two_phases(job, archs, scheme_of(exits, weights), optimizer, chosen, as_json)
    if (option := next((name for name, value in only.items() if value is not None), None)) is not None:
        raise InputError(f"ofa finetune: {option} is an option of a fine-tuning in two phases; give --two-phase too")
    if len(archs) != 1:
        raise InputError(f"ofa finetune: {len(archs)} networks are given; give one, --arch NAME, or --two-phase too")
    from jobs.tools.finetune import finetune

    with open_job(config, store, sets, as_json) as job:
        found = finetune(job, archs[0], epochs or 25, lr or 0.01, distil)
        if as_json:
            return job.reporter.event("result", **found)
        for split, row in found["after"].items():
            low, high = row["interval"]
            print(
                f"top-1 on {split}: {found['before'][split]['top1']:.4f} before, {row['top1']:.4f} [{low:.4f}, {high:.4f}]"
            )
        return print(f"network  {found['url']}/subnets/{found['arch']}.safetensors, .onnx and .pt2")


def scheme_of(exits: str | None, weights: str | None) -> str | None:
    """The name in `ofa.exits.SCHEMES` that --exits and --weights ask for, None for a network's own exit alone."""
    if exits != "all":
        if weights is not None:
            raise InputError("ofa finetune: --weights is of several exits; give --exits all too")
        return None
    if weights is not None and weights not in SCHEMES:
        raise InputError(f"ofa finetune: --weights is {shown(weights)}; there are {', '.join(SCHEMES)}")
    return weights or "UNIF"


def finetune_in_two_phases(
    job: Job, archs: list[Arch], scheme: str | None, optimizer: str | None, chosen: dict[str, Any], as_json: bool
) -> None:
    """Fine-tunes networks, those of the front if none are given, and prints each result. chosen: settings that are given."""
    from jobs.tools.postprocess import Tuning, check, fine_tune, front_archs
    from ofa.train import OPTIMIZERS

    if optimizer is not None and optimizer not in OPTIMIZERS:
        raise InputError(f"ofa finetune: --optimizer is {shown(optimizer)}; there are {', '.join(OPTIMIZERS)}")
    published = "adamw" if job.config.search_space.values("exit") else "sgd"
    tuning = Tuning(optimizer=optimizer or published, exits=scheme, **chosen)
    networks = archs or front_archs(job)
    check(job, networks, tuning)
    for found in fine_tune(job, networks, tuning):
        if as_json:
            job.reporter.event("result", url=job.run.url, **found.to_json())
            continue
        print(
            f"{found.name}: top-1 on selection: {found.before:.4f} before, {found.top1:.4f} after epoch {found.epochs} of "
            f"{len(found.history)}; trained on training and selection images for {found.epochs} epochs\n"
            f"network  {job.run.url}/subnets/{found.name}.safetensors, .onnx and .pt2\n"
            f"test     ofa eval {job.asked} --finetuned {found.name}"
        )


@app.command("import")
def import_command(
    checkpoint: Annotated[str, typer.Argument(metavar="CHECKPOINT", help="a released checkpoint of Once-for-All")],
    space: Annotated[str, typer.Option(help="its search space, such as ofa_mbv3_w1.0")],
    out: Annotated[str, typer.Option(metavar="DIR", help="directory to write weights.safetensors to")],
    as_json: Json = False,
) -> None:
    """Converts a published supernet's checkpoint to weights for train.weights; a run without phases searches them."""
    from jobs.tools.weights import import_weights

    import_weights(checkpoint, space, out, Reporter("json" if as_json else None))


@app.command("cost")
def cost_command(
    space: Annotated[str, typer.Option(help="a search space, such as digits")],
    arch: Annotated[str, typer.Option(help="a sub-network: its name, JSON, or a file of JSON")],
    classes: Annotated[
        int | None, typer.Option(min=1, max=MOST, help="number of classes: 1000, or 10 in the space nas_bench_macro")
    ] = None,
    as_json: Json = False,
) -> None:
    """Counts the exact multiply-accumulates and parameters of a sub-network."""
    here = get_space(space)
    parsed = parse_arch(arch, here.named)
    # costs are exact at any resolution
    if (objection := here.shape_objection(parsed) or here.at([parsed.resolution]).objection(parsed)) is not None:
        raise ArchError(f"{parsed.key} is not in the space {space}: {objection}")
    classes = here.classes if classes is None else classes
    macs, params = cost(here, parsed, classes)
    name = here.own_name(parsed)
    if as_json:
        names = {} if name is None else {"name": name}
        found = {"space": space, "arch": parsed.to_json(), **names, "classes": classes, "macs": macs, "params": params}
        print(json_text(found))
    else:
        also = "" if name is None else f" ({name})"
        print(f"{parsed.key}{also}: {macs:,} MACs, {params:,} params, with {classes} classes")


@app.command("serve")
def serve_command(
    network: Annotated[str, typer.Argument(metavar="FILE", help="an exported network or ensemble (.safetensors)")],
    port: Annotated[int, typer.Option(min=1, max=65535)] = 8000,
    host: Annotated[
        str, typer.Option(help="IP address to listen on; one that other machines can reach needs a token")
    ] = "127.0.0.1",
    token_file: Annotated[
        str | None,
        typer.Option(
            metavar="FILE", help="a file with the token that clients must send; or set OFA_SERVE_TOKEN to the token"
        ),
    ] = None,
    address: Annotated[str, typer.Option(help="a Ray cluster: local starts one, auto or host:port joins one")] = "local",
    as_json: Json = False,
) -> None:
    """Serves predictions over HTTP until Ctrl-C; each ensemble member runs in its own process."""
    from jobs.tools.serve import serve, token_of

    token = token_of(token_file, os.environ)
    serve(network, host, port, address, Reporter("json" if as_json else None), token)
