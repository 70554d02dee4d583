# `make demo` (or `make demo SHORT=1`), `make test`, and `make bench-convergence` (or with SHORT=1): does it learn
# faster? Each sets itself up on first use.
PYTHON ?= python3
VENV := .venv
INSTALLED := $(VENV)/.installed
BIN := $(VENV)/bin

.PHONY: demo test test-slow bench-convergence format clean

demo: $(INSTALLED)
	$(BIN)/diva demo $(if $(SHORT),--short)

test: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	rm -rf build/mypy && mkdir -p build/mypy/diva_grpo && \
		ln -s $(addprefix $(CURDIR)/,diva_grpo/__init__.py diva_grpo/__main__.py diva_grpo/py.typed schemas pipeline trainer flows) build/mypy/diva_grpo
	MYPYPATH=build/mypy $(BIN)/mypy
	$(BIN)/pytest

# What takes minutes: kills and resumes, several processes, large batches of generated input.
test-slow: $(INSTALLED)
	$(BIN)/pytest -m slow

# Hours on two cores, ten minutes with SHORT=1; killed, it goes on where it was. The page: runs/convergence/page.
CONVERGENCE := runs/convergence$(if $(SHORT),-short)
bench-convergence: $(INSTALLED)
	$(BIN)/python -m tests.bench.convergence --out $(CONVERGENCE) $(if $(SHORT),--short)
	$(BIN)/python -m tests.bench.convergence.page --out $(CONVERGENCE)

format: $(INSTALLED)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed: make PYTHON=/path/to/python3.11 $(MAKECMDGOALS)"; exit 2; }
	$(PYTHON) -m venv $(VENV)
	@echo "Installing into $(VENV): a few minutes, once"
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

clean:
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis
