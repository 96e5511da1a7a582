"""The digits pipeline on three Ray nodes and a real S3 server, while from a seed processes are killed and answers fail.

    python -m bench.chaos --store chaos --runs 20 --seed 1

Each run is `ofa run` with `SETTINGS` on a joined cluster: a head without CPUs and two nodes of two CPUs, each in processes
of its own, and Ceph's S3 gateway behind a proxy (`bench/fault_proxy.py`). `FAULTS_A_RUN` faults hit it, each at a share of a
step's time, the next one once the run has written an object again: SIGKILL to an evaluator, to a training worker, to all
processes of a node (another joins 10 s later), to the driver (started again after 1 s), and to the server (started again
after 10 s); and for `ANSWERS_S` seconds every answer is 500, 503, slow (3 s) or cut in half.

Every run leaves `<store>/run-<number>.json`, so the same command continues; one without faults comes first, to compare with.
Wants Debian's radosgw (`make services`). A run takes three minutes on two cores that others use too. With `--table` only the
table of the runs that are there is printed.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from bench.fault_proxy import FAULTS as ANSWERS
from bench.fault_proxy import KEPT, FaultProxy, Request
from bench.machines import ROOT, Cluster, S3Server, kill, marked_environment, s3_settings
from cluster.seeds import stream
from cluster.texts import json_lines
from jobs.config import load

SETTINGS = (
    "name=chaos", "data.selection=0.2", "data.test=0.2", "train.batch=128", "train.validate_every=1",
    "train.checkpoint_s=0.5",
    'train.phases=[{name="largest",epochs=3,lr=0.1,depths=[3],kernels=[7],expands=[4]},'
    '{name="width",epochs=5,lr=0.05,largest=true,distil=1.0}]',
    "measure.archs=60", "measure.calibration_images=128", "measure.latency_archs=5", "measure.latency_runs=5",
    "search.evaluations=80", "search.population=20", "search.predicted_evaluations=1000", "search.predicted_members=8",
)  # fmt: skip
COMPARED = ("front.json", "ensembles.json", "measured.jsonl", "search.jsonl")
EVALUATOR, TRAINER, NODE, DRIVER, SERVER = "evaluator", "training worker", "node", "driver", "S3 server"
KINDS = (EVALUATOR, TRAINER, NODE, DRIVER, SERVER, *ANSWERS)
STEPS: dict[str, tuple[str, ...]] = {  # in which steps a fault begins
    EVALUATOR: ("measure", "search"),
    TRAINER: ("train",),
    NODE: ("train", "measure", "search"),
}
ANY = ("train", "measure", "search", "predict", "export")
TITLES = {EVALUATOR: "ray::_Actor", TRAINER: "ray::RayTrainWorker"}  # of worker processes
LABELS = {  # in the table
    EVALUATOR: "an evaluator killed",
    TRAINER: "a training worker killed",
    NODE: "a node killed, another joins 10 s later",
    DRIVER: "the driver killed, started again after 1 s",
    SERVER: "the S3 server killed, started again after 10 s",
    "500": "every answer is 500, for 10 s",
    "503": "every answer is 503, for 10 s",
    "slow": "every answer takes 3 s longer, for 10 s",
    "half": "every answer ends halfway, for 10 s",
}
FAULTS_A_RUN = 3
ANSWERS_S = 10.0
AGAIN_S = {NODE: 10.0, DRIVER: 1.0, SERVER: 10.0}  # until it is started again
LOOK_S = 0.2
STARTS = 12  # of the command, after which a run has failed
RUN_S = 2400.0  # after which a run has failed
BUCKET = "chaos"


@dataclass(frozen=True)
class Fault:
    """A fault that begins at a share of the shortest time that a step has taken."""

    kind: str
    step: str
    share: float


@dataclass
class Happened:
    """A fault that took place, its time in the run, and the seconds until the run has written an object after it."""

    kind: str
    step: str
    at_s: float
    lost_s: float | None = None


@dataclass
class Outcome:
    """What became of a run. exits: of commands that ended without being killed, and were started again."""

    run: int
    seconds: float = 0.0
    faults: list[Happened] = field(default_factory=list)
    missed: list[Fault] = field(default_factory=list)
    starts: int = 0
    exits: list[dict[str, Any]] = field(default_factory=list)
    evaluations: int = 0
    twice: int = 0
    differ: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    steps: dict[str, float] = field(default_factory=dict)  # seconds of each, in its last attempt
    digests: dict[str, str] = field(default_factory=dict)

    @property
    def lost_trainer(self) -> bool:
        """Whether a training worker may have been lost."""
        return any(one.kind == TRAINER or (one.kind == NODE and one.step == "train") for one in self.faults)


def plan(seed: int, run: int) -> tuple[Fault, ...]:
    """The faults of a run, in the order of the steps; each kind is taken once before any is taken again."""
    chosen = []
    for place in range(run * FAULTS_A_RUN, (run + 1) * FAULTS_A_RUN):
        turn, index = divmod(place, len(KINDS))
        kinds = list(KINDS)
        stream(seed, "chaos", "kinds", turn).shuffle(kinds)
        rng = stream(seed, "chaos", "fault", place)
        chosen.append(Fault(kinds[index], rng.choice(STEPS.get(kinds[index], ANY)), round(rng.uniform(0.1, 0.9), 3)))
    return tuple(sorted(chosen, key=lambda fault: (ANY.index(fault.step), fault.share)))


def evaluated(requests: Sequence[Request]) -> tuple[int, int]:
    """The number of evaluations in the parts of ledgers that were written, and of those whose arch was in one before."""
    parts = {(r.path, r.body) for r in requests if r.stored and KEPT.search(r.path)}
    archs = [json.dumps(json.loads(line)["arch"], sort_keys=True) for _, body in parts for line in body.splitlines()]
    return len(archs), len(archs) - len(set(archs))


class Driver:
    """`ofa run` in a process of its own, and the steps that it has begun."""

    def __init__(self, command: Sequence[str], environment: dict[str, str], errors: Path) -> None:
        self.errors = errors
        self.began: dict[str, float] = {}
        self.lines: list[str] = []
        with errors.open("wb") as out:
            self.process = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                            stderr=out, text=True, start_new_session=True, cwd=errors.parent)  # fmt: skip
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line)
            try:
                event = json.loads(line)
            except ValueError:
                continue  # `problems` finds it
            if event.get("event") == "started":
                self.began[event["step"]] = time.monotonic()

    def kill(self) -> None:
        """SIGKILL to its process."""
        kill(self.process.pid)
        self.process.wait()

    def last_line(self) -> str:
        """The last line of its errors."""
        lines = self.errors.read_text(errors="replace").strip().splitlines()
        return lines[-1] if lines else ""

    def problems(self) -> list[str]:
        """What is not meant for a user: a traceback, lines of Ray's own, and lines of output that are not JSON."""
        self.reader.join(timeout=30)
        found = []
        text = self.errors.read_text(errors="replace")
        if "Traceback" in text:
            found.append(f"a traceback: {text[-1500:]}")
        elif any(mark in text for mark in ("(raylet", "core_worker", "gcs_client", "[0m", ".cc:")):
            found.append(f"lines of Ray: {text[-1500:]}")
        for line in self.lines:
            try:
                json.loads(line)
            except ValueError:
                if not line.endswith("\n"):
                    continue  # the process was killed within a line
                found.append(f"no JSON: {line[:200]}")
        return found


