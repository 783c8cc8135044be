# make demo      train a small GPT with the real Megatron on this machine, without a GPU
# make build     the training image from the Dockerfile, with docker, podman or buildah, into megatron-lm+latest.sqsh
# make quick     style, types, layers, and the tests without Slurm, Megatron or images: two minutes
# make test      everything that is checked: the same with all tests, twenty minutes on two cores
# make soak      matrices and storms that a test run has no time for
# make coverage  the tests again, with the branch coverage that they reach
# They install what they need first, into .venv.
#
# WORKERS        processes that run tests: 2. Each may hold a Slurm and two training stacks of 1.1 GB.
# QUICK_WORKERS  the same for `make quick`: 4, since many of its tests wait.
# TEST_TIME_SCALE=3 triples every time limit in the tests, for a slow or busy machine.
# TORCH_INDEX    a package index that serves torch 2.13.0 without CUDA, such as the CPU index named on pytorch.org. The
#                wheel of the default index brings 2.6 GB of CUDA libraries. From there torch alone is installed, in the
#                same version, without a hash to compare.
# PYTHON         a Python 3.12; found by itself on the PATH and among pyenv's.
# PYTHON310      a Python 3.10, for the tests of the oldest Python that the launcher runs on; found likewise, else skipped.
# PYTHON311      a Python 3.11, for the tests with Megatron Bridge 0.3.1; found likewise, or installed from Debian's packages.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
# Byte code is kept: tests start several hundred interpreters, and without it each compiles what it imports.
unexport PYTHONDONTWRITEBYTECODE
.DEFAULT_GOAL := help
.PHONY: help install demo build quick test lint types layers unit soak coverage golden requirements schema bench docs reference clean

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
OLD_BRIDGE := .venv-bridge-0.3.1
OLDEST := .venv-3.10
NEMO_RUN := .venv-nemo-run
DOCS_VENV := .venv-docs
WORKERS := 2
QUICK_WORKERS := 4
# The tests of a module stay together, and the modules in the order that tests/support/tiers.py gives them.
PARALLEL := -n $(WORKERS) --dist loadfile --no-loadscope-reorder

help:
	@sed -n '/^#/!q; s/^# \{0,1\}//p' Makefile

install: $(STAMP)

$(STAMP): requirements/cpu.txt requirements/torch.txt pyproject.toml tools/install.sh
	@tools/install.sh $(VENV)
	@touch $(STAMP)

demo: install
	@echo "demo: two processes train two layers for 30 iterations; about two minutes on two cores, most of it importing Megatron"
	$(BIN)/launcher run recipes/vanilla_gpt_pretrain.py --cluster local --gpus-per-node 2

build: install
	$(BIN)/launcher image build --link megatron-lm+latest.sqsh $(BUILD_ARGS)

# The checks run beside the tests; what they find is printed after the tests. There are more workers than cores, since
# two modules wait for a minute. Without byte code of the tests each worker would compile all of them, so one does it first.
quick: install
	@mkdir -p build; \
	$(MAKE) --no-print-directory -j3 --output-sync=target lint types layers >build/checks.txt 2>&1 & checks=$$!; \
	[[ -d tests/__pycache__ ]] || $(BIN)/pytest --collect-only -q -m quick >/dev/null || true; \
	status=0; $(BIN)/pytest $(PARALLEL) -n $(QUICK_WORKERS) -q -m quick || status=$$?; \
	wait $$checks || status=$$?; cat build/checks.txt; exit $$status

test: install lint types layers unit

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/vulture

types: install
	$(BIN)/mypy

layers: install
	$(BIN)/lint-imports

unit: install
	@tools/test_packages.sh
	@tools/old_bridge.sh $(OLD_BRIDGE)
	@tools/oldest_python.sh $(OLDEST)
	@tools/nemo_run.sh $(NEMO_RUN)
	$(BIN)/pytest $(PARALLEL)

soak: install ## what needs longer than a test run may take
	@tools/test_packages.sh soak
	$(BIN)/pytest -m soak

coverage: install
	@tools/test_packages.sh
	@tools/old_bridge.sh $(OLD_BRIDGE)
	@tools/oldest_python.sh $(OLDEST)
	$(BIN)/pytest $(PARALLEL) -q --cov --cov-report=term:skip-covered --cov-report=html

golden: install ## accept the scripts as they are rendered now
	UPDATE_GOLDEN=1 $(BIN)/pytest tests/scripts -q

schema: install ## regenerate the schemas of Bridge's configuration and the indexes of its recipes
	@tools/old_bridge.sh $(OLD_BRIDGE)
	for python in $(BIN)/python $(wildcard $(OLD_BRIDGE)/bin/python); do \
		$$python tools/bridge_schema.py; $$python tools/bridge_recipes.py; \
	done
	$(BIN)/python tools/mlm_arguments.py

requirements: install ## resolve the requirement files anew
	UV=$$PWD/$(BIN)/uv requirements/compile.sh

docs: $(DOCS_VENV)/.installed ## the site of docs/, into build/site; every link is checked, nothing is fetched
	NO_MKDOCS_2_WARNING=1 $(DOCS_VENV)/bin/mkdocs build --strict --quiet

$(DOCS_VENV)/.installed: requirements/docs.txt | $(STAMP)
	[[ -x $(DOCS_VENV)/bin/python ]] || $(BIN)/python -m venv $(DOCS_VENV)
	uv=$$(command -v uv || echo $(BIN)/uv); UV_SYSTEM_CERTS=true "$$uv" pip install --quiet \
		--python $(DOCS_VENV)/bin/python --no-deps --require-hashes --requirement requirements/docs.txt
	@touch $@

reference: install ## write docs/reference anew from the code
	$(BIN)/python tools/reference.py

bench: install ## start-up of commands, many ranks, what a job adds, a large page: each prints its targets
	-$(BIN)/python benchmarks/startup.py
	-TMPDIR=/dev/shm $(BIN)/python benchmarks/scale.py
	-$(BIN)/python benchmarks/job_overhead.py
	-$(BIN)/python benchmarks/page.py

clean:
	rm -rf $(VENV) $(OLD_BRIDGE) $(OLDEST) $(DOCS_VENV) build dist .mypy_cache .pytest_cache .ruff_cache
