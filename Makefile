# Deep Q-learning on Atari. `make help` lists what can be done; every target sets up what it needs.
.DEFAULT_GOAL := help
SHELL := /bin/sh

GAME ?= Breakout
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
RUN_PYTHON := $(BIN)/python -m atari_dqn

# The first Python from 3.10 to 3.13 that is found; PYTHON=... names another.
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11 python3.10 python; do \
	"$$p" -c 'import sys; raise SystemExit(not (3, 10) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null && { echo "$$p"; break; }; done)

is_cartpole := $(filter cartpole cartpole-v1,$(shell printf %s '$(GAME)' | tr A-Z a-z))
# CartPole is learnt from numbers with an MLP; every other game from its screen.
ENV := $(if $(is_cartpole),env=cartpole,$(if $(findstring :,$(GAME)),env=gymnasium,env=atari) 'env.game=$(GAME)')
LOGGER := $(if $(WANDB),'logger.wandb=$(WANDB)')
TRAIN := $(if $(PRESET),'preset=$(PRESET)') $(if $(SEED),'seed=$(SEED)') $(if $(STEPS),'total_steps=$(STEPS)') \
	$(if $(REPLAY),'replay.capacity=$(REPLAY)') $(LOGGER)
SWEEP = $(if $(filter cartpole cartpole-v1,$(shell printf %s '$(GAMES)' | tr A-Z a-z)),env=cartpole sweep.games=CartPole-v1,\
	'sweep.games=$(or $(GAMES),$(error GAMES=... is missing: atari57, atari26, nature49, or names with commas between))') \
	$(if $(SEEDS),'sweep.seeds=$(SEEDS)') $(if $(RAY),'sweep.address=$(RAY)') $(if $(STORAGE),'sweep.storage=$(STORAGE)')
# With a checkpoint, GAME counts only where it was typed: the default is the game that was learnt.
PLAY = $(if $(CKPT),'checkpoint=$(CKPT)',$(error CKPT=... is missing: a .pt file or a folder in runs/)) \
	$(if $(filter command line environment,$(origin GAME)),'env.game=$(GAME)') $(if $(PROTOCOL),'protocol=$(PROTOCOL)') \
	$(if $(SEED),'seed=$(SEED)') $(if $(EPISODES),'evaluation.episodes=$(EPISODES)')

.PHONY: help setup doctor games train sweep aggregate demo resume evaluate compare video watch play report dashboard profile bench family laptop scaling saving cluster torture fuzz mutants bench-gpu test check clean lock

help:  ## this list
	@echo 'make TARGET VARIABLE=value ...'
	@echo
	@sed -n 's/^\([a-z-]*\):[^#]*##  *\(.*\)/  \1|\2/p' $(MAKEFILE_LIST) | awk -F'|' '{printf "%-12s%s\n", $$1, $$2}'
	@echo
	@echo 'Variables:'
	@echo '  GAME      CartPole, any Atari game, my_module:MyEnv-v0 (Breakout)'
	@echo '  SEED      a whole number                               (1)'
	@echo '  PRESET    a file in conf/preset: nature, rainbow ...   (default)'
	@echo '  STEPS     agent steps to train, e.g. 20k               (10M; CartPole 150k)'
	@echo '  REPLAY    replay capacity in agent steps, e.g. 200k    (1M = 7.06 GB)'
	@echo '  GAMES     atari57, atari26, nature49, or names with commas, for sweep'
	@echo '  SEEDS     runs of each game, for sweep                 (5)'
	@echo '  RAY       auto or host:port, a cluster for sweep       (this machine)'
	@echo '  STORAGE   a folder or URL for a sweep'"'"'s runs            (runs/sweeps/<preset>)'
	@echo '  RUNS      folders of runs, for aggregate'
	@echo '  RUN       a folder in runs/, for resume, compare and report'
	@echo '  CKPT      a .pt file or a folder in runs/, for evaluate, video, watch and play'
	@echo '  VIEW      plain | inspect: with what the network sees   (plain)'
	@echo '  EPISODES  whole games to evaluate                      (30)'
	@echo '  PROTOCOL  a file in conf/protocol: nature, machado ... (as the run evaluated)'
	@echo '  WANDB     online | offline | off                       (online if logged in)'
	@echo '  ARGS      any settings of conf/: ARGS="key=value key=value"'

$(READY): requirements.lock pyproject.toml
	@test -n "$(PYTHON)" || { echo 'make: no Python from 3.10 to 3.13 found; install one, or name it: PYTHON=/path/to/python3.12'; exit 2; }
	@echo "setting up $(VENV) with $$($(PYTHON) --version); this takes a minute or two, once"
	@$(PYTHON) -m venv $(VENV) || { echo 'make: this Python cannot make virtual environments; on Debian and Ubuntu: apt install python3-venv'; exit 2; }
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	@touch $@

