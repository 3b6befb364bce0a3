# make setup | demo | test | check | bench
#
#   HOST_VERSION=0.25.0   use the ComfyUI in ~/comfy-0.25.0/ComfyUI. Without it: $COMFYUI_PATH, else the ComfyUI
#                         whose custom_nodes/ holds this checkout, else ~/comfy/ComfyUI.
#   PYTHON=path/python    use an environment of your own; nothing is installed into it.
#   TESTS="-k windows"    arguments for pytest.
#   ARGS="--help"         arguments for demo and bench.

SHELL := /bin/bash
VENV := .venv
STAMP := $(VENV)/setup-stamp
TORCH := torch==2.11.0 torchvision==0.26.0 torchaudio==2.11.0

ifdef HOST_VERSION
export COMFYUI_PATH := $(HOME)/comfy-$(HOST_VERSION)/ComfyUI
endif

ifeq ($(origin PYTHON),command line)
READY :=
else
PYTHON := $(VENV)/bin/python
READY := setup
endif

.PHONY: setup demo test check bench

# Runs again when a requirements file or the ComfyUI in use has changed. One pip call for everything, because a second
# one may replace the first one's torch.
setup:
	@set -e; \
	requirements=(requirements.txt requirements-dev.txt requirements-standalone.txt); \
	if host="$$(python3 standalone find-host)"; then requirements+=("$$host/requirements.txt"); \
	elif [ -n "$(HOST_VERSION)" ]; then exit 1; \
	else echo "Going on without ComfyUI: its tests will be left out." >&2; fi; \
	wanted="$(TORCH) $$(cksum "$${requirements[@]}")"; \
	if [ "$$wanted" = "$$(cat $(STAMP) 2>/dev/null)" ]; then exit 0; fi; \
	test -x $(VENV)/bin/python || python3 -m venv $(VENV); \
	options=(); for file in "$${requirements[@]}"; do options+=(-r "$$file"); done; \
	$(VENV)/bin/python -m pip install --upgrade pip; \
	$(VENV)/bin/python -m pip install $(TORCH) "$${options[@]}"; \
	$(VENV)/bin/python -m pyright --version; \
	echo "$$wanted" > $(STAMP)

demo: $(READY)
	@$(PYTHON) standalone demo $(ARGS)

test: $(READY)
	@if command -v node > /dev/null; then echo "node --test tests/web/*.test.mjs"; node --test tests/web/*.test.mjs; \
	else echo "LEFT OUT: the tests of web/, for want of Node.js. Install it: https://nodejs.org" >&2; fi
	$(PYTHON) -m pytest $(TESTS)

check: $(READY)
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m ruff check .
	$(PYTHON) -m pyright --pythonpath $(PYTHON)
	$(PYTHON) docs/check_links.py

bench: $(READY)
	$(PYTHON) bench $(ARGS)
