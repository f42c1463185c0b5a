# Two commands do everything: `make run` and `make test`. `make help` lists the rest.
PYTHON ?= $(or $(shell command -v python3.11),$(shell command -v python3.12),python3.11)
VENV ?= .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
DEV_INSTALLED := $(VENV)/.installed-dev

# The tests start hundreds of processes: without the bytecode of what they load, each would compile it anew.
export PYTHONDONTWRITEBYTECODE :=

.DEFAULT_GOAL := help
.PHONY: help
help:  ## This list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-18s %s\n", $$1, $$2}'

# The locks are whole closures. Wheels alone, but for two packages of plain Python that have none: nothing is compiled.
PIP_INSTALL := $(BIN)/pip install --quiet --disable-pip-version-check --no-deps --require-hashes \
	--only-binary :all: --no-binary python-baseconv,varint
$(INSTALLED): deploy/requirements/run.txt
	@$(PYTHON) -c "" 2>/dev/null || { echo "$(PYTHON) is not installed: apt install python3.11 python3.11-venv, or make PYTHON=…" >&2; exit 2; }
	@$(PYTHON) deploy/check_machine.py $(VENV)
	$(PYTHON) -m venv --clear $(VENV)
	$(PIP_INSTALL) -r deploy/requirements/run.txt || { rm -rf $(VENV); exit 1; }
	$(BIN)/python -m deploy.unpack_p2pd
	touch $@

$(DEV_INSTALLED): $(INSTALLED) deploy/requirements/dev.txt
	$(PIP_INSTALL) -r deploy/requirements/dev.txt
	touch $@

.PHONY: install
install: $(INSTALLED)  ## Make .venv with what the monitor needs to run; tests and checks add their tools themselves

.PHONY: run
run: $(INSTALLED)  ## Run the monitor on this machine: Redis, crawler, workers, API
	$(BIN)/python -m deploy.run_local $(ARGS)

.PHONY: demo
demo: $(INSTALLED)  ## The same on a private swarm of simulated servers on 127.0.0.1
	$(BIN)/python -m deploy.run_local --demo $(ARGS)

# Most tests wait most of the time: more of them at once than there are cores. `-p no:randomly` keeps the written order.
AT_ONCE ?= 3
PARALLEL := -n $(AT_ONCE) --dist loadgroup
.PHONY: test
test: $(DEV_INSTALLED)  ## All tests but those of the next two, in parallel and in random order (ARGS, AT_ONCE)
	$(BIN)/python -m pytest $(PARALLEL) -m "not petals_server and not internet" $(ARGS)

.PHONY: test-internet
test-internet: $(DEV_INSTALLED)  ## The monitor behind NATs, relays, firewalls, beside a genuine client (5 minutes, mostly waiting)
	$(BIN)/python -m pytest tests/internet -m internet $(ARGS)

.PHONY: test-fast
test-fast: $(DEV_INSTALLED)  ## Those that start no process and use no network: half a minute
	$(BIN)/python -m pytest -n 2 --dist loadgroup -m fast $(ARGS)

.PHONY: watch
watch: $(DEV_INSTALLED)  ## The fast tests again after each change, those that failed first (ARGS: a folder, -k …)
	$(BIN)/watchfiles --filter python "$(BIN)/python -m pytest -q -m fast --failed-first $(ARGS)" .

.PHONY: petals-env
petals-env:  ## The genuine server's environment (.venv-petals, 1.6 GB), where it is not there yet
	TORCH_PIP_ARGS="$(TORCH_PIP_ARGS)" $(PYTHON) -m tests.petals_server.environment

.PHONY: test-petals
test-petals: $(DEV_INSTALLED)  ## The monitor against genuine Petals servers (builds .venv-petals, 1.6 GB, once)
	PETALS_SERVER_TESTS=1 TORCH_PIP_ARGS="$(TORCH_PIP_ARGS)" $(BIN)/python -m pytest tests/petals_server $(ARGS)

.PHONY: mutate
mutate: $(DEV_INSTALLED)  ## Do the tests bite? Mutates what decides, in Python and in Lua (MUTATE_SECONDS: a sample)
	$(BIN)/python -m tests.mutation.lua $(if $(MUTATE_SECONDS),--seconds $(MUTATE_SECONDS))
	$(BIN)/python -m tests.mutation.python $(if $(MUTATE_SECONDS),--seconds $(MUTATE_SECONDS))

.PHONY: check
check: $(DEV_INSTALLED)  ## Lint, types and architecture
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

.PHONY: bench-reachability
bench-reachability: $(DEV_INSTALLED)  ## The reachability path against SimpleWorker, bare pipelines and a bare connect
	$(BIN)/python -m tests.bench.reachability

.PHONY: bench-http
bench-http: $(DEV_INSTALLED)  ## The api against a bare ASGI app and nginx (needs wrk)
	$(BIN)/python -m tests.bench.serving $(ARGS)

.PHONY: bench-followers
bench-followers: $(DEV_INSTALLED)  ## 5,000 event streams and 10,000 feed readers a minute on one api, beside a bare app
	$(BIN)/python -m tests.bench.followers $(ARGS)

.PHONY: bench-lists
bench-lists: $(DEV_INSTALLED)  ## Pages of /api/v1/servers at 10,000 servers, and what they keep waiting
	$(BIN)/python -m tests.bench.lists $(ARGS)

.PHONY: benchmarks
benchmarks: $(DEV_INSTALLED)  ## All of the bench-… targets, written into docs/benchmarks.md and the README
	$(BIN)/python -m tests.bench.summary $(ARGS)

