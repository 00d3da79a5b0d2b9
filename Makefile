# What every target needs is set up on demand: a virtual environment from the lock file, by uv, which is bootstrapped
# into .tools where the machine has none. Needs git, make and Python 3.11 or newer.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
UV := $(shell command -v uv 2>/dev/null || echo .tools/bin/uv)
UV_VERSION := 0.13.8
LOOPS ?= ../shared/data/loops
PROMPTS ?= ../shared/data/routing
CARBON ?= ../shared/data/carbon
# For example CLIENTS="--profile crossed --client codex"
CLIENTS ?=
# For example OVERSPEND=--quick
OVERSPEND ?=
# One process for each core; a test file stays in one process. PARALLEL= runs them one after the other.
PARALLEL ?= --numprocesses auto --dist loadfile

.PHONY: demo run test check fix report bench overspend replay holds loops routing train drift decide energy fit gpu green links fanout pairs clients setup docs refresh-data clean

demo: setup  ## agents running through the gateway in front of two simulated providers
	$(BIN)/penstock demo

run: setup  ## serve with config/routing.yaml
	$(BIN)/penstock serve config/routing.yaml

test: setup  ## the tests, in parallel and in random order
	$(BIN)/python -m pytest $(PARALLEL)

check: setup  ## what CI runs: lint, types, layers, tests with coverage
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pytest $(PARALLEL) --cov

fix: setup  ## format and mend what a machine can
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

report: setup  ## the tail of the house: longest files and functions, import cycles, swallowed exceptions
	$(BIN)/python tests/report.py

bench: setup  ## CPU per request beside a bare proxy, into bench.json (about two minutes)
	$(BIN)/python loadtest/bench.py

overspend: setup  ## four gateways, one Valkey, tight budgets, kills and outages: is anything overspent? (about 20 minutes)
	$(BIN)/python loadtest/overspend.py $(OVERSPEND)

replay: setup  ## every recorded agent session in $(LOOPS), call by call; needs that folder
	$(BIN)/python loadtest/reconcile.py $(LOOPS)

holds: setup  ## false refusals: recorded sessions behind budgets of 1.3 times their cost; needs $(LOOPS)
	$(BIN)/python loadtest/false_refusals.py $(LOOPS)

loops: setup  ## the loop guard on recorded sessions beside published rules, and on long healthy ones; needs $(LOOPS)
	$(BIN)/penstock eval loops $(LOOPS)
	$(BIN)/penstock eval loops $(LOOPS) --long-sessions 400 --rules penstock

routing: setup  ## the router on labelled prompts, its quality floor, whole sessions' costs; needs $(PROMPTS), $(LOOPS)
	$(BIN)/penstock eval routing $(PROMPTS)/*.test.jsonl.gz
	$(BIN)/penstock eval routing $(PROMPTS)/*.test.jsonl.gz --own-labels 200
	$(BIN)/penstock eval floor $(PROMPTS)/*.test.jsonl.gz
	$(BIN)/penstock eval economics $(LOOPS)

train: setup  ## the scorer's weights, the same bytes from the same data; needs $(PROMPTS)
	$(BIN)/penstock learn train $(PROMPTS)/*.train.jsonl.gz

drift: setup  ## a learning router whose small model forgets half-way, plotted to drift.png; needs $(PROMPTS)
	$(BIN)/python loadtest/quality_drift.py $(PROMPTS) --plot drift.png

decide: setup  ## what a decision costs in CPU: facts, classifier, plan, explanation
	$(BIN)/python loadtest/routing_cost.py

energy: setup  ## the energy estimate beside published figures and EcoLogits; needs $(CARBON)
	$(BIN)/penstock eval energy $(CARBON)/truth.csv $(CARBON)/mlenergy_v3_llm.csv

fit: setup  ## the energy estimate's coefficients, fitted anew, and its errors on families left out; needs $(CARBON)
	$(BIN)/python loadtest/energy/fit.py $(CARBON)

gpu: setup  ## joules of prefill, cached prefill and decode on an NVIDIA GPU beside the formula; without one it says so
	$(BIN)/python loadtest/energy/measure.py

green: setup  ## a day of two grids in two minutes: carbon price, budget in Wh, work that waits; plotted to green.png
	$(BIN)/python loadtest/carbon_day.py --plot green.png

links: setup  ## which session is whose, with headers removed: one gateway, then four on one Valkey; needs $(LOOPS)
	$(BIN)/python loadtest/session_links.py $(LOOPS)
	$(BIN)/python loadtest/session_links.py $(LOOPS) --processes 4 --valkey --dialect mixed

fanout: setup  ## thirty sub-agents against one cap of their root, on one process and on four with Valkey
	$(BIN)/python loadtest/sub_agent_caps.py

pairs: setup  ## what a reservation and its settlement cost, also beside 10,000 holds and 5,000 budgets
	$(BIN)/python loadtest/reserve_settle.py

clients: setup  ## real SDKs and coding agents through the gateway; installs them (PyPI and npm, about 3 GB)
	tests/clients/run.sh $(CLIENTS)

refresh-data: setup  ## price list, grid tables and vocabulary from the installed litellm and codecarbon
	$(BIN)/python -m gateway.offline.refresh_data

docs: setup  ## what is generated: docs/configuration.md and the JSON Schema of routing.yaml
	$(BIN)/python -m tests.docs_tables

setup: $(VENV)/.synced

$(VENV)/.synced: pyproject.toml uv.lock | $(UV)
	UV_PYTHON=$(PYTHON) UV_PROJECT_ENVIRONMENT=$(VENV) $(UV) sync --frozen --quiet
	@touch $@

.tools/bin/uv:
	$(PYTHON) -m venv .tools
	.tools/bin/pip install --quiet uv==$(UV_VERSION)

clean:  ## everything that was built here
	rm -rf $(VENV) .venv-newest .tools var bench.json