# What some targets need besides: an extra of pyproject.toml, at the versions that extras.lock pins.
$(VENV)/.ready-%: $(READY) extras.lock
	@echo "adding what $* needs"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint extras.lock --editable '.[$*]'
	@touch $@
.PRECIOUS: $(VENV)/.ready-%
EXTRAS := ray slurm optuna aggregate
ALL_READY := $(EXTRAS:%=$(VENV)/.ready-%)

setup: $(READY)  ## make .venv with the locked versions (the other targets do this by themselves)

doctor: $(READY)  ## say what is wrong with this machine, if anything
	@$(RUN_PYTHON) doctor

games: $(READY)  ## list the games that GAME can name
	@$(RUN_PYTHON) games

train: $(READY)  ## learn GAME; SEED, PRESET, STEPS, REPLAY, WANDB, ARGS
	@$(RUN_PYTHON) train $(ENV) $(TRAIN) $(ARGS)

sweep: $(VENV)/.ready-ray  ## learn many GAMES with SEEDS seeds each, by Ray; PRESET, STEPS, REPLAY, RAY, STORAGE, ARGS
	@$(RUN_PYTHON) sweep $(SWEEP) $(TRAIN) $(ARGS)

aggregate: $(VENV)/.ready-aggregate  ## IQM, median and more of RUNS, beside published agents; without RUNS these alone; ARGS
	@$(RUN_PYTHON) aggregate $(if $(RUNS),'runs=$(RUNS)') $(ARGS)

demo: $(READY)  ## learn Pong in some minutes, film it, draw its curve; SEED, ARGS
	@$(RUN_PYTHON) demo $(if $(filter command line environment,$(origin GAME)),'env.game=$(GAME)') \
		$(if $(SEED),'seed=$(SEED)') $(LOGGER) $(ARGS)

resume: $(READY)  ## go on with RUN from its latest checkpoint; STEPS makes it longer
	@$(RUN_PYTHON) train $(if $(RUN),'resume=$(RUN)',$(error RUN=... is missing: a folder in runs/)) \
		$(if $(filter command line environment,$(origin GAME)),$(if $(findstring :,$(GAME)),'env.game=$(GAME)')) \
		$(if $(STEPS),'total_steps=$(STEPS)') $(LOGGER) $(ARGS)

evaluate: $(READY)  ## play whole games with CKPT, on GAME if given; EPISODES, PROTOCOL, ARGS="output=PATH"
	@$(RUN_PYTHON) evaluate $(PLAY) $(ARGS)

compare: $(READY)  ## draw RUN's curve on the published one; ARGS="published=nnabla output=PATH"
	@$(RUN_PYTHON) compare $(if $(RUN),'run=$(RUN)',$(error RUN=... is missing: a folder in runs/)) $(ARGS)

video: $(READY)  ## film a game that CKPT plays, to an mp4; VIEW, GAME, SEED, ARGS="output=PATH max_seconds=60"
	@$(RUN_PYTHON) video $(PLAY) $(if $(VIEW),'view=$(VIEW)') $(ARGS)

watch: $(READY)  ## watch CKPT play in a window; VIEW, GAME, SEED
	@$(RUN_PYTHON) watch $(PLAY) $(if $(VIEW),'view=$(VIEW)') $(ARGS)

report: $(READY)  ## put RUN (or several, or runs/) into one HTML file; ARGS="output=PATH videos=0"
	@$(RUN_PYTHON) report $(if $(RUN),'run=$(RUN)',$(error RUN=... is missing: folders in runs/, or runs/ itself)) $(ARGS)

dashboard: $(READY)  ## the same page, live in a browser on this machine; ARGS="runs=PATH port=8001"
	@$(RUN_PYTHON) dashboard $(ARGS)

play: $(READY)  ## play GAME yourself; CKPT for a network's advice beside, SEED
	@$(RUN_PYTHON) play $(if $(CKPT),'checkpoint=$(CKPT)') $(if $(or $(if $(CKPT),,yes),$(filter command line environment,$(origin GAME))),\
		'env.game=$(GAME)') $(if $(SEED),'seed=$(SEED)') $(ARGS)

profile: $(READY)  ## where the time of a turn goes; GAME, PRESET, STEPS, ARGS
	@$(RUN_PYTHON) profile $(ENV) $(TRAIN) $(ARGS)

# The peers' packages, each in an environment of its own.
.peers/%/.ready: benchmarks/peers/%.txt
	@echo "setting up .peers/$*, once"
	@$(PYTHON) -m venv .peers/$*
	@.peers/$*/bin/python -m pip install --quiet --disable-pip-version-check -r $<
	@touch $@

