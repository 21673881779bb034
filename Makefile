# make demo: the main job on real images. make test: the tests. Both set up .venv first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
WORKDIR ?= workdir/quickstart
# Tests side by side; each takes about 3 GB at most.
JOBS ?= 2
# Most of `make test` is compilation of small programs: without optimization and without XLA's newest code
# generator it takes half as long. The slow tests, which compute, run what users run.
QUICK := --xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false \
	--xla_cpu_parallel_codegen_split_count=1

# Memory in pages of 2 MB, where Linux gives them to those who ask (srdef/huge_pages.py).
export GLIBC_TUNABLES ?= glibc.malloc.hugetlb=1

.DELETE_ON_ERROR:
.PHONY: demo test test-slow test-faults lint docs clean

demo: $(VENV)/requirements.done
	$(BIN)/python -m experiments.evaluate --config=configs/quickstart.py --workdir=$(WORKDIR)

test: $(VENV)/requirements-dev.done
	@flags="$(XLA_FLAGS)"; for flag in $(QUICK); do \
		if XLA_FLAGS="$$flags $$flag" $(BIN)/python -c "import jax; jax.devices()" 2> /dev/null; \
		then flags="$$flags $$flag"; else echo "this jaxlib does not know $$flag"; fi; done; \
	set -x; XLA_FLAGS="$$flags" $(BIN)/python -m pytest -n $(JOBS) -m "not slow and not gpu" $(PYTEST_OPTIONS)

test-slow: $(VENV)/requirements-dev.done
	$(BIN)/python -m pytest -n $(JOBS) -m "slow and not full and not gpu" $(PYTEST_OPTIONS)

# The long version of what the other tests do briefly: damaged weights files, runs killed and interrupted.
test-faults: $(VENV)/requirements-dev.done
	SRDEF_FAULTS=20000 SRDEF_FAULT_SEEDS=6 $(BIN)/python -m pytest -s tests/faults \
		tests/experiments/test_evaluate.py -k "faults or anywhere" $(PYTEST_OPTIONS)

lint: $(VENV)/requirements-dev.done
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# A site that works without a network: open site/index.html.
docs: $(VENV)/requirements-docs.done
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

clean:
	rm -rf $(VENV) build dist site *.egg-info .pytest_cache .ruff_cache .mypy_cache

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "srdef needs Python 3.11 or newer; say which one: make PYTHON=python3.12"; exit 2; }
	$(PYTHON) -m venv $(VENV)

# The checkout itself too, so that `import srdef` and the command `srdef` work from any folder.
$(VENV)/requirements.done: requirements.txt requirements-library.txt requirements-experiments.txt \
		requirements-samples.txt pyproject.toml setup.py | $(BIN)/python
	$(BIN)/python -m pip install --disable-pip-version-check --progress-bar on -r requirements.txt
	$(BIN)/python -m pip install --disable-pip-version-check --no-deps -e .
	@touch $@

$(VENV)/requirements-dev.done: requirements-dev.txt requirements-parity.txt $(VENV)/requirements.done
	$(BIN)/python -m pip install --disable-pip-version-check -r requirements-dev.txt
	$(BIN)/python -m pip install --disable-pip-version-check --no-deps -r requirements-parity.txt
	@touch $@

$(VENV)/requirements-docs.done: requirements-docs.txt $(VENV)/requirements.done
	$(BIN)/python -m pip install --disable-pip-version-check -r requirements-docs.txt
	@touch $@
