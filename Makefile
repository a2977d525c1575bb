# Everything a fresh machine needs is Python 3.11 or later and make; each target does its own set-up.
PYTHON ?= python3
BIN := .venv/bin
DEMO := runs/demo

.PHONY: help setup system demo test lint bench results pictures four-rooms scale clean
help:
	@echo "make demo        learn a reward for HalfCheetah-v5 from comparisons, film the policy, write a report"
	@echo "make test        run the tests"
	@echo "make lint        style and types"
	@echo "make results     the runs behind docs/results.md (about 90 minutes)"
	@echo "make pictures    the pictures of docs/problems"
	@echo "make four-rooms  the nine cells of Four-Rooms, ten seeds each; writes docs/four-rooms.md (about 5 minutes)"
	@echo "make scale       cost from 100 to a million states; writes docs/scale.md (about 5 minutes)"
	@echo "make bench       speed, as ratios against peers; writes docs/benchmarks.md (about 10 minutes)"

setup: .venv/installed system

.venv/installed: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or later is needed: make PYTHON=...")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade "pip>=25.1"
	$(BIN)/python -m pip install --quiet --editable . --group dev
	@touch $@

# Films are drawn through EGL; without it everything else works, and the run says that it has no film.
system:
	@if ! ldconfig -p 2>/dev/null | grep -q libEGL_mesa; then \
	  if command -v apt-get >/dev/null && [ "$$(id -u)" = 0 ]; then \
	    apt-get update -qq && apt-get install -y -qq --no-install-recommends libegl1 libegl-mesa0 libgl1-mesa-dri; \
	  else echo "note: no EGL here, so no films: install libegl1, libegl-mesa0 and libgl1-mesa-dri"; fi; fi

demo: setup
	@if [ -f $(DEMO)/config.json ]; then $(BIN)/rewardsmith train --resume $(DEMO); \
	else $(BIN)/rewardsmith train --env HalfCheetah-v5 --method sobirl --steps 50000 --comparisons 700 --out $(DEMO); fi

test: setup
	$(BIN)/python -m pytest -q -n auto --maxprocesses 4

lint: setup
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/basedpyright

bench: setup
	$(BIN)/python -m benchmarks

pictures: setup
	$(BIN)/python -m benchmarks.pictures

four-rooms: setup
	$(BIN)/python -m benchmarks.four_rooms

scale: setup
	$(BIN)/python -m benchmarks.scale

# The runs behind docs/results.md: three methods, three seeds, an hour and a half on one core.
results: setup
	@for seed in 0 1 2; do \
	  for settings in "--method sac --steps 100000" "--method drlhf --steps 50000 --comparisons 700" \
	      "--method sobirl --steps 50000 --comparisons 700"; do \
	    name=$$(echo $$settings | cut -d" " -f2); \
	    [ -f runs/results/$$name-$$seed/eval.json ] || $(BIN)/rewardsmith train $$settings --seed $$seed \
	      --checkpoint-every 50000 --out runs/results/$$name-$$seed || exit 1; \
	  done; done
	$(BIN)/python -m benchmarks.results runs/results/*
	$(BIN)/rewardsmith plot runs/results/* --out docs/images/halfcheetah.png

clean:
	rm -rf .venv .bench .pytest_cache .ruff_cache
