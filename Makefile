.DEFAULT_GOAL := help
RUN := .venv/bin/python
# The first Python from 3.11 to 3.13 that runs (a pyenv shim may be there and fail) and can make an environment. The
# tests of the project run with 3.11.
FIND_PYTHON := for python in python3.11 python3.12 python3.13 python3 python; do \
	$$python -c 'import ensurepip, sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null \
	&& echo $$python && break; done
PYTHON ?= $(shell $(FIND_PYTHON))
CORES := $(shell nproc 2>/dev/null || echo 2)

help: ## List these targets
	@grep -E '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-15s %s\n", $$1, $$2}'

# uv installs in seconds. It does not read pip's settings, so a folder of wheels that is set for pip is handed on.
# Bytecode is compiled here, because with PYTHONDONTWRITEBYTECODE set every start would compile all that it imports.
.venv/installed: pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "error: make found no Python from 3.11 to 3.13 with venv;" \
		"install one, or name it: make setup PYTHON=/path/to/python" >&2; exit 1; }
	$(PYTHON) -m venv .venv
	$(RUN) -m pip install -q uv
	UV_FIND_LINKS="$$PIP_FIND_LINKS" .venv/bin/uv pip install -q --compile-bytecode --python $(RUN) \
		-c constraints.txt -e '.[dev]'
	$(RUN) -m compileall -q -j 0 lrnn data callbacks
	@touch $@

setup: .venv/installed ## Make .venv with the pinned packages (every target does this first)

parity: setup ## Train DeltaNet and Mamba with either range on parity: 12 models, 2 minutes on two cores
	@$(RUN) -m lrnn.sweep --config conf/sweeps/parity.yaml
	@$(RUN) -m lrnn.table --run_dir=runs/parity --lengths=[1024,16384]

groups: setup ## Train products in the groups S3 and S5 and test them on 4,096 elements: 10 models, 6 minutes
	@$(RUN) -m lrnn.sweep --config conf/sweeps/groups_cpu.yaml
	@$(RUN) -m lrnn.table --run_dir=runs/groups --measure=sequence_accuracy --lengths=[64,512,2048]

table-quick: setup ## Train every task and architecture in small: 53 models, 12 minutes
	@$(RUN) -m lrnn.sweep --config conf/sweeps/table_quick.yaml
	@$(RUN) -m lrnn.table --run_dir=runs/table_quick

table: setup ## Print the paper's Table 3 of the runs that conf/sweeps/table3.yaml has trained on GPUs
	@$(RUN) -m lrnn.table --run_dir=runs/table3 --out=results/table3

table4: setup ## Print the paper's Table 4 with the scores of python -m lrnn.evaluate tasks
	@$(RUN) -m lrnn.evaluate table4

pretrain-smoke: setup ## Prepare text, train a small DeltaNet on it, generate, export: minutes, without a network
	@$(RUN) -m data.prepare --source=stdlib --out=shards/stdlib --validation_fraction=0.03
	@$(RUN) -m lrnn.fit --config conf/pretrain_smoke.yaml \
		$$(test -f runs/pretrain_smoke/checkpoints/last.ckpt && echo --resume=true)
	@$(RUN) -m lrnn.generate --prompt="class Stack:" --tokens=64
	@rm -rf runs/pretrain_smoke/hf
	@$(RUN) -m lrnn.export --run_dir=runs/pretrain_smoke --out=runs/pretrain_smoke/hf

theory: setup ## Check the paper's theorems, as weights against automata: two minutes
	@$(RUN) -m lrnn.theory theorems

tensorboard: setup ## Start TensorBoard on all runs, and print the address of their charts
	@.venv/bin/tensorboard --logdir runs 2>&1 | sed -u 's|http://[^ ]*/|&\#custom_scalars\&_smoothingWeight=0|'

test: setup ## Run all tests that need no GPU
	@$(RUN) -m pytest

test-quick: setup ## Run the fast tests: about a minute
	@$(RUN) -m pytest -m 'not gpu and not slow'

test-gpu: setup ## Run the tests that need a GPU
	@$(RUN) -m pytest -m gpu -n 4

torture: setup ## Interrupt 100 tiny runs, resume them, and compare every bit: up to an hour
	@$(RUN) tests/torture.py

bench: setup ## Time ours beside a baseline: kernels and training steps on a GPU, ops on a CPU
	@$(RUN) -m lrnn.bench

kernels: setup ## Compile all kernels for A100 to B200 on a CPU, and check the memory that they need
	@$(RUN) -m lrnn.bench.compile

lint: setup ## Check style and types
	@.venv/bin/ruff check .
	@.venv/bin/ruff format --check .
	@.venv/bin/mypy

format: setup ## Rewrite the code in this style
	@.venv/bin/ruff check --fix .
	@.venv/bin/ruff format .

.PHONY: help setup parity groups table-quick table table4 pretrain-smoke theory tensorboard test test-quick test-gpu torture
.PHONY: bench kernels lint format
