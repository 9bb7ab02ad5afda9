# `make` lists the targets. Everything runs in .venv, made on first use by uv if it is there and by pip if not.
#
# PYTHON               interpreter that makes .venv: python3, which must be 3.10 or newer
# CONSTRAINTS          the versions to install: constraints.txt (the newest pair of torch and triton that is tested),
#                      constraints-2.11.txt (the pair of GPU images) or constraints-oldest.txt
# VENV                 where the environment goes: .venv; for constraints-NAME.txt .venv-NAME
# INSTALLER            auto, uv or pip
# PALORA_TORCH_INDEX   index of CPU builds of PyTorch; it is asked only where there is no NVIDIA GPU.
#                      Empty: PyTorch comes from the usual index. For ROCm name the index of that build.
# WORKERS              processes that share the tests: 2
# ARGS                 more arguments: make test ARGS="-k hypervolume", make demo ARGS="--epochs 3"

PYTHON ?= python3
CONSTRAINTS ?= constraints.txt
VENV ?= .venv$(patsubst constraints%.txt,%,$(notdir $(CONSTRAINTS)))
INSTALLER ?= auto
PALORA_TORCH_INDEX ?= https://download.pytorch.org/whl/cpu
WORKERS ?= 2
ARGS ?=

BIN := $(VENV)/bin
# Threads that wait without spinning: the workers share the cores.
TEST := OMP_WAIT_POLICY=passive $(BIN)/python -m pytest -n $(WORKERS)
# A second `make demo` goes on with an interrupted run, or evaluates and draws a finished one again.
DEMO := runs/demo
demo_run = @$(BIN)/palora train multimnist-small --method $(1) --out $(DEMO)/$(1) \
	$$(test -e $(DEMO)/$(1)/config.json && echo --resume) $(ARGS)
MAKE_VENV := $(PYTHON) .ci/make_venv.py --torch-index "$(PALORA_TORCH_INDEX)" --installer $(INSTALLER) \
	--constraints $(CONSTRAINTS) $(VENV)

# `make demo` installs only what a run needs, the other targets add the tools; both again when the pins change.
READY_TO_RUN := $(VENV)/.ready-to-run
READY_TO_DEVELOP := $(VENV)/.ready-to-develop
METADATA := pyproject.toml setup.py $(CONSTRAINTS)

.DEFAULT_GOAL := help
.PHONY: help venv demo test test-full test-oldest bench cuda-check gpu-check lint clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-11s %s\n", $$1, $$2}' Makefile

venv: $(READY_TO_DEVELOP) ## make .venv with palora, the test tools and the linters

demo: $(READY_TO_RUN) ## train a Pareto front on the bundled digits, draw it and write its page: minutes on two CPU cores
	@echo "First the control, one plain model (linear scalarisation):"
	$(call demo_run,ls)
	@echo; echo "Now the front, one PaLoRA model:"
	$(call demo_run,palora)
	@echo; $(BIN)/palora report $(DEMO)/palora $(DEMO)/ls --out $(DEMO)/report.html

test: $(READY_TO_DEVELOP) ## run the fast tests
	@$(TEST) -m "not slow" $(ARGS)

test-full: $(READY_TO_DEVELOP) ## run all tests, the slow ones too
	@$(TEST) $(ARGS)

test-oldest: ## run the fast tests with the oldest versions, in .venv-oldest; other versions: make test CONSTRAINTS=FILE
	@$(MAKE) --no-print-directory test CONSTRAINTS=constraints-oldest.txt

bench: $(READY_TO_DEVELOP) ## time ours, the loop over rays and the plain model on this machine
	@$(BIN)/palora bench $(ARGS)

cuda-check: $(READY_TO_DEVELOP) ## compile every CUDA C++ kernel with nvcc, show registers and spills; needs no GPU
	@$(BIN)/python -m palora_kernels.verify.cuda_check $(ARGS)

gpu-check: ## is every kernel right on this GPU, and how fast? Nothing is installed: PYTHON needs torch and triton
	@PYTHONPATH=.:python $(PYTHON) -m palora.bench.device.check $(ARGS)

lint: $(READY_TO_DEVELOP) ## check style (ruff) and types (mypy)
	@$(BIN)/ruff check .
	@$(BIN)/mypy

clean: ## remove .venv*, caches and build leftovers; runs/ stays
	rm -rf $(VENV) .venv-* build dist *.egg-info python/*.egg-info
	rm -rf .pytest_cache .mypy_cache .ruff_cache .benchmarks .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(READY_TO_RUN): $(METADATA)
	@$(MAKE_VENV)
	@$(BIN)/python -m palora_kernels.native
	@touch $@

$(READY_TO_DEVELOP): $(METADATA)
	@$(MAKE_VENV) test lint methods onnx races
	@$(BIN)/python -m palora_kernels.native
	@touch $(READY_TO_RUN) $@
