# Two commands on a fresh machine: `make train` and `make test`.

PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed

.PHONY: help train test sweep probe bench lint format typecheck clean

help: ## what there is to make
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(STAMP): requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or later is needed: make PYTHON=...")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	@touch $@

train: $(STAMP) ## install, then fine-tune and test on Reuters R52 with the defaults
	$(BIN)/python train.py

sweep: $(STAMP) ## train with each of the five strategies and compare them
	$(BIN)/python train.py -m sweep=strategies

probe: $(STAMP) ## try every strategy, five seeds each, on a frozen encoder and compare them
	$(BIN)/python train.py -m sweep=probe

test: $(STAMP) ## install, then run the tests
	$(BIN)/python -m pytest -n 2 --dist worksteal

bench: $(STAMP) ## measure speed and memory on this CPU against peers, in a quarter of an hour
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r benchmarks/requirements.txt
	mkdir -p outputs/bench
	$(BIN)/python benchmarks/start_up.py --repeats 3 --json outputs/bench/start_up.json
	$(BIN)/python benchmarks/training.py --repeats 2 --json outputs/bench/training.json
	$(BIN)/python benchmarks/inference.py --texts 500 --repeats 2 --json outputs/bench/inference.json
	$(BIN)/python benchmarks/samplers.py --json outputs/bench/samplers.json
	$(BIN)/python benchmarks/data_scale.py --rows 100000 200000 --json outputs/bench/data_scale.json
	$(BIN)/python benchmarks/scaling.py --json outputs/bench --picture outputs/bench

lint: $(STAMP) ## look for mistakes and bad layout
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(STAMP) ## lay the code out
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

typecheck: $(STAMP) ## check the types
	$(BIN)/mypy

clean: ## remove what was installed and cached here (runs in outputs/ stay)
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -prune -exec rm -rf {} +
