# Everything a developer types. `make` alone lists it. Needs Python 3.11 or newer and make, nothing else.

SHELL := /bin/sh
.DEFAULT_GOAL := help
.PHONY: help run test test-full check fix docs migration bench bench-full azurite venv venv-dev venv-bench locked
MAKEFLAGS += --no-print-directory

# Any Python from 3.11 on: `make run PYTHON=/path/to/python3.12`.
PYTHON ?= python3 python3.13 python3.12 python3.11 python3.14
VENV := .venv
BIN := $(VENV)/bin
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PIP_ROOT_USER_ACTION := ignore
export PIP_NO_INPUT := 1

# Where it is set, every process would compile all of Relay anew, and each of those that run tests all of them.
unexport PYTHONDONTWRITEBYTECODE

help: ## List the targets.
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-11s %s\n", $$1, $$2 }' Makefile

# Many tests wait more than they work: three processes are faster than two, also on two cores. Who is done takes from who is not.
PYTEST_OPTIONS := -n 3 --dist worksteal

run: venv ## Start a demo: Postgres, the relay, an example upstream. Prints a curl line to paste.
	@exec $(BIN)/python -m relay demo --follow-parent

test: venv-dev ## Run every test that takes no long time.
	@$(BIN)/python -m pytest $(PYTEST_OPTIONS) -m "not full"

test-full: venv-dev ## Run every test: long matrices, faults, foreign clients.
	@$(BIN)/python -m pytest $(PYTEST_OPTIONS)

check: venv-dev ## Check format, lint, types, import direction, printed pages.
	@$(BIN)/python -m ruff format --check .
	@$(BIN)/python -m ruff check .
	@$(BIN)/python -m mypy
	@$(BIN)/lint-imports
	@$(BIN)/python -m relay.cli.print_pages --check

fix: venv-dev ## Format, and mend what the linter can mend.
	@$(BIN)/python -m ruff check --fix .
	@$(BIN)/python -m ruff format .

docs: venv ## Print the pages that come from code: settings, errors, metrics, command line.
	@$(BIN)/python -m relay.cli.print_pages

migration: venv-dev ## Write a migration from the tables as they are now: make migration m="add a column".
	@test -n "$(m)" || { echo 'say what it does: make migration m="add a column"' >&2; exit 2; }
	@$(BIN)/python -m relay.cli.new_migration "$(m)"

# The peers written in Python have an environment of their own; without it they are left out, and the run says so.
bench: venv ## Measure Relay beside other proxies: four rows, four peers, at most ten minutes.
	@$(MAKE) venv-bench || true
	@$(BIN)/python -m bench run $(BENCH_OPTIONS)

bench-full: venv ## Measure everything. May be cut: the next one goes on where it ended.
	@$(MAKE) venv-bench || true
	@$(BIN)/python -m bench run --full --continue $(BENCH_OPTIONS)

# Outside the tree, so that a fresh clone does not pay for it again: 190 MB. Without it the tests of azure destinations are skipped.
AZURITE := $(or $(XDG_CACHE_HOME),$(or $(HOME),$(shell getent passwd "$$(id -u)" | cut -d: -f6))/.cache)/relay/azurite-3.35.0

azurite: ## Install Azurite, which the tests of azure destinations speak with (once; needs npm).
	@[ -f "$(AZURITE)/installed" ] || { mkdir -p "$(AZURITE)" && echo "installing Azurite into $(AZURITE) (once)" \
	&& npm install --silent --no-audit --no-fund --no-update-notifier --prefix "$(AZURITE)" azurite@3.35.0 && touch "$(AZURITE)/installed"; }

# ── the environment ──────────────────────────────────────────────────────────────────────────────
# The lock that was installed is kept inside; as long as it equals the one in the tree, nothing is done.

venv:
	@$(call install,requirements.lock)

venv-dev:
	@$(call install,requirements-dev.lock)

# On the interpreter that Relay runs on: a comparison of two would be none.
venv-bench: venv
	@base="$$($(BIN)/python -c 'import os, sys; print(os.path.realpath(sys.executable))')"; \
	[ "$$(bench/.venv/bin/python -c 'import os, sys; print(os.path.realpath(sys.executable))' 2>/dev/null)" = "$$base" ] || rm -rf bench/.venv; \
	$(MAKE) locked VENV=bench/.venv LOCK=requirements-bench.lock PYTHON="$$base"

locked:
	@$(call install,$(LOCK))

define install
cmp -s $(1) $(VENV)/installed-$(1) || { $(make_venv) && $(link_project) \
	&& echo "installing $(1) into $(VENV) (once)" \
	&& $(BIN)/python -m pip install -qq --require-hashes -r $(1) \
	&& { $(BIN)/python -m compileall -q relay || true; } \
	&& cp $(1) $(VENV)/installed-$(1); }
endef

define make_venv
{ { [ -x $(BIN)/python ] && [ -x $(BIN)/pip ]; } || { \
	chosen=; bare=; \
	for python in $(PYTHON); do \
		"$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || continue; \
		if "$$python" -c 'import ensurepip, venv' 2>/dev/null; then chosen=$$python; break; fi; \
		bare=$${bare:-$$python}; \
	done; \
	if [ -n "$$chosen" ]; then \
		echo "creating $(VENV) with $$("$$chosen" --version)" && "$$chosen" -m venv --clear $(VENV); \
	elif [ -n "$$bare" ]; then \
		echo "error: $$bare cannot create virtual environments: its module ensurepip is missing." >&2; \
		echo "       On Debian and Ubuntu install it with: apt-get install python3-venv" >&2; exit 1; \
	else \
		echo "error: no Python 3.11 or newer found (looked for: $(PYTHON))." >&2; \
		echo "       Install one (on Debian and Ubuntu: apt-get install python3 python3-venv), or name it: make run PYTHON=/path/to/python3" >&2; exit 1; \
	fi; }; }
endef

# The checkout itself is importable without building anything; `.venv/bin/relay` works from everywhere.
define link_project
pwd > "$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/relay-checkout.pth" \
	&& printf '#!/bin/sh\nexec "$$(dirname "$$0")/python" -m relay "$$@"\n' > $(BIN)/relay && chmod +x $(BIN)/relay
endef
