# Two commands on a fresh machine: `make train` and `make test`.

PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed

.PHONY: help train test soak sweep probe fork bench docs lint format typecheck clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(STAMP): requirements.txt constraints.txt pyproject.toml setup.py
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or later is required: make PYTHON=python3.12")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt -c constraints.txt
	@touch $@

train: $(STAMP) ## install, then fine-tune and test on Reuters R52 with the defaults
	$(BIN)/python train.py

sweep: $(STAMP) ## fine-tune with five strategies and three seeds each, and compare them
	$(BIN)/python train.py -m sweep=strategies

probe: $(STAMP) ## compare every strategy with five seeds by linear probes on a frozen encoder
	$(BIN)/python train.py -m sweep=probe

test: $(STAMP) ## install, then run the tests
	$(BIN)/python -m pytest -n 2 --dist worksteal

soak: $(STAMP) ## install, then run the tests that take many minutes, such as injected faults
	$(BIN)/python -m pytest -m soak

fork: $(STAMP) ## write a small project that builds on this package: make fork NAME=mytask DIR=../mytask
	@test -n "$(NAME)" -a -n "$(DIR)" || { echo "error: make fork NAME=mytask DIR=../mytask" >&2; exit 2; }
	@rm -rf build dist
	@$(BIN)/python -m pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir dist .
	@$(BIN)/python -m counterpoise.fork $(NAME) $(DIR) --wheel dist/*.whl

bench: $(STAMP) ## measure speed and memory on this CPU against peers (about 15 minutes)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r benchmarks/requirements.txt
	mkdir -p outputs/bench
	$(BIN)/python benchmarks/start_up.py --repeats 3 --json outputs/bench/start_up.json
	$(BIN)/python benchmarks/training.py --repeats 2 --json outputs/bench/training.json
	$(BIN)/python benchmarks/inference.py --texts 500 --repeats 2 --json outputs/bench/inference.json
	$(BIN)/python benchmarks/samplers.py --json outputs/bench/samplers.json
	$(BIN)/python benchmarks/data_scale.py --rows 100000 200000 --json outputs/bench/data_scale.json
	$(BIN)/python benchmarks/scaling.py --json outputs/bench --picture outputs/bench

docs: $(STAMP) ## build the documentation into build/docs
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[docs]" -c constraints.txt
	$(BIN)/python -m sphinx -W -n --keep-going docs build/docs

lint: $(STAMP) ## check style and formatting
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(STAMP) ## format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

typecheck: $(STAMP) ## check the types
	$(BIN)/mypy

clean: ## remove the environment and caches (outputs/ stays)
	rm -rf .venv build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -prune -exec rm -rf {} +
