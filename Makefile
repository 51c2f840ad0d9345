# `make demo` and `make test` need Python 3.11 or newer and make, nothing else. `make peers` (Debian) brings the real peers.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export TCP_NODELAY := 1
PIP_ENV := PIP_DISABLE_PIP_VERSION_CHECK=1
INSTALLED := $(VENV)/.installed

.PHONY: demo test test-all chaos peers check fix build clean

demo: $(INSTALLED)
	$(BIN)/dicomnode demo

test: $(INSTALLED)
	$(BIN)/pytest

test-all: $(INSTALLED)
	DICOMNODE_TEST_REQUIRE_PEERS=1 $(BIN)/pytest

# CHAOS="--database postgresql --studies 500 --kills 200"
chaos: $(INSTALLED)
	$(BIN)/python -m tests.chaos.run $(CHAOS)

check: $(INSTALLED)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/pytest -q tests/unit

fix: $(INSTALLED)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

build: $(INSTALLED)
	$(BIN)/python -m build --outdir dist .

peers:
	apt-get update
	DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends dcmtk orthanc orthanc-dicomweb dicom3tools \
		pixelmed-apps libpixelmed-java default-jre-headless chromium postgresql

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "dicomnode needs Python 3.11 or newer")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP_ENV) $(BIN)/python -m pip install --quiet -c constraints.txt torch
	$(PIP_ENV) $(BIN)/python -m pip install --quiet -c constraints.txt --editable '.[onnx,training]' build hypothesis import-linter mypy pytest \
		pytest-timeout ruff
	touch $@

clean:
	rm -rf build dist .mypy_cache .ruff_cache .pytest_cache