.PHONY: bench-crawl
bench-crawl: $(DEV_INSTALLED)  ## The crawler against a sequential crawl, on private swarms of 60 to 10,000 servers
	$(BIN)/python -m tests.bench.crawl $(ARGS)

.PHONY: bench-silent
bench-silent: $(DEV_INSTALLED)  ## Crawls and checks where DHT nodes are silent, and of a relayed server (needs namespaces)
	$(BIN)/python -m tests.bench.silent_nodes $(ARGS)

.PHONY: bench-history
bench-history: $(DEV_INSTALLED)  ## What history costs in Redis
	$(BIN)/python -m tests.bench.history

.PHONY: bench-floods
bench-floods: $(DEV_INSTALLED)  ## What floods of fake servers and models cost a crawl, against an honest one of the size that is kept
	$(BIN)/python -m tests.bench.floods

.PHONY: bench-start
bench-start: $(INSTALLED)  ## From the command to a page that shows servers: where the seconds go
	$(BIN)/python -m tests.bench.start $(ARGS)

.PHONY: bench-inference
bench-inference: $(INSTALLED)  ## What inference checks of 1,000 servers cost the crawler
	$(BIN)/python -m tests.bench.inference $(ARGS)

.PHONY: bench-memory
bench-memory: $(INSTALLED)  ## What each part of a monitor holds, with 60 and with 10,000 servers
	$(BIN)/python -m tests.bench.memory $(ARGS)

.PHONY: prove-compose
prove-compose: $(DEV_INSTALLED)  ## Prove docker-compose.yml on a real engine (root where it must start one)
	$(BIN)/python -m tests.proof.compose $(ARGS)

.PHONY: prove-alerts
prove-alerts: $(DEV_INSTALLED)  ## Kill each part of a running monitor and watch its alert fire and resolve (needs prometheus)
	$(BIN)/python -m tests.proof.alerts

.PHONY: fuzz
fuzz: $(DEV_INSTALLED)  ## Feed hostile records through the whole path, for FUZZ_SECONDS (60)
	$(BIN)/python -m tests.support.fuzz_records --seconds $(or $(FUZZ_SECONDS),60)

.PHONY: prove-reliability
prove-reliability: $(DEV_INSTALLED)  ## Hurt every part, and print faults, requests, wrong answers, lost data, recovery times
	$(BIN)/python -m tests.proof.reliability

.PHONY: prove-small-machine
prove-small-machine: $(INSTALLED)  ## The whole monitor in 1 GiB and on one core, 100 concurrent checks, for SECONDS (60; needs root)
	$(BIN)/python -m tests.proof.small_machine --seconds $(or $(SECONDS),60)

.PHONY: chaos
chaos: $(DEV_INSTALLED)  ## Hurt every part at random for SECONDS (60), with the seed printed; SEED=… does the same again
	CHAOS_SECONDS=$(or $(SECONDS),60) CHAOS_SEED=$(SEED) $(BIN)/python -m pytest tests/reliability/test_chaos.py -s

.PHONY: soak
soak: $(DEV_INSTALLED)  ## Checks without end for SOAK_SECONDS (600): memory, files and Redis keys must stay flat
	SOAK_SECONDS=$(or $(SOAK_SECONDS),600) $(BIN)/python -m pytest tests/reliability/test_soak.py -s

.PHONY: audit
audit:  ## Known vulnerabilities in the locked dependencies, and their hashes (asks pypi.org)
	test -x .venv-audit/bin/pip-audit || $(PYTHON) -m venv .venv-audit
	.venv-audit/bin/pip install --quiet --disable-pip-version-check --require-hashes -r deploy/requirements/audit.txt
	.venv-audit/bin/python -m tests.support.audit

.PHONY: screenshots
screenshots: $(DEV_INSTALLED)  ## Take the screenshots of README and docs anew (needs chromium)
	$(BIN)/python -m tests.support.screenshots $(ARGS)

.PHONY: check-rules
check-rules:  ## Check and test the Prometheus rules (needs promtool)
	cd deploy/prometheus && promtool check rules rules.yml && promtool check config prometheus.yml && promtool test rules rules_test.yml

.PHONY: format
format: $(DEV_INSTALLED)  ## Format the code
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# Each lock is a whole closure, so that it is installed with --no-deps: [tool.uv] in pyproject.toml says what of
# hivemind's and petals' dependencies is left out.
LOCK := $(BIN)/uv pip compile --quiet --generate-hashes --no-emit-index-url --no-emit-find-links --no-header --no-annotate \
	--no-emit-package setuptools --python-version 3.11 $(LOCK_ARGS)
.PHONY: lock
lock: $(INSTALLED)  ## Pin all dependencies anew, with hashes
	$(BIN)/pip install --quiet uv
	$(LOCK) $(or $(LOCK_HOW),--upgrade) --all-extras pyproject.toml -o deploy/requirements/dev.txt
	$(LOCK) --constraint deploy/requirements/dev.txt --extra api pyproject.toml -o deploy/requirements/api.txt
	$(LOCK) --constraint deploy/requirements/dev.txt --extra crawler --extra worker pyproject.toml -o deploy/requirements/swarm.txt
	$(LOCK) --constraint deploy/requirements/dev.txt --extra run pyproject.toml -o deploy/requirements/run.txt
	$(LOCK) --constraint deploy/requirements/dev.txt --extra tracing pyproject.toml -o deploy/requirements/tracing.txt
	$(LOCK) --constraint deploy/requirements/dev.txt --extra notify pyproject.toml -o deploy/requirements/notify.txt
	echo pip-audit | $(LOCK) $(or $(LOCK_HOW),--upgrade) - -o deploy/requirements/audit.txt
