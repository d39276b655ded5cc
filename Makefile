# "make" alone prints what there is. Everything runs from .venv, which the first target that needs it sets up.
PYTHON ?= python3
BIN := .venv/bin
OUT := out/demo
.DEFAULT_GOAL := help
.PHONY: help setup demo test browser lab lessons site exercises grade bench checkpoints address clean

help: ## this list
	@awk -F':.*## ' '/^[a-z]+:.*## /{printf "  make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: .venv/ready ## make .venv with everything the course needs

# bytecode is written on all cores: pip would do it on one
.venv/ready: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "$$($(PYTHON) --version) is too old: the course needs 3.11. Try: make setup PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --no-compile --constraint constraints.txt --editable '.[dev,site]'
	@$(BIN)/python -m compileall -q -j 0 .venv/lib >/dev/null 2>&1 || true
	@touch $@

demo: setup ## train a small GPT for about 90 seconds and let it write
	@rm -rf $(OUT)
	$(BIN)/python -m picogpt train --preset demo --seconds 85 --out $(OUT) --recipe.batch-size 16
	@echo
	$(BIN)/python -m picogpt sample --checkpoint $(OUT) --prompt "Before we proceed any further" \
	  --sample.max-new-tokens 600 --sample.temperature 0.8 --sample.seed 1337

test: setup browser ## run every test: core, lessons in a kernel, as scripts, as on Colab, sliders in a browser
	$(BIN)/python -m pytest -n 2 --dist loadscope

browser: # the sliders are tried in a real one; without it that test is skipped, and says so
	@command -v chromium >/dev/null || command -v chromium-browser >/dev/null || command -v google-chrome >/dev/null || \
	  { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && apt-get update -qq && apt-get install -y -qq chromium >/dev/null 2>&1; } || \
	  echo "no chromium here, and no way to install it: the sliders will not be tried"

lab: setup ## open JupyterLab on the first lesson
	$(BIN)/jupyter lab notebooks/00_start_here.ipynb

lessons: setup ## run every lesson from its .py and store the outputs in its .ipynb
	$(BIN)/python tools/lessons.py run

exercises: setup ## write the lessons without solutions into out/exercises; what is there already stays
	$(BIN)/python tools/lessons.py exercises

grade: setup ## make grade FILE=out/exercises/03_causal_attention.ipynb: run a learner's lesson, one verdict an exercise
	$(BIN)/python -m pytest -o addopts= -v --show-capture=no tools/grade.py --lesson $(FILE)

site: setup ## write the lessons as a web site into out/site
	$(BIN)/python tools/pages.py

bench: setup ## measure speed beside the peers
	$(BIN)/python benchmarks/training.py
	$(BIN)/python benchmarks/time_to_loss.py
	$(BIN)/python benchmarks/generation.py

checkpoints: setup ## train the shipped models anew and store them (an hour)
	$(BIN)/python benchmarks/checkpoints.py

address: setup ## make address URL=https://github.com/owner/name: the repository's public address, everywhere
	$(BIN)/python tools/lessons.py address $(URL)

clean: ## remove .venv, the demo's output, the site and caches; the text, and what you trained or solved in out/, stay
	rm -rf .venv $(OUT) out/site build *.egg-info .pytest_cache .hypothesis .ruff_cache
	find . -name __pycache__ -o -name .ipynb_checkpoints | xargs rm -rf
