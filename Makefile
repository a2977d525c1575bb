# Everything a fresh machine needs is Python 3.11 or later and make; each target does its own set-up.
PYTHON ?= python3
BIN := .venv/bin
DEMO := runs/demo

.PHONY: help setup system servers demo test soak fuzz package oldest newest lint docs bench bench-gpu results pictures four-rooms scale clean
help:
	@echo "make demo        learn a reward for HalfCheetah-v5 from comparisons, film the policy, write a report"
	@echo "make test        run the tests"
	@echo "make soak        two hours of training and labelling; the label server under load, it and runs killed (over two hours)"
	@echo "make fuzz        thousands of bad inputs, worlds and moments, others at each run (FUZZ=0.1 for a tenth)"
	@echo "make package     the wheel in an empty environment, used there, with a list of what that holds (SBOM)"
	@echo "make oldest      tests of every room with the oldest dependencies that are allowed"
	@echo "make newest      the same with the newest dependencies there are, under PYTHON_NEWEST (python3.13)"
	@echo "make lint        style and types, and the site without a warning"
	@echo "make docs        the site, in site/: open site/index.html"
	@echo "make results     the runs behind docs/results.md (about three hours)"
	@echo "make pictures    the pictures of docs/problems"
	@echo "make four-rooms  the nine cells of Four-Rooms, ten seeds each; writes docs/four-rooms.md (about 5 minutes)"
	@echo "make scale       cost from 100 to a million states; writes docs/scale.md (about 5 minutes)"
	@echo "make bench       speed as ratios against peers, scaling curves, a profile; writes docs/benchmarks.md (under 15 minutes)"
	@echo "make bench-gpu   our side of it on the first GPU"

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

# The tests open the page in a real browser and keep answers in a real PostgreSQL server.
servers:
	@missing=""; command -v chromium >/dev/null || missing="chromium fonts-dejavu-core"; \
	ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || missing="$$missing postgresql"; \
	if [ -n "$$missing" ]; then \
	  if command -v apt-get >/dev/null && [ "$$(id -u)" = 0 ]; then \
	    apt-get update -qq && apt-get install -y -qq --no-install-recommends $$missing; \
	  else echo "note: tests that need $$missing are left out: install it"; fi; fi

demo: setup
	@if [ -f $(DEMO)/config.json ]; then $(BIN)/rewardsmith train --resume $(DEMO); \
	else $(BIN)/rewardsmith train --env HalfCheetah-v5 --method sobirl --steps 50000 --comparisons 700 --film-clips --out $(DEMO); fi

test: setup servers
	$(BIN)/python -m pytest -q -n auto --maxprocesses 4 --dist worksteal

# Two hours in which nothing may grow; a minute of fifty people; a server killed twenty times, a run thirty.
soak: setup servers
	REWARDSMITH_SOAK=1 $(BIN)/python -m pytest -q -s tests/test_soak.py tests/test_label_load.py tests/test_label_kill.py \
	  tests/test_kill.py

# The types that tests are checked against would refuse bad input before the package sees it.
FUZZ ?= 1
DRAWN := leaks clip_ends held_out randomness
fuzz: setup servers
	REWARDSMITH_FUZZ=$(FUZZ) $(BIN)/python -m pytest -q -s -o addopts= tests/test_fuzz_*.py $(DRAWN:%=tests/test_%.py)

