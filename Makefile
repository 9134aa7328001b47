.DEFAULT_GOAL := help
PYTHON ?= python3.11
RUN := .venv/bin/python
CORES := $(shell nproc 2>/dev/null || echo 2)

help: ## List the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-15s %s\n", $$1, $$2}'

# uv installs in seconds; it does not read pip's settings, so a wheel folder set for pip is handed on.
.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(RUN) -m pip install -q uv
	UV_FIND_LINKS="$$PIP_FIND_LINKS" .venv/bin/uv pip install -q --python $(RUN) -c constraints.txt -e '.[dev]'
	@touch $@

setup: .venv/installed ## Make .venv with the pinned dependencies (every target does it when needed)

parity: setup ## Train DeltaNet and Mamba with either eigenvalue range on parity; table and picture
	@$(RUN) -m lrnn.sweep --config conf/sweeps/parity.yaml
	@$(RUN) -m lrnn.table --run_dir=runs/parity --lengths=[1024,16384]

table-quick: setup ## Train every task and architecture in small, on a CPU, and print the paper's table of them
	@$(RUN) -m lrnn.sweep --config conf/sweeps/table_quick.yaml
	@$(RUN) -m lrnn.table --run_dir=runs/table_quick

table: setup ## Make the paper's table from the runs of conf/sweeps/table3.yaml (python -m lrnn.sweep trains them)
	@$(RUN) -m lrnn.table --run_dir=runs/table3 --out=results/table3

pretrain-smoke: setup ## Prepare real text without a network, train a small DeltaNet on it, generate, export (again: go on)
	@$(RUN) -m data.prepare --source=stdlib --out=shards/stdlib --validation_fraction=0.03
	@$(RUN) -m lrnn.fit --config conf/pretrain_smoke.yaml \
		$$(test -f runs/pretrain_smoke/checkpoints/last.ckpt && echo --resume=true)
	@$(RUN) -m lrnn.generate --prompt="class Stack:" --tokens=64
	@rm -rf runs/pretrain_smoke/hf
	@$(RUN) -m lrnn.export --run_dir=runs/pretrain_smoke --out=runs/pretrain_smoke/hf

tensorboard: setup ## Open the runs in TensorBoard
	@.venv/bin/tensorboard --logdir runs

test: setup ## Run the tests
	@$(RUN) -m pytest

test-gpu: setup ## Run the tests that need a CUDA device
	@$(RUN) -m pytest -m gpu -n 4

bench: setup ## Time ours beside a baseline: on a GPU kernels and training steps, else the CPU forms
	@$(RUN) -m lrnn.bench

lint: setup ## Check style and types
	@.venv/bin/ruff check .
	@.venv/bin/ruff format --check .
	@.venv/bin/mypy

format: setup ## Rewrite the code in the project's style
	@.venv/bin/ruff check --fix .
	@.venv/bin/ruff format .

.PHONY: help setup parity table-quick table pretrain-smoke tensorboard test test-gpu bench lint format
