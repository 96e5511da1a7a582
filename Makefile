# Everything a developer runs. `make demo` and `make test` need nothing but Python 3.11 or 3.12 and the network.
PYTHON ?= python3
BIN := .venv/bin
# Options for every call of pytest: make test PYTEST_OPTIONS=--durations=25
PYTEST_OPTIONS ?=
PYTEST = $(BIN)/python -m pytest $(PYTEST_OPTIONS)
# Tests that share a server, a Ray or a run go to one process (tests/uses.py).
# Twice as many processes as there are cores: those that ask servers wait for most of their time.
PROCESSES = $(shell $(PYTHON) -c 'import os; print(2 * os.cpu_count())')
PARALLEL = OMP_NUM_THREADS=1 $(PYTEST) -n $(PROCESSES) --dist loadgroup
IN_TWO = $(PYTEST) -n 2 --dist loadgroup

.PHONY: setup lock demo horovod test test-unit test-all test-horovod check lint types structure docs bench bench-search bench-ensemble bench-gpu bench-chaos services

setup: .venv/installed

.venv/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' \
	  || { echo "setup: $(PYTHON) is no Python 3.11 or 3.12; call make PYTHON=/path/to/one"; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile -c constraints.txt -e '.[dev]'
	@# pip would compile everything on one core, tests of packages too; a file that has no valid Python is left alone, as by pip
	@$(BIN)/python -m compileall -qq -j 0 -x '/tests?/' .venv/lib || true
	@touch $@

# requirements.lock: what an image installs, with hashes. After every change of dependencies or of constraints.txt.
lock: setup
	@{ echo '# What an image installs: pip install --no-deps --require-hashes -r requirements.lock'; \
	   echo '# Made by `make lock`; versions are those of constraints.txt. torch and the CUDA libraries below are the build that PyPI'; \
	   echo '# has. Its build for CPUs is another file with other hashes under the same version, in the index of PyTorch alone:'; \
	   echo '# k8s/Dockerfile leaves these entries out for the target cpu and takes torch by its version, unhashed.'; \
	   $(BIN)/uv pip compile pyproject.toml -c constraints.txt --python-platform linux --python-version 3.11 --quiet \
	     --generate-hashes --no-header --no-annotate --no-config --default-index https://pypi.org/simple; } > requirements.lock.new
	@mv requirements.lock.new requirements.lock

# The whole pipeline on the embedded digits, a few minutes on two cores.
demo: setup
	$(BIN)/ofa run configs/digits.toml

# What tests need beyond Python: an S3 server (Ceph's radosgw) and Chromium. Debian and root only; else tests skip.
services:
	@tests/services.sh

# Horovod, for train.backend = "horovod": two minutes for the first time, then from a wheel in ~/.cache/ofa-cluster.
horovod: setup
	@tools/horovod.sh $(BIN)/python

# Tests are marked by what they use beyond their process (pyproject.toml, tests/uses.py). Those without a mark, in about 6 minutes:
MARKED := cluster or server or browser or whole_run
MANY := cluster or browser or whole_run
test-unit: setup
	$(PARALLEL) -m "not slow and not ($(MARKED))"

# All but the slow ones: first what takes a process a core, then what starts processes itself, two at a time (the demo alone).
test: setup services
	$(PARALLEL) -m "not slow and not ($(MANY))"
	$(IN_TWO) -m "not slow and ($(MANY))"

# Those too that take minutes each.
test-all: setup services
	$(PARALLEL) -m "not ($(MANY))"
	$(IN_TWO) -m "$(MANY)"

# Those of Horovod, which test-all skips where it is not built.
test-horovod: horovod
	$(IN_TWO) -m horovod

check: lint types structure

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: setup
	$(BIN)/mypy

# Dependency direction, the docs' commands, the site
structure: setup
	$(BIN)/python -m pytest -q tests/test_architecture.py tests/test_docs.py tests/test_site.py

# The docs site with its API reference, in site/: open site/index.html.
docs: setup
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build

# Every figure of docs/benchmarks.md and docs/scaling.md; those on CIFAR-10 need its Parquet files: make bench DATA=DIR
DATA ?= data/cifar10
bench: setup
	$(BIN)/python -m bench.start
	$(BIN)/python -m bench.pipeline
	$(BIN)/python -m bench.supernet_step
	$(BIN)/python -m bench.draws
	$(BIN)/python -m bench.scaling
	$(BIN)/python -m bench.training_rate --data $(DATA)
	$(BIN)/python -m bench.recipes --data $(DATA) --only shrinking whole delayed alone

# A machine with a GPU and torch, for at most eight minutes; installs nothing. OUT=DIR takes gpu.jsonl.
bench-gpu:
	$(PYTHON) -m bench.gpu --data $(DATA)

# Searches and predictors beside the published figures; needs the folder of measurements by others (OFA_REFERENCE_DATA).
# The last one is estimated to take hours, and days with "Optuna GPSampler" and "BoTorch qLogNEHVI".
bench-search: setup
	$(BIN)/python -m bench.search
	$(BIN)/python -m bench.predictors
	$(BIN)/python -m bench.measured_search
	$(BIN)/python -m bench.rivals --searchers guided nsga2 random "pymoo NSGA-II" "pymoo AGE-MOEA" "Optuna TPE" "Optuna NSGA-II"

# Runs with faults from a seed, on three Ray nodes and a real S3 server (docs/reliability.md); STORE keeps their results.
STORE ?= runs/chaos
bench-chaos: setup services
	$(BIN)/python -m bench.chaos --store $(STORE)

# Exact ensemble scores and their selection against the published ones, and other libraries' selections on the same tables (of
# those that are installed; RUN/predictions of a run in its place: --predictions); about half an hour.
bench-ensemble: setup
	$(BIN)/python -m bench.ensemble --seeds 1 2 3
	$(BIN)/python -m bench.selections
