# Each target sets up what it needs. PYTHON=python3.12 chooses another interpreter, PIP_FLAGS adds options to pip, PART=name
# chooses parts of the benchmark, OUT=folder keeps what they measure.
PYTHON ?= python3
PIP_FLAGS ?=
VENV := .venv
BIN := $(VENV)/bin
CANARY := .canary
STAMP := $(VENV)/.installed
CHROMIUM ?= chromium

.PHONY: setup demo picture test check bench gpu-check canary clean

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet $(PIP_FLAGS) --constraint constraints.txt --editable '.[dev]'
	touch $(STAMP)

demo: $(STAMP)
	$(BIN)/python -m harness -m method=lora,qlora,dora

# the picture of the demo's page in README.md, from a copy of its report; --no-sandbox lets root take it
picture: reports/demo/index.html
	$(CHROMIUM) --headless --no-sandbox --disable-gpu --hide-scrollbars --window-size=1400,1400 \
		--screenshot=reports/demo/page.png file://$(CURDIR)/reports/demo/index.html

check: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

# GPUs are hidden, since two tests at once would share one. `$(BIN)/python -m pytest -m gpu` runs those that need a GPU.
test: check
	CUDA_VISIBLE_DEVICES= $(BIN)/python -m pytest -n 2 --dist loadfile

bench: $(STAMP)
	$(BIN)/python -m tests.bench $(PART) $(if $(OUT),--out $(OUT))

# with the torch that is installed: in the project's own environment if it has been made, else in PYTHON's
gpu-check:
	$(if $(wildcard $(STAMP)),$(BIN)/python,$(PYTHON)) -m tests.bench gpu-check $(if $(OUT),--out $(OUT))

# the newest release of everything within the bounds of pyproject.toml, in an environment of its own
SMOKE := tests/test_install.py tests/test_main_job.py tests/data tests/methods/test_contract.py tests/train/test_train_loop.py \
	tests/train/test_train_resume.py tests/evaluate/test_evaluate_likelihood.py tests/run/test_run.py tests/report/test_report_command.py
canary:
	$(PYTHON) -m venv --clear $(CANARY)
	$(CANARY)/bin/python -m pip install --quiet $(PIP_FLAGS) --upgrade --editable '.[dev]'
	$(CANARY)/bin/python -m pip freeze --exclude-editable | diff constraints.txt - || true
	CUDA_VISIBLE_DEVICES= $(CANARY)/bin/python -m pytest -q -n 2 --dist loadfile -m 'not slow' $(SMOKE)

clean:
	rm -rf $(VENV) $(CANARY) build dist
