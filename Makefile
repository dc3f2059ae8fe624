# Deep Q-learning on Atari. `make help` lists the targets; each sets up what it needs.
.DEFAULT_GOAL := help
include atari_dqn/cli/make.mk

override READY := $(VENV)/.ready
override PROGRAM := $(BIN)/python -I atari_dqn/cli/make.py
override PIP := $(NO_PIP_SETTINGS) $(BIN)/python $(PIP_INSTALL)
# uv, where it is installed, is faster, but does not read pip's settings: pip chooses torch's build before, and installs
# afterwards what uv could not.
override WITH_UV := $(if $(shell command -v uv 2>/dev/null),$(PIP) $$(grep '^torch==' requirements.lock) && \
	uv pip install --quiet --python $(BIN)/python -r requirements.lock 2>/dev/null;)
# Python reads the path of an editable package in the locale's encoding, and would not start with an accent in it under
# LC_ALL=C: so the path is relative, to lib/python3.x/site-packages. (-S: Python must start in order to fix that.)
override RELATIVE := $(BIN)/python -I -S -c 'import glob; [open(p, "w").write("../../../..") for p in glob.glob("$(VENV)/lib/python*/site-packages/*editable*atari_dqn*.pth")]'

# Where packages were lost, with the Python they were for or otherwise, the set-up runs again.
override SOUND := $(and $(wildcard $(READY)),$(shell $(BIN)/python -I -c 'import importlib.util as u; print(u.find_spec("torch") and 1)' 2>/dev/null))
ifneq ($(SOUND),1)
.PHONY: $(READY)
endif

override TARGETS := help help-dev setup doctor games runs train resume evaluate video watch match play compare report dashboard sweep atari100k aggregate export import collect demo test profile bench bench-gpu torture fuzz mutants check docs lock clean
.PHONY: $(TARGETS)
$(TARGETS) $(READY): | arguments

