# The two main commands are `make run` and `make test`; `make help` lists all.
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
install: $(INSTALLED)  ## Make .venv with the packages that the monitor needs; test and check install their tools themselves

.PHONY: run
run: $(INSTALLED)  ## Run the monitor on this machine: Redis, crawler, workers, API
	$(BIN)/python -m deploy.run_local $(ARGS)

.PHONY: demo
demo: $(INSTALLED)  ## Run it on a private swarm of simulated servers on 127.0.0.1
	$(BIN)/python -m deploy.run_local --demo $(ARGS)

# Most tests wait most of the time: more of them at once than there are cores. `-p no:randomly` keeps the written order.
AT_ONCE ?= 4
PARALLEL := -n $(AT_ONCE) --dist loadgroup
.PHONY: test
test: $(DEV_INSTALLED)  ## All tests except test-internet and test-petals, in parallel and in random order (ARGS, AT_ONCE)
	$(BIN)/python -m pytest $(PARALLEL) -m "not petals_server and not internet" $(ARGS)

.PHONY: test-internet
test-internet: $(DEV_INSTALLED)  ## Compare the monitor with a genuine client behind NATs, relays and firewalls (5 minutes)
	$(BIN)/python -m pytest tests/internet -m internet $(ARGS)

.PHONY: test-fast
test-fast: $(DEV_INSTALLED)  ## The tests that start no process and use no network: half a minute
	$(BIN)/python -m pytest -n 2 --dist loadgroup -m fast $(ARGS)

.PHONY: watch
watch: $(DEV_INSTALLED)  ## Run the fast tests after each change, failed ones first (ARGS: a folder, -k …)
	$(BIN)/watchfiles --filter python "$(BIN)/python -m pytest -q -m fast --failed-first $(ARGS)" .

.PHONY: petals-env
petals-env:  ## Make the environment of genuine Petals servers (.venv-petals, 1.6 GB), if it is missing
	TORCH_PIP_ARGS="$(TORCH_PIP_ARGS)" $(PYTHON) -m tests.petals_server.environment

.PHONY: test-petals
test-petals: $(DEV_INSTALLED)  ## Test the monitor with genuine Petals servers (builds .venv-petals, 1.6 GB, once)
	PETALS_SERVER_TESTS=1 TORCH_PIP_ARGS="$(TORCH_PIP_ARGS)" $(BIN)/python -m pytest tests/petals_server $(ARGS)

.PHONY: mutate
mutate: $(DEV_INSTALLED)  ## Mutation tests of the code that decides, in Python and in Lua (MUTATE_SECONDS: a random sample)
	$(BIN)/python -m tests.mutation.lua $(if $(MUTATE_SECONDS),--seconds $(MUTATE_SECONDS))
	$(BIN)/python -m tests.mutation.python $(if $(MUTATE_SECONDS),--seconds $(MUTATE_SECONDS))

.PHONY: check
check: $(DEV_INSTALLED)  ## Lint, types and architecture
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

.PHONY: bench-reachability
bench-reachability: $(DEV_INSTALLED)  ## Reachability checks, compared with SimpleWorker, bare pipelines and a bare connect
	$(BIN)/python -m tests.bench.reachability

.PHONY: bench-http
bench-http: $(DEV_INSTALLED)  ## The api, compared with a bare ASGI app and nginx (needs wrk)
	$(BIN)/python -m tests.bench.serving $(ARGS)

.PHONY: bench-followers
bench-followers: $(DEV_INSTALLED)  ## 5,000 event streams and 10,000 feed readers per minute on one api, compared with a bare app
	$(BIN)/python -m tests.bench.followers $(ARGS)

.PHONY: bench-lists
bench-lists: $(DEV_INSTALLED)  ## Pages of /api/v1/servers with 10,000 servers, and how long other requests wait meanwhile
	$(BIN)/python -m tests.bench.lists $(ARGS)

.PHONY: benchmarks
benchmarks: $(DEV_INSTALLED)  ## Run all bench-… targets, and write docs/benchmarks.md and the README's table
	$(BIN)/python -m tests.bench.summary $(ARGS)

.PHONY: bench-crawl
bench-crawl: $(DEV_INSTALLED)  ## The crawler, compared with a sequential crawl, on private swarms of 60 to 10,000 servers
	$(BIN)/python -m tests.bench.crawl $(ARGS)

.PHONY: bench-silent
bench-silent: $(DEV_INSTALLED)  ## Crawls and checks while DHT nodes are silent, and of a relayed server (needs namespaces)
	$(BIN)/python -m tests.bench.silent_nodes $(ARGS)

