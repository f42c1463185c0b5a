# Two commands do everything: `make run` and `make test`. `make help` lists the rest.
PYTHON ?= python3.11
VENV ?= .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help
help:  ## This list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-18s %s\n", $$1, $$2}'

# torch goes first: the CPU build is enough, and hivemind would take whatever build comes. petals goes last and
# without its dependencies: its own pins cannot be met beside hivemind 1.1.12 (shared/p2p/petals_wire.py).
$(INSTALLED): deploy/requirements/dev.txt deploy/requirements/torch.txt deploy/requirements/petals.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check $(TORCH_PIP_ARGS) -r deploy/requirements/torch.txt
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r deploy/requirements/dev.txt
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps -r deploy/requirements/petals.txt
	touch $@

.PHONY: install
install: $(INSTALLED)  ## Make .venv with everything that runs and tests need

.PHONY: run
run: $(INSTALLED)  ## Run the monitor on this machine: Redis, crawler, workers, API
	$(BIN)/python -m deploy.run_local $(ARGS)

.PHONY: demo
demo: $(INSTALLED)  ## The same on a private swarm of simulated servers on 127.0.0.1
	$(BIN)/python -m deploy.run_local --demo $(ARGS)

.PHONY: test
test: $(INSTALLED)  ## All tests
	$(BIN)/python -m pytest $(ARGS)

.PHONY: test-petals
test-petals: $(INSTALLED)  ## The monitor against a genuine Petals server (builds .venv-petals, 1.6 GB, once)
	PETALS_SERVER_TESTS=1 TORCH_PIP_ARGS="$(TORCH_PIP_ARGS)" $(BIN)/python -m pytest tests/petals_server -m petals_server $(ARGS)

.PHONY: check
check: $(INSTALLED)  ## Lint, types and architecture
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

.PHONY: bench-reachability
bench-reachability: $(INSTALLED)  ## The reachability path against SimpleWorker, bare pipelines and a bare dial
	$(BIN)/python -m deploy.bench.reachability

.PHONY: bench-http
bench-http: $(INSTALLED)  ## The api against a bare ASGI app and nginx (needs wrk)
	$(BIN)/python -m deploy.bench.serving $(ARGS)

.PHONY: benchmarks
benchmarks: $(INSTALLED)  ## All of the bench-… targets, written into docs/benchmarks.md and the README
	$(BIN)/python -m deploy.bench.summary $(ARGS)

.PHONY: bench-crawl
bench-crawl: $(INSTALLED)  ## The crawler against the plain way, on private swarms of 60 to 10,000 servers
	$(BIN)/python -m deploy.bench.crawl $(ARGS)

.PHONY: bench-history
bench-history: $(INSTALLED)  ## What history costs in Redis
	$(BIN)/python -m deploy.bench.history

.PHONY: bench-floods
bench-floods: $(INSTALLED)  ## What floods of fake servers and models cost a crawl, against an honest one of the size that is kept
	$(BIN)/python -m tests.crawler.bench_floods

.PHONY: prove-compose
prove-compose: $(INSTALLED)  ## Prove docker-compose.yml on a real engine (root where it must start one)
	$(BIN)/python -m deploy.prove_compose $(ARGS)

.PHONY: prove-alerts
prove-alerts: $(INSTALLED)  ## Kill each part of a running monitor and watch its alert fire and resolve (needs prometheus)
	$(BIN)/python -m deploy.prove_alerts

.PHONY: fuzz
fuzz: $(INSTALLED)  ## Feed hostile records through the whole path, for FUZZ_SECONDS (60)
	$(BIN)/python -m deploy.fuzz_records --seconds $(or $(FUZZ_SECONDS),60)

.PHONY: prove-reliability
prove-reliability: $(INSTALLED)  ## Hurt every part, and print faults, requests, wrong answers, lost data, recovery times
	$(BIN)/python -m deploy.prove_reliability

.PHONY: chaos
chaos: $(INSTALLED)  ## Hurt every part at random for SECONDS (60), with the seed printed; SEED=… does the same again
	CHAOS_SECONDS=$(or $(SECONDS),60) CHAOS_SEED=$(SEED) $(BIN)/python -m pytest tests/reliability/test_chaos.py -s

.PHONY: soak
soak: $(INSTALLED)  ## Checks without end for SOAK_SECONDS (600): memory, files and Redis keys must stay flat
	SOAK_SECONDS=$(or $(SOAK_SECONDS),600) $(BIN)/python -m pytest tests/reliability/test_soak.py -s

.PHONY: audit
audit:  ## Known vulnerabilities in the locked dependencies, and their hashes (asks pypi.org)
	test -x .venv-audit/bin/pip-audit || $(PYTHON) -m venv .venv-audit
	.venv-audit/bin/pip install --quiet --disable-pip-version-check --require-hashes -r deploy/requirements/audit.txt
	.venv-audit/bin/python -m deploy.audit

.PHONY: dashboards
dashboards: $(INSTALLED)  ## Write the Grafana dashboards anew from deploy/grafana/*.py
	$(BIN)/python -m deploy.grafana.dashboards

.PHONY: screenshots
screenshots: $(INSTALLED)  ## Take the README's screenshots anew from the demo (needs chromium)
	$(BIN)/python -m deploy.screenshots

.PHONY: check-rules
check-rules:  ## Check and test the Prometheus rules (needs promtool)
	cd deploy/prometheus && promtool check rules rules.yml && promtool check config prometheus.yml && promtool test rules rules_test.yml

.PHONY: format
format: $(INSTALLED)  ## Format the code
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# petals' dependencies are left out on purpose, torch's build is the machine's choice: neither is locked here.
LOCK := $(BIN)/uv pip compile --quiet --generate-hashes --no-emit-index-url --no-emit-find-links --no-header --no-annotate \
	--no-emit-package torch --no-emit-package setuptools --python-version 3.11 $(LOCK_ARGS)
.PHONY: lock
lock:  ## Pin all dependencies anew, with hashes
	$(BIN)/pip install --quiet uv
	$(LOCK) --upgrade --all-extras pyproject.toml -o deploy/requirements/dev.txt
	$(LOCK) --constraint deploy/requirements/dev.txt --extra api pyproject.toml -o deploy/requirements/api.txt
	$(LOCK) --constraint deploy/requirements/dev.txt --extra crawler --extra worker pyproject.toml -o deploy/requirements/swarm.txt
	$(LOCK) --constraint deploy/requirements/dev.txt --extra embedded pyproject.toml -o deploy/requirements/embedded.txt
	$(LOCK) --constraint deploy/requirements/dev.txt --extra tracing pyproject.toml -o deploy/requirements/tracing.txt
	echo pip-audit | $(LOCK) --upgrade - -o deploy/requirements/audit.txt