help:
	@echo 'make TARGET VARIABLE=value ...'
	@echo
	@$(call LIST,##)
	@echo
	@echo '`make help-dev` lists the targets for working on the program.'
	@echo
	@echo 'Variables:'
	@echo '  GAME      CartPole, any Atari game, my_module:MyEnv-v0 (Breakout)'
	@echo '  SEED      a whole number                               (1)'
	@echo '  PRESET    a file in conf/preset: nature, rainbow ...   (default)'
	@echo '  STEPS     agent steps to train, e.g. 20k               (10M; CartPole 150k)'
	@echo '  REPLAY    replay capacity in agent steps, e.g. 200k    (1M = 7.06 GB)'
	@echo '  INIT      fine-tune this checkpoint, given as CKPT, for train'
	@echo '  GAMES     atari57, atari26, nature49, or names with commas, for sweep'
	@echo '  SEEDS     runs of each game, for sweep                 (5)'
	@echo '  RAY       auto or host:port, a cluster for sweep       (this machine)'
	@echo '  STORAGE   a folder or URL for a sweep'"'"'s runs            (runs/sweeps/<preset>)'
	@echo '  RUNS      folders of runs, for aggregate, dashboard and runs'
	@echo '  RUN       a folder in runs/, or latest: for resume, compare and report'
	@echo '  CKPT      a .pt file, a folder in runs/, or latest: for evaluate, video,'
	@echo '            watch, play, export and collect; several for match'
	@echo '  FILE      a network of another program, for import'
	@echo '  VIEW      plain | inspect: with what the network sees   (plain)'
	@echo '  EPISODES  whole games to evaluate or collect           (30)'
	@echo '  PROTOCOL  a file in conf/protocol: nature, machado ... (as the run evaluated)'
	@echo '  WANDB     online | offline | off                       (online if logged in)'
	@echo '  ARGS      any settings of conf/: ARGS="key=value key=value"'

help-dev:  ### this list
	@echo 'make TARGET VARIABLE=value ..., for working on the program'
	@echo
	@$(call LIST,###)
	@echo
	@echo '`make -C benchmarks help` lists further benchmarks.'

$(READY): requirements.lock pyproject.toml
	@test ! -e $(VENV)/.unfinished && $(BIN)/python -c $(FITS) 2>/dev/null && \
	$(BIN)/python -I -m pip --version >/dev/null 2>&1 && exit 0; \
	for p in $(PYTHONS); do \
	"$$p" -c $(FITS) 2>/dev/null && found=$$p || continue; \
	"$$p" -c 'import ensurepip, venv' 2>/dev/null || continue; \
	echo "setting up $(VENV) with $$("$$p" --version); this takes a few minutes, once"; \
	"$$p" -m venv --clear $(VENV) && touch $(VENV)/.unfinished && exit 0; done; \
	test "$$found" && \
	echo "make: $$found cannot make virtual environments; on Debian and Ubuntu: apt install python3-venv" >&2 || \
	echo 'make: no Python from 3.10 to 3.14 found; install one, or name it: PYTHON=/path/to/python3.12' >&2; exit 2
	@$(WITH_UV) $(PIP) -r requirements.lock && $(PIP) --no-deps --editable . && $(RELATIVE) || \
	{ echo 'make: pip could not install what is needed (see above); `make setup` tries again' >&2; exit 2; }
	@touch $@ && rm -f $(VENV)/.unfinished

# What only the documentation needs, at the versions that extras.lock pins.
$(VENV)/.ready-docs: $(READY) extras.lock | arguments
	@echo 'adding what the documentation needs'
	@$(PIP) --constraint extras.lock --editable '.[docs]' && $(RELATIVE)
	@touch $@

setup: $(READY)  ## make .venv with the locked versions (the other targets do this by themselves)

doctor: $(READY)  ## check this machine: what works, what does not, how fast it is
	@$(PROGRAM) $@

games: $(READY)  ## list the games
	@$(PROGRAM) $@

train: $(READY)  ## train on GAME; SEED, PRESET, STEPS, REPLAY, INIT, WANDB, ARGS
	@$(PROGRAM) $@

resume: $(READY)  ## resume RUN from its latest checkpoint, STEPS to train longer; WANDB, ARGS; GAME for your own environment
	@$(PROGRAM) $@

demo: $(READY)  ## learn a game for 15 minutes, score it, film it, plot its curve; GAME (Pong), SEED, WANDB, ARGS
	@$(PROGRAM) $@

runs: $(READY)  ## list the runs in runs/: progress, scores, disk space; RUNS for other folders
	@$(PROGRAM) $@

evaluate: $(READY)  ## play whole games with CKPT and report the score; GAME, EPISODES, PROTOCOL, SEED, ARGS="output=PATH"
	@$(PROGRAM) $@

video: $(READY)  ## film a game that CKPT plays; VIEW, GAME, PROTOCOL, SEED, ARGS="output=PATH max_seconds=60"
	@$(PROGRAM) $@

watch: $(READY)  ## watch CKPT play in a window; VIEW, GAME, PROTOCOL, SEED, ARGS
	@$(PROGRAM) $@

match: $(READY)  ## rank several checkpoints, CKPT="A B", and film them side by side; GAME, EPISODES, PROTOCOL, SEED, ARGS="output=PATH"
	@$(PROGRAM) $@

play: $(READY)  ## play GAME yourself; CKPT shows a network's advice; SEED, ARGS
	@$(PROGRAM) $@

compare: $(READY)  ## plot RUN's curve against the published one; ARGS="published=nnabla output=PATH"
	@$(PROGRAM) $@

report: $(READY)  ## write RUN (or several, or runs/) into one HTML file; ARGS="output=PATH videos=0"
	@$(PROGRAM) $@

dashboard: $(READY)  ## the same page, live in a browser on this machine; RUNS, ARGS="port=8001"
	@$(PROGRAM) $@

sweep: $(READY)  ## train many GAMES with SEEDS seeds each, on Ray; SEED, PRESET, STEPS, REPLAY, RAY, STORAGE, WANDB, ARGS
	@$(PROGRAM) $@

atari100k: $(READY)  ## the 26 games of Atari-100k, and a table beside published runs; PRESET, SEEDS, GAMES, SEED, STORAGE, WANDB, ARGS
	@$(PROGRAM) $@

aggregate: $(READY)  ## IQM, median and more of RUNS, beside published agents (these alone without RUNS); ARGS
	@$(PROGRAM) $@

export: $(READY)  ## write CKPT's network as ONNX, with a model card; GAME for your own environment; ARGS="format=safetensors"
	@$(PROGRAM) $@

import: $(READY)  ## make a checkpoint of FILE, a network that CleanRL, Stable-Baselines3 or atari-agents trained; GAME, ARGS="output=PATH"
	@$(PROGRAM) $@

collect: $(READY)  ## store games that CKPT plays as a Minari data set; GAME, EPISODES, PROTOCOL, SEED, ARGS="name=expert output=PATH"
	@$(PROGRAM) $@

test: $(READY)  ## run the tests; ARGS="-k words"
	@$(PROGRAM) -- -m pytest --numprocesses 2 --dist worksteal

profile: $(READY)  ### show where training time goes; GAME, SEED, PRESET, STEPS, REPLAY, ARGS
	@$(PROGRAM) $@

bench: $(READY)  ### race CleanRL and SB3, measure memory; GAME, CLEANRL=PATH, ARGS
	@$(OTHER_MAKE) -C benchmarks bench

bench-gpu: $(READY)  ### all figures of a CUDA machine, with 5 minutes of training; ARGS
	@$(PROGRAM) -- benchmarks/gpu.py

torture: $(READY)  ### kill runs 50 times each, resume them, compare them with untouched ones (15 minutes); ARGS="--csv PATH"
	@$(PROGRAM) -- tests/torture.py

fuzz: $(READY)  ### feed broken and cheating files to the readers (5 minutes); ARGS="--minutes 20"
	@$(PROGRAM) -- tests/fuzz.py

mutants: $(READY)  ### break the program in 183 places, one at a time: do the tests notice? (10 minutes); ARGS="--only agent.py"
	@$(PROGRAM) -- tests/mutants.py

docs: $(VENV)/.ready-docs  ### build the documentation into site/
	@$(BIN)/python -m mkdocs build --strict

check: $(READY)  ### lint, format and types
	@$(BIN)/python -m ruff check . && $(BIN)/python -m ruff format --check . && \
	$(BIN)/python -m mypy && $(BIN)/python -m mypy tests/typed_use.py

# What is pinned stays as it is; to renew a pin, delete its line first.
lock: $(READY)  ### pin the versions of new dependencies
	@$(PIP) uv
	@cp requirements.lock requirements.lock.tmp
	@echo 'torch==2.13.0' | $(BIN)/python -m uv pip compile pyproject.toml - --quiet --extra all --extra dev --universal --python-version 3.10 \
	--no-header --no-annotate --no-emit-index-url --no-emit-find-links --output-file requirements.lock.tmp > /dev/null
	@{ echo '# What was tested, for Python 3.10 to 3.14. Made by `make lock`.'; \
	echo '# CUDA packages are left out: torch names its own where its build needs them.'; \
	grep -vE '^(#|cuda|nvidia|triton)' requirements.lock.tmp; } > requirements.lock.new
	@mv requirements.lock.new requirements.lock; rm requirements.lock.tmp
	@$(BIN)/python -m uv pip compile pyproject.toml --quiet --extra docs --universal --python-version 3.10 \
	--constraint requirements.lock --no-header --no-annotate --no-emit-index-url --no-emit-find-links \
	--output-file extras.lock > /dev/null
	@{ echo '# What the documentation needs, as tested. Made by `make lock`.'; \
	grep -vE '^(#|cuda|nvidia|triton)' extras.lock; } > extras.lock.new && mv extras.lock.new extras.lock

clean:  ### remove .venv and caches; runs/ stays
	rm -rf .venv site .mypy_cache .pytest_cache .ruff_cache *.egg-info
	find atari_dqn tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +
