"""The commands for single networks: export, evaluation, fine-tuning, cost, serving."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from cluster.errors import InputError
from cluster.progress import Reporter
from cluster.texts import json_text
from jobs.cli.options import DEFAULT_STORE, Classes, ConfigPath, Json, Sets, StoreUrl, open_job, parse_arch
from jobs.pipeline import run_steps
from ofa.arch import ArchError
from ofa.cost import cost
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
    as_json: Json = False,
) -> None:
    """Exports networks as safetensors and ONNX: the knee of the front and the best ensemble, or one network by its name."""
    parsed = None if arch is None else parse_arch(arch)
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
    arch: Annotated[list[str], typer.Option(help="a sub-network: its name, JSON, or a file of JSON; may be repeated")],
    split: Annotated[Literal["selection", "test"], typer.Option(help="the split to evaluate on")] = "test",
    store: StoreUrl = DEFAULT_STORE,
    sets: Sets = [],  # noqa: B006
    as_json: Json = False,
) -> None:
    """Evaluates the top-1 of any sub-networks of a trained run, with its 95 % interval."""
    from jobs.tools.eval import evaluate

    archs = [parse_arch(text) for text in arch]
    with open_job(config, store, sets, as_json) as job:
        for row in evaluate(job, archs, split):
            low, high = row["interval"]
            found = f"top-1 {row['top1']:.4f} [{low:.4f}, {high:.4f}] on {row['images']} images of {split}"
            print(json_text(row) if as_json else f"{row['key']}: {found}, {row['macs']:,} MACs, {row['params']:,} params")


@app.command("finetune")
def finetune_command(
    config: ConfigPath,
    arch: Annotated[str, typer.Option(help="a sub-network of the run: its name, JSON, or a file of JSON")],
    epochs: Annotated[int, typer.Option(min=1, help="training epochs")] = 25,
    lr: Annotated[float, typer.Option(min=1e-9, max=1e6, help="peak learning rate")] = 0.01,
    distil: Annotated[
        float,
        typer.Option(min=0, help="weight of the distillation loss; the teacher is the supernet's largest network"),
    ] = 0.0,
    store: StoreUrl = DEFAULT_STORE,
    sets: Sets = [],  # noqa: B006
    as_json: Json = False,
) -> None:
    """Fine-tunes one sub-network of a trained run; the result is a run of its own, with the network in subnets/."""
    from jobs.tools.finetune import finetune

    parsed = parse_arch(arch)
    with open_job(config, store, sets, as_json) as job:
        found = finetune(job, parsed, epochs, lr, distil)
        if as_json:
            return job.reporter.event("result", **found)
        for split, row in found["after"].items():
            low, high = row["interval"]
            print(
                f"top-1 on {split}: {found['before'][split]['top1']:.4f} before, {row['top1']:.4f} [{low:.4f}, {high:.4f}]"
            )
        return print(f"network  {found['url']}/subnets/{found['arch']}.safetensors, .onnx and .pt2")


@app.command("cost")
def cost_command(
    space: Annotated[str, typer.Option(help="a search space, such as digits")],
    arch: Annotated[str, typer.Option(help="a sub-network: its name, JSON, or a file of JSON")],
    classes: Classes = 1000,
    as_json: Json = False,
) -> None:
    """Counts the exact multiply-accumulates and parameters of a sub-network."""
    here = get_space(space)
    parsed = parse_arch(arch)
    # costs are exact at any resolution
    if (objection := here.shape_objection(parsed) or here.at([parsed.resolution]).objection(parsed)) is not None:
        raise ArchError(f"{parsed.key} is not in the space {space}: {objection}")
    macs, params = cost(here, parsed, classes)
    if as_json:
        print(json_text({"space": space, "arch": parsed.to_json(), "classes": classes, "macs": macs, "params": params}))
    else:
        print(f"{parsed.key}: {macs:,} MACs, {params:,} params, with {classes} classes")


@app.command("serve")
def serve_command(
    network: Annotated[str, typer.Argument(metavar="FILE", help="an exported network or ensemble (.safetensors)")],
    port: Annotated[int, typer.Option(min=1, max=65535)] = 8000,
    address: Annotated[str, typer.Option(help="a Ray cluster: local starts one, auto or host:port joins one")] = "local",
    as_json: Json = False,
) -> None:
    """Serves predictions over HTTP until Ctrl-C; each ensemble member runs in its own process."""
    from jobs.tools.serve import serve

    serve(network, port, address, Reporter("json" if as_json else None))