CLEANRL ?= .peers/cleanrl/source
CLEANRL_COMMIT := fe8d8a03c41a7ef5b523e2e354bd01c363e786bb
CLEANRL_SITE := https://github.com/vwxyzjn/cleanrl

.peers/cleanrl/source: .peers/cleanrl/.ready
	@git clone --quiet $(CLEANRL_SITE) $@ && git -C $@ checkout --quiet $(CLEANRL_COMMIT) || \
	{ rm -rf $@; echo 'make: cannot fetch CleanRL; clone $(CLEANRL_SITE) and name the folder: CLEANRL=PATH'; exit 2; }

BENCH_GAMES := $(if $(filter command line environment,$(origin GAME)),$(GAME),Pong Breakout)

bench: $(READY) .peers/cleanrl/.ready .peers/sb3/.ready $(CLEANRL)  ## race CleanRL and SB3, measure memory; GAME, CLEANRL=PATH
	@for game in $(BENCH_GAMES); do $(BIN)/python benchmarks/race.py --game $$game --cleanrl $(CLEANRL) \
	--cleanrl-python .peers/cleanrl/bin/python --sb3-python .peers/sb3/bin/python $(ARGS) || exit 1; done
	@$(BIN)/python benchmarks/race.py --memory

family: $(READY)  ## train and time the variants (2 hours); ARGS=speed for the times
	@$(BIN)/python benchmarks/family.py $(ARGS)

laptop: $(READY)  ## minutes to solve Pong, and three games against PRESET=nature (up to 100 minutes)
	@$(BIN)/python benchmarks/laptop.py $(ARGS)

scaling: $(READY)  ## how the cost grows with games, replay and batch (4 minutes)
	@$(BIN)/python benchmarks/scaling.py $(ARGS)

saving: $(READY)  ## what saving and loading a full replay costs (10 minutes); ARGS="--games Pong Seaquest"
	@$(BIN)/python benchmarks/saving.py $(ARGS)

cluster: $(VENV)/.ready-ray  ## a sweep on several raylets, one of which is killed; what Ray costs (a quarter of an hour)
	@$(BIN)/python benchmarks/sweep.py kill $(ARGS) && $(BIN)/python benchmarks/sweep.py time $(ARGS) && $(BIN)/python benchmarks/sweep.py actors $(ARGS)

torture: $(READY)  ## kill runs 50 times each, resume them, compare them with untouched ones (15 minutes)
	@$(BIN)/python tests/torture.py $(ARGS)

fuzz: $(READY)  ## feed broken and cheating files to the readers (5 minutes); ARGS="--minutes 20"
	@$(BIN)/python tests/fuzz.py $(ARGS)

mutants: $(READY)  ## break the program in 183 places, one at a time: do the tests notice? (10 minutes); ARGS="--only agent.py"
	@$(BIN)/python tests/mutants.py $(ARGS)

bench-gpu: $(READY)  ## all figures of a CUDA machine, 5 minutes of training among them
	@$(BIN)/python benchmarks/gpu.py $(ARGS)

test: $(ALL_READY)  ## run the tests
	@$(BIN)/python -m pytest --numprocesses 2 --dist worksteal $(ARGS)

check: $(READY)  ## lint, format and types
	@$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy

# What is pinned stays as it is; to renew a pin, delete its line first.
lock: $(READY)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	@cp requirements.lock requirements.lock.tmp
	@echo 'torch==2.13.0' | $(BIN)/uv pip compile pyproject.toml - --quiet --extra dev --universal --python-version 3.10 \
	--no-header --no-annotate --no-emit-index-url --no-emit-find-links --output-file requirements.lock.tmp > /dev/null
	@{ echo '# What was tested, for Python 3.10 to 3.13. Made by `make lock`.'; \
	echo '# CUDA packages are left out: torch names its own where its build needs them.'; \
	grep -vE '^(#|cuda|nvidia|triton)' requirements.lock.tmp; } > requirements.lock.new
	@mv requirements.lock.new requirements.lock; rm requirements.lock.tmp
	@$(BIN)/uv pip compile pyproject.toml --quiet $(EXTRAS:%=--extra %) --universal --python-version 3.10 \
	--constraint requirements.lock --no-header --no-annotate --no-emit-index-url --no-emit-find-links \
	--output-file extras.lock > /dev/null
	@{ echo '# The extras of pyproject.toml, as tested. Made by `make lock`.'; \
	grep -vE '^(#|cuda|nvidia|triton)' extras.lock; } > extras.lock.new && mv extras.lock.new extras.lock

clean:  ## remove .venv and caches; runs/ stays
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache *.egg-info
	find atari_dqn tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +
