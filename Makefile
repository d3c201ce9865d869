# One word each. `make help` lists them. Needs GNU make 3.81, a POSIX shell, and Python 3.11 to 3.14 with venv.

SHELL = /bin/sh
VENV = .venv
BIN = $(VENV)/bin
PIP = $(BIN)/python -m pip install -qq --disable-pip-version-check --no-input --no-deps
RUN_LOCKS = requirements/light.lock requirements/embedded.lock requirements/worker.lock requirements/build.lock
DEV_LOCK = requirements/dev.lock
PYTHON =
DATA =
T =
# Tests run in so many processes, each with servers of its own; 0 for one process that can be debugged.
N = 2
# The figures that `make bench` measures; all where it is empty.
ONLY =

.PHONY: help install demo up test check bench faults lock

help: ## list these commands
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1	\2/p' Makefile | expand -t 18

install: $(VENV)/.dev ## make the environment in .venv (PYTHON=the interpreter to use)

demo: $(VENV)/.run ## from labelled pictures to an exported model, then stop everything (DATA=your own YOLO folder)
	@exec $(BIN)/vlyard demo $(if $(DATA),--data "$(DATA)")

up: $(VENV)/.run ## start everything and keep it running until Ctrl-C
	@exec $(BIN)/vlyard up

test: $(VENV)/.dev ## run the tests on servers of their own (T=arguments for pytest, N=processes)
	@exec $(BIN)/python -m pytest -n $(N) --dist loadfile $(T)

check: $(VENV)/.dev ## look at format, style, types and the direction of imports
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(VENV)/.dev ## measure against the bare libraries (ONLY="post bulk" for some of the figures)
	@exec $(BIN)/python -m bench $(ONLY)

faults: $(VENV)/.dev ## kill, stop and fill things, and see every promise kept
	@exec $(BIN)/python -m pytest -m "slow or not slow" -s tests/faults $(T)

lock: $(VENV)/.dev ## choose the newest versions that fit together, and write requirements/*.lock
	@exec $(BIN)/python requirements/lock.py

# The environment has two layers, so that running the product installs no developer's tool. Each is installed again
# only when a lock file or pyproject.toml is younger than its stamp.

$(VENV)/.run: $(VENV)/.python $(RUN_LOCKS) pyproject.toml
	@echo "installing what VLyard runs on; the first time this takes some minutes"
	@$(PIP) --require-hashes $(RUN_LOCKS:%=-r %)
	@$(PIP) --no-build-isolation -e .
	@touch $@

$(VENV)/.dev: $(VENV)/.run $(DEV_LOCK)
	@echo "installing what its developers use"
	@$(PIP) --require-hashes -r $(DEV_LOCK)
	@touch $@

$(VENV)/.python:
	@found=; fits='import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info < (3, 15))'; \
	for python in $(if $(PYTHON),"$(PYTHON)",$(BIN)/python python3 python3.11 python3.12 python3.13 python3.14); do \
		if "$$python" -c "$$fits" 2>/dev/null; then found=$$python; break; fi; \
	done; \
	if [ -z "$$found" ]; then \
		echo "$(if $(PYTHON),$(PYTHON) will not do:,no Python was found that will do:)" \
			"VLyard needs Python 3.11 to 3.14 with venv and pip (Debian: apt install python3-venv)." \
			"Name another one: make PYTHON=/path/to/python3" >&2; \
		exit 1; \
	fi; \
	if [ "$$found" != $(BIN)/python ] || ! $(BIN)/python -m pip --version >/dev/null 2>&1; then \
		echo "making $(VENV) with $$("$$found" --version)"; \
		"$$found" -m venv --clear $(VENV); \
	fi
	@touch $@
