"""`python -m jobs` is `ofa`."""

from jobs.cli import main

if __name__ == "__main__":
    main()
