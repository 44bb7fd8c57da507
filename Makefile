# Two commands do everything on a fresh machine: `make serve` and `make test`.
# The rest: check (lint and types), docs (the documents as a site, into site/), hostile (all of
# tests/hostile, with 10,500 mutated images), scale (many files as one map, Ray with a worker killed,
# shared jobs with their database away), soak (10 minutes, and a leaking build that must be found
# out), fuzz (the decoders, a minute), qgis-plugin (a zip in dist/), sbom (what the serving image
# installs, as CycloneDX), train (the shipped bundle, anew), bench (docs/benchmarks.md, on a quiet
# machine), bench-gpu (the networks and the service on a GPU), clean.

PYTHON ?= python3
VENV   ?= .venv
comma  := ,
BIN    := $(VENV)/bin
# The GPU build where an NVIDIA driver answers, else the CPU build.
DEVICE := $(shell nvidia-smi -L >/dev/null 2>&1 && echo gpu || echo cpu)
# The page's map; and on a CPU, OpenVINO, for int8 and bf16 where the CPU has them.
EXTRAS := $(if $(filter cpu,$(DEVICE)),cpu$(comma)openvino,gpu)$(comma)map
# glibc hands large blocks back to the system after every operator; keeping them made bf16 training
# here several times faster (training/README.md).
TRAIN_ENV := MALLOC_MMAP_THRESHOLD_=17179869184 MALLOC_TRIM_THRESHOLD_=17179869184 THP_MEM_ALLOC_ENABLE=1

# The runs of `make train` in order, as some go on from others or learn from them, and what it exports:
# of Unet, the mean of the weights that its last run began and ended with.
RUNS := unet_lite_labels unet_lite unet_lite1_native unet_lite1 pspnet deeplabv3plus unet_scratch unet
MEMBERS := $(patsubst %,runs/%.ckpt,\
  pspnet/best deeplabv3plus/best unet/mean unet_lite/best unet_lite1/best)

.PHONY: serve test check docs hostile soak fuzz qgis-plugin sbom train bench bench-gpu clean

serve: $(VENV)/.serve-$(DEVICE)
	@echo "Rooftrace, the $(DEVICE) build; it says where it listens once it does"
	$(BIN)/rooftrace serve

test: $(VENV)/.dev-$(DEVICE)
	$(BIN)/python -m pytest -m "not slow" $(PYTEST)

hostile: $(VENV)/.dev-$(DEVICE)
	$(BIN)/python -m pytest tests/hostile --hypothesis-profile hostile

scale: $(VENV)/.dev-$(DEVICE)
	$(BIN)/python -m pytest tests/scale tests/properties/test_seams.py tests/e2e/test_shared_jobs.py

soak: $(VENV)/.dev-$(DEVICE)
	$(BIN)/python -m tests.hostile.soak --minutes 10
	$(BIN)/python -m tests.hostile.soak --minutes 2 --leak

fuzz: $(VENV)/.dev-$(DEVICE)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[fuzz]"
	$(BIN)/python -m tests.hostile.fuzz_decode

qgis-plugin:
	$(PYTHON) clients/qgis/build.py

sbom: $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[sbom]"
	$(PYTHON) -m venv --clear --without-pip $(VENV)/image
	$(BIN)/python -m pip --python $(VENV)/image/bin/python3 install --quiet \
	  --constraint constraints.txt ".[$(DEVICE)]"
	$(BIN)/cyclonedx-py environment --pyproject pyproject.toml --output-reproducible \
	  --output-file sbom.json $(VENV)/image/bin/python3

check: $(VENV)/.dev-$(DEVICE)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(VENV)/.dev-$(DEVICE)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

train: $(VENV)/.dev-$(DEVICE)
	for run in $(RUNS); do \
	  $(TRAIN_ENV) $(BIN)/python -m training train training/configs/$$run.toml --resume $(TRAIN) \
	    || exit; \
	done
	$(BIN)/python -m training average runs/unet_scratch/best.ckpt runs/unet/last.ckpt \
	  --out runs/unet/mean.ckpt
	$(BIN)/python -m training export $(MEMBERS) --out runs/bundle \
	  --validation ../shared/data/val ../shared/data/val_abroad \
	  --negatives ../shared/data/negatives

bench: $(VENV)/.bench-$(DEVICE)
	$(BIN)/python -m benchmarks

bench-gpu: $(VENV)/.bench-$(DEVICE)
	$(BIN)/python -m benchmarks.gpu

clean:
	rm -rf $(VENV)

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

# A stamp per build and set: installing is skipped until the metadata or the pins change.
$(VENV)/.serve-$(DEVICE): pyproject.toml setup.py constraints.txt | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[$(EXTRAS)]"
	@touch $@

$(VENV)/.dev-$(DEVICE): pyproject.toml setup.py constraints.txt | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[$(DEVICE),train,dev]"
	@touch $@ $(VENV)/.serve-$(DEVICE)

$(VENV)/.bench-$(DEVICE): $(VENV)/.dev-$(DEVICE)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[$(EXTRAS),bench]"
	@touch $@
