# Two commands on a fresh machine with Python 3.11 or newer and make: `make demo`, `make test`.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
AS_ROOT := $(shell [ "$$(id -u)" = 0 ] || echo sudo)
export BENTOML_DO_NOT_TRACK := True
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: install demo test test-extras debian lint bench pictures docs dist wheel-demo clean

install: $(VENV)/.demo  ## the package and what the demo needs, into .venv

demo: $(VENV)/.demo  ## serve, drift, learn, compare: about three minutes, most of it installing
	$(BIN)/bandmaster demo $(DEMO)

test: $(VENV)/.dev lint  ## everything that the core promises
	$(BIN)/pytest -n auto --dist loadfile --no-loadscope-reorder

test-extras: $(VENV)/.extras $(VENV)/.apart debian  ## what needs more: torch, Ray, Chromium, PostgreSQL, MLServer, … or minutes
	$(BIN)/pytest -m extras

bench: $(VENV)/.demo  ## every scenario that can be played here; needs hours. BENCH="--quick" has a look
	$(BIN)/python -m benchmarks $(BENCH)

pictures: $(VENV)/.extras debian  ## those of the README and the docs, from real runs: some six minutes
	$(BIN)/python -m docs.pictures

docs: $(VENV)/.docs  ## the site, into build/site; a warning fails it
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

dist: $(VENV)/.release  ## wheel and sdist, into dist/
	rm -rf dist
	$(BIN)/python -m build --no-isolation --outdir dist
	$(BIN)/twine check --strict dist/*

wheel-demo: dist  ## the wheel in an empty environment, away from this clone, runs the demo
	away=$$(mktemp -d) && trap "rm -rf $$away" EXIT && $(PYTHON) -m venv $$away/venv && \
		$$away/venv/bin/pip install --quiet "$$(echo $(CURDIR)/dist/*.whl)[models,plot]" && \
		cd $$away && venv/bin/bandmaster demo --requests 500 --seeds 2

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy -p models
	$(BIN)/mypy -p benchmarks

debian:  ## a browser, Prometheus, PostgreSQL and nginx, for the tests that need real ones
	@command -v chromium >/dev/null && command -v prometheus >/dev/null && test -x /usr/sbin/nginx && test -d /usr/lib/postgresql || \
		{ $(AS_ROOT) apt-get update -qq && \
		$(AS_ROOT) apt-get install -y -qq --no-install-recommends chromium prometheus postgresql nginx >/dev/null; }

clean:
	rm -rf $(VENV) build dist

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Bandmaster needs Python 3.11 or newer; this is `$(PYTHON) --version`. Set PYTHON=..." >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.demo: pyproject.toml | $(BIN)/python
	$(BIN)/pip install --quiet --editable '.[models,plot]'
	@touch $@

$(VENV)/.dev: pyproject.toml | $(BIN)/python
	$(BIN)/pip install --quiet --editable '.[models,plot,dev]'
	@touch $@ $(VENV)/.demo

$(VENV)/.docs: pyproject.toml | $(BIN)/python
	$(BIN)/pip install --quiet --editable '.[docs]'
	@touch $@

$(VENV)/.release: pyproject.toml | $(BIN)/python
	$(BIN)/pip install --quiet --editable '.[release]'
	@touch $@

$(VENV)/.extras: pyproject.toml | $(BIN)/python
	$(BIN)/pip install --quiet --editable '.[models,plot,dev,ray,fuzz,rl,browser,docs,release,postgres,grpc,kubernetes]'
	@touch $@ $(VENV)/.dev $(VENV)/.demo $(VENV)/.docs $(VENV)/.release

$(VENV)/.apart: | $(BIN)/python  ## in environments of their own: what does not go together with ours
	$(PYTHON) -m venv $(VENV)/mlserver
	$(VENV)/mlserver/bin/pip install --quiet 'mlserver>=1.7,<2' 'mlserver-sklearn>=1.7,<2'
	$(PYTHON) -m venv $(VENV)/openvino
	$(VENV)/openvino/bin/pip install --quiet 'onnxruntime-openvino>=1.24.1,<2' 'numpy>=2.0,<3'
	@touch $@
