# Two commands do all the set-up: "make demo" tells the story, "make test" runs the tests. The rest is for developers.

PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin

.PHONY: demo test real check prove bench reference pictures clean

demo: $(VENV)/ready
	@$(BIN)/dumpvault demo

test: $(VENV)/ready-to-test
	$(BIN)/python -m pytest $(PYTEST_ARGS)

# Real kernels panic under QEMU and capture their own memory; SWEEP=1 looks for the least crashkernel= that works.
real: $(VENV)/ready-to-test
ifdef SWEEP
	@PYTHONPATH=tests $(BIN)/python -m real.sweep
else
	$(BIN)/python -m pytest tests/real $(PYTEST_ARGS)
endif

# The proofs alone: power loss, kills, faulty disks, mutations of the order, tampering; their counts are printed last.
prove: $(VENV)/ready-to-test
	$(BIN)/python -m pytest tests/proofs tests/release tests/e2e/test_tampering.py $(PYTEST_ARGS)

# What a change must also pass.
check: $(VENV)/ready-to-test
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(VENV)/ready
	$(BIN)/python benchmarks/capture.py

# The reference of commands is written from their own --help, that of policies from the tables of rules and of tests.
reference: $(VENV)/ready
	$(BIN)/python docs/reference/generate.py

# The screenshots in the documentation, by a real Chromium.
pictures: $(VENV)/ready-to-test
	$(BIN)/python docs/pictures/report.py

$(VENV)/ready: pyproject.toml
	@$(PYTHON) -m venv $(VENV) >/dev/null 2>&1 || { echo "installing Debian's python3-venv"; \
	  apt-get update -q && apt-get install -qy python3-venv && $(PYTHON) -m venv $(VENV); }
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade 'pip>=25.1'
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	@touch $@

$(VENV)/ready-to-test: $(VENV)/ready
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --group dev
	@touch $@

clean:
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
