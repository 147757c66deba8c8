# Each target does all the set-up that it needs. PYTHON=python3.12 chooses another interpreter, PIP_FLAGS adds options to pip,
# PART=name chooses parts of the benchmark, OUT=folder keeps what they find.
PYTHON ?= python3
PIP_FLAGS ?=
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: setup demo test check bench gpu-check clean

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet $(PIP_FLAGS) --constraint constraints.txt --editable '.[dev]'
	touch $(STAMP)

demo: $(STAMP)
	$(BIN)/python -m harness -m method=lora,qlora,dora

check: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

# Cards are hidden: two tests at once would share one. `$(BIN)/python -m pytest -m gpu` runs those that need a card.
test: check
	CUDA_VISIBLE_DEVICES= $(BIN)/python -m pytest -n 2 --dist loadfile

bench: $(STAMP)
	$(BIN)/python -m tests.bench $(PART) $(if $(OUT),--out $(OUT))

# with whatever torch is there: the project's own environment if it has been made, else PYTHON's
gpu-check:
	$(if $(wildcard $(STAMP)),$(BIN)/python,$(PYTHON)) -m tests.bench gpu-check $(if $(OUT),--out $(OUT))

clean:
	rm -rf $(VENV) build dist
