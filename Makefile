# make demo: set up, render, train VMT-Adapter on a frozen encoder, test, show a picture
# make test: set up, check style, run the tests
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
DEMO_CONFIG := configs/vmt/vmt_swin-nano_shapes.py
DEMO_DIR ?= work_dirs/demo
DEMO_OPTIONS ?=

.PHONY: setup demo demo-run test lint clean

setup: $(VENV)/.installed

$(VENV)/.installed: requirements/locked.txt setup.py
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -r requirements/locked.txt
	$(BIN)/pip install --no-deps --no-build-isolation -e .
	touch $@

demo: setup demo-run

demo-run:
	$(BIN)/python tools/train.py $(DEMO_CONFIG) --work-dir $(DEMO_DIR) $(DEMO_OPTIONS)
	$(BIN)/python tools/test.py $(DEMO_CONFIG) "$$(cat $(DEMO_DIR)/last_checkpoint)" \
	    --work-dir $(DEMO_DIR)/test --show-dir $(DEMO_DIR)/panels $(DEMO_OPTIONS)
	@echo "a panel to look at: $$(find $(DEMO_DIR)/panels -name '*.png' | sort | head -n 6 | tail -n 1)"

test: setup lint
	$(BIN)/python -m pytest

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

clean:
	rm -rf work_dirs data/shapes data/shapes_pretrain
