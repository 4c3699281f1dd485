# Every target sets up what it needs. `make sweep` and `make test` are all that a new machine needs to know.
.PHONY: help setup sweep test lint ui report lock clean
.DEFAULT_GOAL := help

PYTHON ?= python3
STUDY ?= quickstart
BIN := .venv/bin

help:
	@echo "make sweep    set up, run the quickstart study, print its table (STUDY=name, ARGS='key=value ...')"
	@echo "make test     set up, run the tests (ARGS='tests/models -k name' for some of them)"
	@echo "make lint     formatting, rules, layers, types"
	@echo "make report   write a study's table again from MLflow"
	@echo "make ui       MLflow's pages on the loopback address"
	@echo "make lock     resolve the lock file again"
	@echo "make clean    delete environment, store, record and reports"

setup: .venv/ready

.venv/ready: requirements.lock pyproject.toml
	$(PYTHON) -c "import sys; assert (3, 11) <= sys.version_info < (3, 14), 'ablab needs Python 3.11 to 3.13'"
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

sweep: setup
	$(BIN)/ablab sweep study=$(STUDY) $(ARGS)

# On two cores at a time: what starts Ray, and beside it all else, which is told when it is done. One thread each.
RAY := tests/cli tests/engine tests/test_chaos.py
test: setup
ifdef ARGS
	$(BIN)/python -m pytest $(ARGS)
else
	@told=$$(mktemp); $(BIN)/python -m pytest $(RAY:%=--ignore=%) > $$told 2>&1 & beside=$$!; \
	trap "kill $$beside" INT TERM; \
	$(BIN)/python -m pytest $(RAY); failed=$$?; \
	wait $$beside || failed=1; cat $$told; rm $$told; exit $$failed
endif

lint: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports
	$(BIN)/mypy

report: setup
	$(BIN)/ablab report study=$(STUDY)

ui: setup
	$(BIN)/ablab ui $(ARGS)

lock: setup
	$(BIN)/uv pip compile pyproject.toml --extra dev --universal --python-version 3.11 --no-header \
		--no-emit-index-url --no-annotate --quiet --output-file requirements.lock

clean:
	rm -rf .venv .ablab reports/*/ build dist