class Place:
    """Where runs take place: the nodes, the server and the proxy before it."""

    def __init__(self, folder: Path, config: str, stack: ExitStack) -> None:
        self.folder, self.config = folder, config
        environment, scratch = stack.enter_context(marked_environment(folder))
        self.server = S3Server(scratch / "s3", environment)
        stack.callback(self.server.call, "remove")
        self.server.call("start")
        self.proxy = stack.enter_context(FaultProxy(self.server.port))
        access = s3_settings(self.proxy.port)
        self.cluster = Cluster(scratch, {**environment, **access}, nodes=2)  # workers use the store too
        stack.callback(self.cluster.close)
        self.environment = {**environment, **access, **self.cluster.access, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        os.environ.update(access)
        self._bucket()

    def _bucket(self) -> None:
        import boto3

        boto3.session.Session().client("s3").create_bucket(Bucket=BUCKET)

    def command(self, *arguments: str) -> list[str]:
        """An `ofa` command."""
        return [sys.executable, "-m", "jobs", *arguments]

    def drive(self, store: str) -> Driver:
        """Starts the command of a run."""
        sets = [word for setting in SETTINGS for word in ("--set", setting)]
        command = self.command("run", str(Path(self.config).resolve()), "--store", store, "--json", *sets)
        return Driver(command, self.environment, self.folder / "driver.err")

    def verify(self, store: str) -> list[str]:
        """The problems that `ofa results verify` finds."""
        done = subprocess.run(self.command("results", "verify", "--store", store), env=self.environment, cwd=self.folder,
                              capture_output=True, text=True, check=False)  # fmt: skip
        return [] if done.returncode == 0 else [f"verify: {line}" for line in (done.stdout + done.stderr).splitlines()]


class Disturbed:
    """One run, and the faults that are still to come."""

    def __init__(self, place: Place, number: int, faults: Sequence[Fault], usual: dict[str, float], seed: int) -> None:
        self.place, self.pending, self.usual = place, list(faults), usual
        self.outcome = Outcome(number)
        self.rng = stream(seed, "chaos", "targets", number)
        self.store = f"s3://{BUCKET}/run-{number:02d}-{int(time.time())}"
        self.later: list[tuple[float, Any]] = []  # what happens at a time
        self.began = time.monotonic()
        self.seen = len(place.proxy.requests)
        self.driver: Driver | None = None
        self.busy = threading.Thread()

    def run(self) -> Outcome:
        """Runs until the command has ended with 0; returns what happened."""
        outcome = self.outcome
        self._start()
        while True:
            time.sleep(LOOK_S)
            now = time.monotonic()
            for due in [one for one in self.later if one[0] <= now]:
                self.later.remove(due)
                due[1]()
            self._observe()
            if self.driver is not None and self.driver.process.poll() is not None:
                code = self.driver.process.returncode
                outcome.problems += self.driver.problems()
                if code == 0:
                    break
                outcome.exits.append({"code": code, "line": self.driver.last_line(), "at_s": round(now - self.began, 1)})
                print(f"  exit {code}: {self.driver.last_line()}", flush=True)
                if code == 2:
                    outcome.problems.append(f"exit code 2: {self.driver.last_line()}")
                if outcome.starts >= STARTS or not outcome.faults:
                    outcome.problems.append(f"not finished after {STARTS} starts")
                    break
                self.driver = None
            if self.driver is None and not self._disturbed():
                self._start()
            if now - self.began > RUN_S:
                outcome.problems.append(f"not finished after {RUN_S:.0f} s; last: {self.driver and self.driver.lines[-1:]}")
                if self.driver is not None:
                    self.driver.kill()
                break
            self._disturb(now)
        outcome.seconds = round(time.monotonic() - self.began, 1)
        self._calm()
        outcome.missed += self.pending
        self._check()
        return outcome

    def _start(self) -> None:
        self.outcome.starts += 1
        self.driver = self.place.drive(self.store)

    def _disturbed(self) -> bool:
        """Whether what a fault has stopped is not started yet."""
        return bool(self.later) or self.busy.is_alive()

    def _requests(self) -> list[Request]:
        return self.place.proxy.requests[self.seen :]

    def _observe(self) -> None:
        """Notes the time at which the run has written an object after the last fault."""
        happened = self.outcome.faults
        if not happened or happened[-1].lost_s is not None:
            return
        since = self.began + happened[-1].at_s
        for request in self._requests():
            if request.at > since and request.stored and request.whole and "/attempts/" not in request.path:
                happened[-1].lost_s = round(request.at - since, 1)
                return

    def _disturb(self, now: float) -> None:
        """Lets the next fault happen if it is due and the run is over the one before."""
        last = self.outcome.faults[-1:]
        if not self.pending or self.driver is None or self._disturbed() or (last and last[0].lost_s is None):
            return
        fault, began = self.pending[0], self.driver.began
        passed = any(step in began for step in ANY[ANY.index(fault.step) + 1 :])
        due = fault.step in began and now - began[fault.step] >= fault.share * self.usual.get(fault.step, 0.0)
        if not due and not passed:
            return
        if self._happen(fault, now):
            del self.pending[0]
            step = list(began)[-1] if began else ""
            self.outcome.faults.append(Happened(fault.kind, step, round(now - self.began, 2)))
            print(f"  {now - self.began:6.1f} s  {fault.kind} in {step}", flush=True)
        elif passed:  # a training worker after the training: the faults behind it need not wait
            self.outcome.missed.append(self.pending.pop(0))

    def _happen(self, fault: Fault, now: float) -> bool:
        """Whether the fault could take place: a worker is killed only while there is one."""
        place = self.place
        if fault.kind in TITLES:
            pids = sorted(pid for node in place.cluster.nodes for pid in node.workers(TITLES[fault.kind]))
            if not pids:
                return False
            kill(self.rng.choice(pids))
        elif fault.kind == NODE:
            busy = [node for node in place.cluster.nodes if any(node.workers(title) for title in TITLES.values())]
            if not busy:
                return False
            place.cluster.lose(self.rng.choice(busy))
            self.later.append((now + AGAIN_S[NODE], place.cluster.add))
        elif fault.kind == DRIVER:
            assert self.driver is not None
            self.driver.kill()
            self.outcome.problems += self.driver.problems()
            self.driver = None
            self.later.append((now + AGAIN_S[DRIVER], lambda: None))  # then `run` starts it
        elif fault.kind == SERVER:
            place.server.call("crash")
            self.later.append((now + AGAIN_S[SERVER], self._start_server))
        else:
            place.proxy.fault = fault.kind
            self.later.append((now + ANSWERS_S, self._answer))
        return True

    def _start_server(self) -> None:
        self.busy = threading.Thread(target=self.place.server.call, args=("start",))
        self.busy.start()

    def _answer(self) -> None:
        self.place.proxy.fault = ""

    def _calm(self) -> None:
        """Undoes what is still undone, so that the next run begins with everything."""
        for _, action in sorted(self.later, key=lambda one: one[0]):
            action()
        if self.busy.ident is not None:
            self.busy.join()
        for node in self.place.cluster.nodes:
            node.wait_until_started()
        for one in self.outcome.faults:
            if one.lost_s is None:
                one.lost_s = round(max(self.outcome.seconds - one.at_s, 0.0), 1)

    def _check(self) -> None:
        from cluster.store import open_store

        outcome, driver = self.outcome, self.driver
        outcome.evaluations, outcome.twice = evaluated(self._requests())
        if outcome.twice:
            outcome.problems.append(f"{outcome.twice} evaluations of archs that were in a ledger before")
        outcome.problems += self.place.verify(self.store)
        store = open_store(self.store)
        records = {key: json.loads(store.read(key)) for key in store.keys() if key.endswith(".done.json")}
        for record in records.values():
            outcome.steps[record["step"]] = record["seconds"]
            outcome.digests.update({key: out["sha256"] for key, out in record["outputs"].items() if key in COMPARED})
        missing = [name for name in COMPARED if name not in outcome.digests]
        outcome.problems += [f"{name} is missing" for name in missing]
        assert driver is None or driver.process.poll() is not None
        for key in store.keys():
            store.delete(key)


def shortest(outcomes: Sequence[Outcome]) -> dict[str, float]:
    """The least seconds of each step: a fault that is due at a share of them falls into the step."""
    steps = {step for one in outcomes for step in one.steps}
    return {step: min(one.steps[step] for one in outcomes if step in one.steps) for step in steps}


def table(reference: Outcome, outcomes: Sequence[Outcome]) -> list[str]:
    """The rows of docs/reliability.md: each kind of fault, its times, the seconds until the next write, and the outcome."""
    rows = ["| fault | times | seconds until the run wrote again: median (least to most) | runs | exits with an error | "
            "same front |", "|---|---|---|---|---|---|"]  # fmt: skip
    for kind in KINDS:
        faults = [(one, fault) for one in outcomes for fault in one.faults if fault.kind == kind]
        if not faults:
            continue
        lost = sorted(fault.lost_s or 0.0 for _, fault in faults)
        runs = list({one.run: one for one, _ in faults}.values())
        exits = sum(len(one.exits) for one in runs)
        same = sum(not one.differ for one in runs)
        rows.append(f"| {LABELS[kind]} | {len(faults)} | {statistics.median(lost):.1f} ({lost[0]:.1f} to {lost[-1]:.1f}) | "
                    f"{len(runs)} | {exits} | {same} of {len(runs)} |")  # fmt: skip
    seconds = sorted(one.seconds for one in outcomes)
    good = sum(not one.problems for one in outcomes)
    if outcomes:
        rows += ["", f"{len(outcomes)} runs, {good} without a problem; {statistics.median(seconds):.0f} s "
                 f"({seconds[0]:.0f} to {seconds[-1]:.0f}), undisturbed {reference.seconds:.0f} s; "
                 f"{sum(one.evaluations for one in outcomes)} evaluations in ledgers, "
                 f"{sum(one.twice for one in outcomes)} of them of an arch that was in one before"]  # fmt: skip
    return rows


def read(file: Path) -> Outcome:
    """An outcome from its file."""
    found = json.loads(file.read_text())
    found["faults"] = [Happened(**one) for one in found["faults"]]
    found["missed"] = [Fault(**one) for one in found["missed"]]
    return Outcome(**found)


def write(file: Path, outcome: Outcome) -> None:
    """Writes an outcome, whole or not at all."""
    part = file.with_suffix(".part")
    part.write_text(json_lines(asdict(outcome)))
    part.replace(file)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", type=Path, required=True, help="folder of the results and of the servers' data")
    parser.add_argument("--config", default=str(ROOT / "configs/digits.toml"))
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--table", action="store_true", help="only print the table of the runs that are there")
    options = parser.parse_args()
    folder: Path = options.store.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    load(options.config, SETTINGS)  # an error in them before anything is started
    files = {number: folder / f"run-{number:02d}.json" for number in range(options.runs + 1)}  # 0: without faults
    wanted = [] if options.table else [number for number, file in files.items() if not file.exists()]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(130))
    with ExitStack() as stack:
        place = Place(folder, options.config, stack) if wanted else None
        for number in wanted:
            assert place is not None
            faults = plan(options.seed, number - 1) if number else ()
            usual = shortest([read(file) for file in files.values() if file.exists()])
            print(f"run {number}: " + (", ".join(f"{f.kind} in {f.step}" for f in faults) or "undisturbed"), flush=True)
            outcome = Disturbed(place, number, faults, usual, options.seed).run()
            if number:
                usual_digests = read(files[0]).digests
                outcome.differ = [name for name in COMPARED if outcome.digests.get(name) != usual_digests[name]]
                if outcome.differ and not outcome.lost_trainer:
                    outcome.problems.append(f"other than undisturbed: {', '.join(outcome.differ)}")
            write(files[number], outcome)
            print(f"  {outcome.seconds:.0f} s, {outcome.starts} starts, problems: {outcome.problems or 'none'}", flush=True)
            if not number and outcome.problems:
                files[number].unlink()
                raise SystemExit("the undisturbed run has problems")
    there = [read(file) for number, file in files.items() if number and file.exists()]
    if files[0].exists():
        print("\n".join(table(read(files[0]), there)))


if __name__ == "__main__":
    main()
