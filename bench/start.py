"""CPU seconds of commands without computation: help, costs, a list of runs, and a config with an error.

    python -m bench.start --checkout . --checkout ../before

User and system time of a new interpreter, the least of `--rounds`, for the code of each checkout.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile

COMMANDS = {
    "ofa --help": ["--help"],
    "ofa cost": ["cost", "--space", "digits", "--arch", "r24-d111-k300.300.300-e100.100.100"],
    "ofa results list": ["results", "list", "--store", "STORE"],
    "a config that is refused": ["run", "nowhere.toml"],
}


def cpu_s(checkout: str, arguments: list[str]) -> float:
    """User and system seconds of one `ofa` command with the code of `checkout`."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-m", "jobs", *arguments], env={**os.environ, "PYTHONPATH": os.path.abspath(checkout)},
                   cwd=checkout, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)  # fmt: skip
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    """Prints a row for each command, with a column for each checkout."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkout", action="append", help="a folder with the code; may be repeated; this one if not given")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    checkouts = options.checkout or ["."]
    print(f"{'CPU seconds':28}" + "".join(f"{checkout:>20}" for checkout in checkouts))
    with tempfile.TemporaryDirectory() as store:
        for name, words in COMMANDS.items():
            arguments = [store if word == "STORE" else word for word in words]
            least = [min(cpu_s(checkout, arguments) for _ in range(options.rounds)) for checkout in checkouts]
            print(f"{name:28}" + "".join(f"{seconds:>20.2f}" for seconds in least), flush=True)


if __name__ == "__main__":
    main()
