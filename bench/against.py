"""Compares this checkout with another commit: a training step, measuring, the predicted search's rate, subset scoring.

    python -m bench.against COMMIT --rounds 5

For changes that must not cost time: each part runs in separate processes that alternate between the code of both sides; a
row has the median seconds of both and their ratio (this checkout over the commit; at most 1 is not slower). The parts use
only names that do not change. The search needs the published table and predictor (OFA_REFERENCE_DATA). Takes about a
minute for each round.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parent.parent

# For each part: its imports and preparation with the timed statement, and the number of repetitions (the best counts).
PARTS = {
    "elastic step": (
        """
import torch
from torch.nn import functional as F
from ofa.spaces import get_space
from ofa.supernet import Supernet
import random
space = get_space("ofa_mbv3_w1.0_64px").only(resolutions=(64,))
net = Supernet(space, 100, torch.Generator().manual_seed(1)).train()
images = torch.randn(16, 3, 64, 64, generator=torch.Generator().manual_seed(2)).contiguous(memory_format=torch.channels_last)
labels = torch.arange(16)
rng = random.Random(1)
archs = [space.largest(), *(space.sample(rng) for _ in range(3))]
def once():
    for arch in archs:
        net.zero_grad()
        F.cross_entropy(net(images, arch), labels).backward()
""",
        5,
    ),
    "measuring": (
        """
import random
import torch
from ofa.evaluate import Evaluator
from ofa.images import Scale, Split
from ofa.spaces import get_space
from ofa.supernet import Supernet
space = get_space("digits")
net = Supernet(space, 10, torch.Generator().manual_seed(1)).eval()
pixels = torch.randint(0, 256, (512, 3, 32, 32), generator=torch.Generator().manual_seed(2), dtype=torch.uint8)
split = Split(pixels, torch.arange(512) % 10)
rng = random.Random(1)
archs = [space.sample(rng) for _ in range(60)]
def once():
    evaluator = Evaluator(net, Scale.of(split[:64]), split, 128)
    for arch in archs:
        evaluator.top1(arch, split)
""",
        3,
    ),
    "subset scoring": (
        """
import numpy as np
from ensemble.score import SubsetScorer
rng = np.random.default_rng(1)
logits = rng.standard_normal((60, 8000, 20)).astype(np.float32)
labels = rng.integers(0, 20, 8000)
logits[:, np.arange(8000), labels] += 2
probs = np.exp(logits) / np.exp(logits).sum(2, keepdims=True)
order = np.argsort(-probs, axis=2)[:, :, :5]
scorer = SubsetScorer(order.astype(np.int32), np.take_along_axis(probs, order, 2), labels)
masks = rng.random((4000, 60)) < 0.2
scorer.accuracy(masks[:10])
def once():
    scorer.accuracy(masks)
""",
        5,
    ),
    "archive's rate": (
        """
import os, pathlib
try:
    from jobs.tools.inputs import load
except ImportError:  # before the room jobs/tools
    from jobs.problem import load
from search.predicted import solve
data = pathlib.Path(os.environ["OFA_REFERENCE_DATA"]) / "ofa"
table, predictor = data / "note10_latency_lut_w1.2.json", data / "ofa_acc_predictor_w1.2.npz"
loaded = load("ofa_mbv3_w1.2", [str(table)], str(predictor), [], [], [])
def once():
    solve(loaded.problem, algorithm="archive", evaluations=40000, members=100, seed=1)
""",
        4,
    ),
    "ofa search": (
        """
import os, pathlib, sys, tempfile
data = pathlib.Path(os.environ["OFA_REFERENCE_DATA"]) / "ofa"
from jobs.__main__ import main
folder = tempfile.mkdtemp()
sys.argv = ["ofa", "search", "--space", "ofa_mbv3_w1.2", "--evaluations", "40000", "--out", folder,
            "--latency-table", str(data / "note10_latency_lut_w1.2.json"),
            "--predictor", str(data / "ofa_acc_predictor_w1.2.npz"), "--json"]
def once():
    try:
        main()
    except SystemExit as ended:
        assert not ended.code, ended.code
""",
        2,
    ),
}

TIMED = """
import time
seconds = []
for _ in range({repeats}):
    start = time.perf_counter()
    once()
    seconds.append(time.perf_counter() - start)
print("seconds", min(seconds))
"""


def main() -> None:
    """Prints a table row for each part when it is finished."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("commit", help="the commit that this checkout is compared with")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), default=list(PARTS))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        other = Path(folder) / "other"
        subprocess.run(["git", "worktree", "add", "--quiet", "--detach", str(other), options.commit], cwd=ROOT, check=True)
        try:
            compare(other, options.parts, options.rounds)
        finally:
            subprocess.run(["git", "worktree", "remove", "--force", str(other)], cwd=ROOT, check=True)


def compare(other: Path, parts: list[str], rounds: int) -> None:
    """Times the parts on both sides, which alternate."""
    print("| part | commit, s | this checkout, s | ratio |\n|---|---|---|---|")
    for part in parts:
        times: dict[Path, list[float]] = {other: [], ROOT: []}
        for number in range(rounds):
            for tree in (other, ROOT) if number % 2 == 0 else (ROOT, other):
                times[tree].append(seconds(tree, part))
        before, now = (statistics.median(times[tree]) for tree in (other, ROOT))
        print(f"| {part} | {before:.3f} | {now:.3f} | {now / before:.2f} |", flush=True)


def seconds(tree: Path, part: str) -> float:
    """The seconds of one part with the code in `tree`; the least of its repetitions."""
    code, repeats = PARTS[part]
    environment = {
        "OFA_REFERENCE_DATA": str(ROOT.parent / "shared" / "data"), **os.environ, "PYTHONPATH": str(tree),
        "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    done = subprocess.run([sys.executable, "-c", code + TIMED.format(repeats=repeats)], cwd=tree, env=environment,
                          capture_output=True, text=True, check=False)  # fmt: skip
    if done.returncode:
        raise SystemExit(f"{part} failed in {tree}:\n{done.stderr}")
    return float(done.stdout.rsplit("seconds", 1)[1])


if __name__ == "__main__":
    main()
