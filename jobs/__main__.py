"""`python -m jobs` is `ofa`."""

from __future__ import annotations

import sys

PACKAGES = ("cluster", "ensemble", "jobs", "ofa", "search")


def main() -> None:
    """Runs a command; a module of another project that stands before one of our packages is one line and exit code 2."""
    try:
        from jobs.cli.main import main as command
    except ImportError as error:
        name = (error.name or "").partition(".")[0]
        if name not in PACKAGES or getattr(sys.modules.get(name), "__file__", None) is None:
            raise
        print(
            f"ofa: {sys.modules[name].__file__} is imported for the package {name} of ofa-cluster; "
            "take its directory out of PYTHONPATH, or rename it",
            file=sys.stderr,
        )
        raise SystemExit(2) from None
    command()


if __name__ == "__main__":
    main()
