# Every target first installs a virtual environment from the lock file, by uv, which is itself installed into .tools
# where the machine has none. Requires git, make and Python 3.11 or newer.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
UV := $(shell command -v uv 2>/dev/null || echo .tools/bin/uv)
UV_VERSION := 0.13.8
# Data sets that are not part of this repository: docs/evidence.md names their public origins and the files expected.
# Other folders: make loops LOOPS=folder
LOOPS ?= ../shared/data/loops
PROMPTS ?= ../shared/data/routing
CARBON ?= ../shared/data/carbon
# For example CLIENTS="--profile translated --client codex"
CLIENTS ?=
# For example OVERSPEND=--quick
OVERSPEND ?=
# One process for each core; a test file stays in one process. PARALLEL= runs them one after the other.
PARALLEL ?= --numprocesses auto --dist loadfile

.PHONY: demo run test check fix report bench overspend replay holds loops routing train drift decide energy fit gpu green links fanout pairs prices clients setup docs refresh-data clean

demo: setup  ## run recorded agent sessions through the gateway, in front of two simulated providers
	$(BIN)/penstock demo

run: setup  ## serve config/routing.yaml
	$(BIN)/penstock serve config/routing.yaml

test: setup  ## the tests, in parallel and in random order
	$(BIN)/python -m pytest $(PARALLEL)

check: setup  ## lint, types, layers, tests with coverage
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pytest $(PARALLEL) --cov

fix: setup  ## format, and fix lint errors that can be fixed automatically
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

report: setup  ## print code metrics: longest files and functions, nesting, parameters, attributes, import cycles
	$(BIN)/python tests/report.py

bench: setup  ## measure CPU per request next to a bare proxy; writes bench.json (about two minutes)
	$(BIN)/python loadtest/bench.py

overspend: setup  ## test for overspend: four gateways, one Valkey, tight budgets, kills, outages (about 20 minutes)
	$(BIN)/python loadtest/overspend.py $(OVERSPEND)

replay: setup  ## replay recorded sessions; compare ledger, export and metrics; needs $(LOOPS)
	$(BIN)/python loadtest/reconcile.py $(LOOPS)

holds: setup  ## count false refusals: budgets of 1.3 times the cost of recorded sessions, config/routing.yaml; needs $(LOOPS)
	$(BIN)/python loadtest/false_refusals.py $(LOOPS)

loops: setup  ## evaluate the loop guard and published rules on recorded and long healthy sessions; needs $(LOOPS)
	$(BIN)/penstock eval loops $(LOOPS)
	$(BIN)/penstock eval loops $(LOOPS) --long-sessions 400 --rules penstock

routing: setup  ## evaluate router, quality floor and cost of whole sessions; needs $(PROMPTS), $(LOOPS)
	$(BIN)/penstock eval routing $(PROMPTS)/*.test.jsonl.gz
	$(BIN)/penstock eval routing $(PROMPTS)/*.test.jsonl.gz --own-labels 200
	$(BIN)/penstock eval floor $(PROMPTS)/*.test.jsonl.gz
	$(BIN)/penstock eval economics $(LOOPS)

train: setup  ## train the scorer's weights (same data, same bytes); needs $(PROMPTS)
	$(BIN)/penstock learn train $(PROMPTS)/*.train.jsonl.gz

drift: setup  ## test drift detection with a small model that degrades; plots drift.png; needs $(PROMPTS)
	$(BIN)/python loadtest/quality_drift.py $(PROMPTS) --plot drift.png

decide: setup  ## measure CPU of a routing decision: features, classifier, plan, explanation
	$(BIN)/python loadtest/routing_cost.py

energy: setup  ## compare the energy estimate with published figures and EcoLogits; needs $(CARBON)
	$(BIN)/penstock eval energy $(CARBON)/truth.csv $(CARBON)/mlenergy_v3_llm.csv

fit: setup  ## fit the energy coefficients again; errors on model families left out; needs $(CARBON)
	$(BIN)/python loadtest/energy/fit.py $(CARBON)

gpu: setup  ## measure joules of prefill, cached prefill and decode on an NVIDIA GPU, next to the formula
	$(BIN)/python loadtest/energy/measure.py

green: setup  ## simulate a day of two grids: carbon price, budget in Wh, deferral; plots green.png
	$(BIN)/python loadtest/carbon_day.py --plot green.png

links: setup  ## measure session linking without headers: one gateway, then four on one Valkey; needs $(LOOPS)
	$(BIN)/python loadtest/session_links.py $(LOOPS)
	$(BIN)/python loadtest/session_links.py $(LOOPS) --processes 4 --valkey --dialect mixed

fanout: setup  ## test a cap of a root with thirty sub-agents, on one process and on four with Valkey
	$(BIN)/python loadtest/sub_agent_caps.py

pairs: setup  ## measure a reservation and its settlement, also with 10,000 open holds and 5,000 budgets
	$(BIN)/python loadtest/reserve_settle.py

prices: setup  ## compare our charge with litellm's calculator over every priced model of the bundled list
	$(BIN)/python -m tests.price_comparison

clients: setup  ## run real SDKs and coding agents through the gateway; installs them (PyPI and npm, about 3 GB)
	tests/clients/run.sh $(CLIENTS)

refresh-data: setup  ## price list, grid tables and vocabulary from the installed litellm and codecarbon
	$(BIN)/python -m gateway.offline.refresh_data

docs: setup  ## generate docs/configuration.md, the JSON Schema of routing.yaml and the tables of docs/dialects.md
	$(BIN)/python -m tests.docs_tables
	$(BIN)/python -m tests.losses_tables

setup: $(VENV)/.synced

$(VENV)/.synced: pyproject.toml uv.lock | $(UV)
	UV_PYTHON=$(PYTHON) UV_PROJECT_ENVIRONMENT=$(VENV) $(UV) sync --frozen --quiet
	@touch $@

.tools/bin/uv:
	$(PYTHON) -m venv .tools
	.tools/bin/pip install --quiet uv==$(UV_VERSION)

clean:  ## remove everything that was built
	rm -rf $(VENV) .venv-newest .tools var bench.json