.PHONY: bench-history
bench-history: $(DEV_INSTALLED)  ## Memory and time that the history takes in Redis
	$(BIN)/python -m tests.bench.history

.PHONY: bench-floods
bench-floods: $(DEV_INSTALLED)  ## A crawl during a flood of fake servers and models, compared with a crawl of honest servers
	$(BIN)/python -m tests.bench.floods

.PHONY: bench-start
bench-start: $(INSTALLED)  ## Seconds from the command until the page shows servers, step by step
	$(BIN)/python -m tests.bench.start $(ARGS)

.PHONY: bench-inference
bench-inference: $(INSTALLED)  ## Processor time and memory that inference checks of 1,000 servers take
	$(BIN)/python -m tests.bench.inference $(ARGS)

.PHONY: bench-memory
bench-memory: $(INSTALLED)  ## Memory of each process, with 60 to 10,000 servers
	$(BIN)/python -m tests.bench.memory $(ARGS)

.PHONY: prove-compose
prove-compose: $(DEV_INSTALLED)  ## Test docker-compose.yml on a real engine (needs root if it has to start one)
	$(BIN)/python -m tests.proof.compose $(ARGS)

.PHONY: prove-alerts
prove-alerts: $(DEV_INSTALLED)  ## Kill each part of a running monitor and watch its alert fire and resolve (needs prometheus)
	$(BIN)/python -m tests.proof.alerts

.PHONY: fuzz
fuzz: $(DEV_INSTALLED)  ## Feed hostile records through the whole path, for FUZZ_SECONDS (60)
	$(BIN)/python -m tests.support.fuzz_records --seconds $(or $(FUZZ_SECONDS),60)

.PHONY: prove-reliability
prove-reliability: $(DEV_INSTALLED)  ## Break every part; print faults, requests, wrong answers, lost data, recovery times
	$(BIN)/python -m tests.proof.reliability

.PHONY: prove-small-machine
prove-small-machine: $(INSTALLED)  ## Run the whole monitor in 1 GiB on one core with 100 concurrent checks for SECONDS (60; needs root)
	$(BIN)/python -m tests.proof.small_machine --seconds $(or $(SECONDS),60)

.PHONY: chaos
chaos: $(DEV_INSTALLED)  ## Break random parts for SECONDS (60), and print the seed; SEED=… repeats a run
	CHAOS_SECONDS=$(or $(SECONDS),60) CHAOS_SEED=$(SEED) $(BIN)/python -m pytest tests/reliability/test_chaos.py -s

.PHONY: soak
soak: $(DEV_INSTALLED)  ## Run checks for SOAK_SECONDS (600): memory, open files and Redis keys must not grow
	SOAK_SECONDS=$(or $(SOAK_SECONDS),600) $(BIN)/python -m pytest tests/reliability/test_soak.py -s

.PHONY: audit
audit:  ## Find known vulnerabilities of the locked dependencies, and verify their hashes (asks pypi.org)
	test -x .venv-audit/bin/pip-audit || $(PYTHON) -m venv .venv-audit
	.venv-audit/bin/pip install --quiet --disable-pip-version-check --require-hashes -r deploy/requirements/audit.txt
	.venv-audit/bin/python -m tests.support.audit

.PHONY: screenshots
screenshots: $(DEV_INSTALLED)  ## Renew the screenshots of README and docs (needs chromium)
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
lock: $(INSTALLED)  ## Update all locked dependencies, with hashes
	$(BIN)/pip install --quiet uv
	$(LOCK) $(or $(LOCK_HOW),--upgrade) --all-extras pyproject.toml -o deploy/requirements/dev.txt
	$(LOCK) --constraint deploy/requirements/dev.txt --extra api pyproject.toml -o deploy/requirements/api.txt
	$(LOCK) --constraint deploy/requirements/dev.txt --extra crawler --extra worker pyproject.toml -o deploy/requirements/swarm.txt
	$(LOCK) --constraint deploy/requirements/dev.txt --extra run pyproject.toml -o deploy/requirements/run.txt
	$(LOCK) --constraint deploy/requirements/dev.txt --extra tracing pyproject.toml -o deploy/requirements/tracing.txt
	$(LOCK) --constraint deploy/requirements/dev.txt --extra notify pyproject.toml -o deploy/requirements/notify.txt
	echo pip-audit | $(LOCK) $(or $(LOCK_HOW),--upgrade) - -o deploy/requirements/audit.txt