# What users install: no source beside it, no dev packages.
package: setup
	rm -rf dist .package
	$(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir dist .
	$(PYTHON) -m venv .package
	.package/bin/python -m pip install --quiet dist/*.whl
	cd dist && ../.package/bin/rewardsmith --version && ../.package/bin/python -m rewardsmith list >/dev/null
	cd dist && ../.package/bin/rewardsmith solve random-mdp --steps 5 --out solved
	cd dist && ../.package/bin/rewardsmith train --env Pendulum-v1 --steps 2000 --comparisons 50 --hidden 32 32 \
	  --eval-every 1000 --eval-episodes 2 --out trained
	$(BIN)/cyclonedx-py environment .package/bin/python --output-reproducible -o dist/sbom.json
	@rm -rf .package && ls dist

# Tests of every room, and what they need beside the package and its extras.
ROOMS := serialise cli labels label_api store store_clips store_people envs atari_env image_envs mujoco_batch \
  plot_report solve_command leaders sac_losses hypergradient follower mdp run_folder distances fused native_brax
TESTERS := pytest beartype hypothesis httpx playwright mpmath "minari[create,hdf5]"
oldest: setup
	$(PYTHON) -m venv .oldest
	.oldest/bin/python -m pip install --quiet "pip>=25.1"
	$(BIN)/python tests/oldest.py >.oldest/requirements.txt
	.oldest/bin/python -m pip install --quiet --requirement .oldest/requirements.txt $(TESTERS)
	.oldest/bin/python -m pip install --quiet --no-deps .
	.oldest/bin/python -m pytest -q -o filterwarnings=default $(ROOMS:%=tests/test_%.py)
	@rm -rf .oldest

# Without gymnax, whose newest holds JAX and Gymnasium back. JAX needs Python 3.12 or later since 0.11.
PYTHON_NEWEST ?= python3.13
newest:
	rm -rf .newest
	$(PYTHON_NEWEST) -m venv .newest
	.newest/bin/python -m pip install --quiet --upgrade pip
	.newest/bin/python -m pip install --quiet ".[postgresql,minari,brax,playground,ray,tune]" $(TESTERS)
	.newest/bin/python -m pip list
	.newest/bin/python -m pytest -q $(ROOMS:%=tests/test_%.py)
	@rm -rf .newest

lint: setup
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/basedpyright
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --site-dir .bench/site

# Every warning is an error: a dead link or anchor, a page outside the navigation, an argument that is not there.
docs: setup
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

bench: setup
	$(BIN)/python -m benchmarks

bench-gpu: setup
	$(BIN)/python -m benchmarks --device gpu

pictures: setup
	$(BIN)/python -m benchmarks.pictures

four-rooms: setup
	$(BIN)/python -m benchmarks.four_rooms

scale: setup
	$(BIN)/python -m benchmarks.scale

# The runs behind docs/results.md: 32 of them, about three hours on one core. Those that are there are not repeated.
RESULTS := runs/results
STEPS := --steps 50000 --comparisons 700
results: setup
	@run() { to=$(RESULTS)/$$1; shift; \
	    if [ -f $$to/eval.json ]; then return; fi; \
	    if [ -f $$to/config.json ]; then $(BIN)/rewardsmith train --resume $$to || exit 1; \
	    else $(BIN)/rewardsmith train "$$@" --checkpoint-every 50000 --out $$to || exit 1; fi; }; \
	for seed in 0 1 2; do \
	  run sac-$$seed --method sac --steps 100000 --seed $$seed; \
	  for method in drlhf hpgd pbrl stoc-sobirl; do run $$method-$$seed --method $$method $(STEPS) --seed $$seed; done; \
	  for estimator in one-step suffix branch adjoint; do \
	    run $$estimator-$$seed --method sobirl --estimator $$estimator $(STEPS) --seed $$seed; done; \
	done; \
	for method in bc-hg parl itd; do run $$method-0 --method $$method $(STEPS) --seed 0; done; \
	for clips in fresh weighted; do run suffix-$$clips-0 --estimator suffix --clips $$clips $(STEPS) --seed 0; done
	$(BIN)/python -m benchmarks.results $(RESULTS)/*
	cd $(RESULTS) && ../../$(BIN)/rewardsmith plot sac-? drlhf-? pbrl-? hpgd-? one-step-? stoc-sobirl-? \
	  --out ../../docs/images/halfcheetah.png
	cd $(RESULTS) && ../../$(BIN)/rewardsmith plot one-step-? suffix-? branch-? adjoint-? drlhf-? \
	  --out ../../docs/images/estimators.png

clean:
	rm -rf .venv .bench .package .oldest .newest dist site .pytest_cache .ruff_cache
