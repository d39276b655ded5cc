# "make" alone prints what there is. Everything runs from .venv, which the first target that needs it sets up.
PYTHON ?= python3
BIN := .venv/bin
OUT := out/demo
.DEFAULT_GOAL := help
.PHONY: help setup lab demo verify playground exercises grade contribute check lesson lessons test browser site zip pyz results bench \
  checkpoints release address clean

##@ To learn
help: ## print this list
	@awk -F':.*## ' '/^##@ /{printf "\n%s\n", substr($$0, 5)} /^[a-z]+:.*## /{printf "  make %-11s %s\n", $$1, $$2}' \
	  $(MAKEFILE_LIST)

setup: .venv/ready ## make .venv with everything the course needs

# bytecode is written on all cores: pip would do it on one
.venv/ready: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "$$($(PYTHON) --version) is too old: the course needs 3.11. Try: make setup PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --no-compile --constraint constraints.txt --editable '.[dev,site]'
	@$(BIN)/python -m compileall -q -j 0 .venv/lib >/dev/null 2>&1 || true
	@touch $@

lab: setup ## open JupyterLab on the first lesson
	$(BIN)/jupyter lab notebooks/00_start_here.ipynb

demo: setup ## train a small GPT for about 90 seconds and let it write
	@rm -rf $(OUT)
	$(BIN)/python -m picogpt train --preset demo --seconds 85 --out $(OUT) --recipe.batch-size 16
	@echo
	$(BIN)/python -m picogpt sample --checkpoint $(OUT) --prompt "Before we proceed any further" \
	  --sample.max-new-tokens 600 --sample.temperature 0.8 --sample.seed 1337

verify: setup ## is it me or my machine? compare what this machine computes with stored results
	@$(BIN)/python -m picogpt verify

playground: setup ## prepare the trained model for your browser: sliders, attention heads, and the mask taken out
	@$(BIN)/python tools/playground.py weights
	@echo "now open web/playground.html, by double click if you like"

exercises: setup ## write the lessons without solutions into out/exercises; files that are there already stay
	$(BIN)/python tools/lessons.py exercises

##@ To teach
grade: setup ## grade a learner's file, or a folder of them: make grade FILE=out/exercises/03_causal_attention.ipynb
	@$(BIN)/python tools/grade.py $(if $(FILE),"$(FILE)") $(ARGS) || [ $$? = 1 ]

zip: setup ## write out/picogpt-course.zip, for a notebook on a machine where nothing can be cloned
	$(BIN)/python tools/archive.py course

pyz: setup ## write out/picogpt_doctor.pyz, the doctor as one file: python picogpt_doctor.pyz
	$(BIN)/python tools/archive.py doctor

site: setup ## write the lessons as a web site into out/site
	$(BIN)/python tools/pages.py

##@ To contribute
contribute: setup ## install the git hooks: format, lint and pairs of what you commit
	$(BIN)/python -m pre_commit install --install-hooks

check: setup ## the minute between two edits: format, lint, types, pairs, fast tests
	$(BIN)/python -m ruff format --check .
	$(BIN)/python -m ruff check .
	$(BIN)/python -m mypy
	$(BIN)/python tools/lessons.py check
	$(BIN)/python -m pytest -q -n 2 --dist loadscope -m "not slow and not network and not browser and not lesson" tests

lesson: setup ## run one lesson and store its outputs: make lesson NN=05 (with new timings: TIMINGS=1)
	@[ -n "$(NN)" ] || { echo "error: which lesson? For example: make lesson NN=05"; exit 2; }
	$(BIN)/python tools/lessons.py run $(if $(filter-out 0,$(TIMINGS)),--renew-timings) $(NN)

lessons: setup ## run every lesson from its .py and store the outputs in its .ipynb
	$(BIN)/python tools/lessons.py run

test: setup browser ## run every test: units, lessons in three places, sliders in a browser (12 minutes on 2 cores)
	$(BIN)/python -m pytest -n 2 --dist loadscope

browser: # what the browser tests need; without it they are skipped
	@for name in chromium chromium-browser google-chrome; do command -v $$name >/dev/null && exit 0; done; \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	  echo "installing chromium with apt-get, for the browser tests"; \
	  apt-get update -qq >/dev/null 2>&1 && apt-get install -y -qq chromium >/dev/null 2>&1 && exit 0; \
	fi; \
	echo "chromium is not here and cannot be installed: the browser tests will be skipped"

results: setup ## write docs/results.md and the numbers in README from the stored runs
	$(BIN)/python tools/results.py

bench: setup ## measure speed beside the peers
	$(BIN)/python benchmarks/training.py
	$(BIN)/python benchmarks/time_to_loss.py
	$(BIN)/python benchmarks/generation.py

checkpoints: setup ## train the shipped models again and store them (an hour)
	$(BIN)/python benchmarks/checkpoints.py

release: setup ## build what is handed out into out/release, and try each in an empty environment
	$(BIN)/python tools/release.py

address: setup ## change the repository's public address everywhere: make address URL=https://github.com/owner/name
	$(BIN)/python tools/lessons.py address $(URL)

clean: ## remove .venv, the demo's output, the site and caches; the text, and what you trained or solved in out/, stay
	rm -rf .venv $(OUT) out/site build *.egg-info .pytest_cache .hypothesis .ruff_cache .mypy_cache
	find . -name __pycache__ -o -name .ipynb_checkpoints | xargs rm -rf
