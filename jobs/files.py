"""The objects of a run: their names, and the step that makes each. No other file of `jobs` builds a key."""

from __future__ import annotations

from cluster import checkpoint
from cluster.run import File

# Of every run, in order; with an adaptation `adapt` comes after the first.
STEPS = ("train", "measure", "fit", "search", "validate", "predict", "ensemble", "report", "export")

ADAPTATION = File("adapt.json", "adapt")  # of a run whose supernet is adapted to the search
ARCHIVE = File("archive.jsonl", "adapt")
MEASURED = File("measured.jsonl", "measure")
LATENCY = File("latency.json", "measure")
BATCHES = "batch.json"  # of a run whose evaluators' batch size is chosen by measurement
LATENCY_TABLES = "latency"  # the folder of the devices' latency tables
PREDICTOR = File("predictor/accuracy.npz", "fit")
LATENCY_PREDICTOR = File("predictor/latency.npz", "fit")
PREDICTOR_QUALITY = File("predictor/quality.json", "fit")
SEARCHED = File("search.jsonl", "search")
FRONT = File("front.json", "search")
HISTORY = File("history.json", "search")  # hypervolumes; also of `ofa search --space`, in its directory
VALIDATED = File("validated.json", "validate")
ENSEMBLES = File("ensembles.json", "ensemble")
EXITS = File("exits.json", "predict")  # of a space with exits
REPORT = File("report.html", "report")
TUNED = File("tuned.toml", "tune")  # the config with the best settings that `ofa tune` found
TRIALS = File("tune.json", "tune")  # all of its trials
TARGETS = File("targets.json", "targets")  # result of `ofa targets`, in its --out directory
IMPORTED = File("weights.safetensors", "import")  # result of `ofa import`, in its --out directory

GIVEN_WEIGHTS = "train.weights"  # their name among the inputs of the training; they are no object of the run
UNTRAINED = "given"  # in place of a phase, where these weights are searched as they are
SUPERNET = "supernet"  # the folder of weights and checkpoints
FINETUNED = "finetuned"  # the folder of fine-tuned networks
FINETUNING = "finetune"  # the phase of a fine-tuning
FINETUNED_FRONT = File("subnets/finetuned.json", "export")  # of a run with `export.finetune_epochs`
SCALE = "partial/scale.json"  # requested evaluators and evaluations of a running search; `ofa scale` writes it
TUNING = "tune"  # the folder of the trainings of unfinished trials
ADAPTED = "adapt"  # the folder of an adaptation's trainings
PREDICTION_PARTS = "partial/predict/"


def supernet(phase: str, folder: str = SUPERNET) -> File:
    """The weights at the end of a phase of the training in `folder`."""
    return File(checkpoint.weights(folder, phase), "train")


def supernet_meta(phase: str, folder: str = SUPERNET) -> File:
    """The description of a phase and its training."""
    return File(checkpoint.meta(folder, phase), "train")


def events(folder: str, name: str) -> str:
    """The key of a file of events for TensorBoard, of the training in `folder`; no step records it."""
    return f"logs/tensorboard/{folder}/{name}"


def finetuned(name: str) -> File:
    """The result of a fine-tuning in two phases."""
    return File(f"{finetuning(name)}/result.json", "finetune")


def finetuning(name: str) -> str:
    """The folder of a fine-tuning."""
    return f"{FINETUNED}/{name}"


def trial_folder(number: int) -> str:
    """The folder of the training of a trial (from 0)."""
    return f"{TUNING}/{number:04d}"


def adapted_folder(iteration: int) -> str:
    """The folder of the training of an iteration (from 1)."""
    return f"{ADAPTED}/{iteration:03d}"


def adapted_phase(iteration: int) -> str:
    """The name of the phase of that training."""
    return f"adapt-{iteration:03d}"


def adapted(iteration: int) -> File:
    """The weights at the end of an iteration."""
    return File(checkpoint.weights(adapted_folder(iteration), adapted_phase(iteration)), "adapt")


def adapted_meta(iteration: int) -> File:
    """The description of the training of an iteration."""
    return File(checkpoint.meta(adapted_folder(iteration), adapted_phase(iteration)), "adapt")


def final_weights(last_phase: str, iterations: int) -> File:
    """The weights that are searched: those at the end of the training, or of the adaptation where there is one."""
    return adapted(iterations) if iterations else supernet(last_phase)


def predictions(split: str) -> File:
    """The prediction table of the front's members on a split."""
    return File(f"predictions/{split}.npz", "predict")


def prediction_part(split: str, digest: str, start: int) -> str:
    """A part of an unfinished prediction table: the table's digest, and the part's first image."""
    return f"{PREDICTION_PARTS}{split}-{digest[:16]}-{start:08d}.npz"


def latency_table(device: str, step: str) -> File:
    """The latency table of a device, written by the step that needs it first."""
    return File(f"{LATENCY_TABLES}/{device}.json", step)


def batches(step: str) -> File:
    """The times by which the evaluators' batch size is chosen, written by the step that evaluates first."""
    return File(BATCHES, step)


def subnet(name: str, suffix: str) -> File:
    """A file of an exported network."""
    return File(f"subnets/{name}{suffix}", "export")
