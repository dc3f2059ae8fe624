# Deep Q-learning on Atari. `make help` lists what can be done; every target sets up what it needs.
.DEFAULT_GOAL := help
SHELL := /bin/sh

# What was typed reaches recipes by the environment alone, unexpanded: make itself would run a $(shell ...) in it, the
# shell a quote and what follows. So no recipe below may name a variable such as $(GAME); atari_dqn/cli/make.py reads them.
override TYPED := $(strip $(foreach .v,$(.VARIABLES),$(if $(filter command,$(origin $(.v))),$(.v))))
$(foreach .v,$(filter-out MAKE% SHELL,$(TYPED)),$(eval override $$(.v) := $$(value $$(.v))))
override GOALS := $(MAKECMDGOALS)
# Variables that a parent make passes on may be its own.
override INHERITED := $(if $(filter-out 0,$(MAKELEVEL)),$(shell printf %s "$$MAKEFLAGS"))
export TYPED GOALS INHERITED
export $(TYPED)
unexport PYTHONHOME

# Nobody names these: `venv --clear` empties a folder, and the checks must be the checks.
override VENV := .venv
override BIN := $(VENV)/bin
override READY := $(VENV)/.ready
override PROGRAM := $(BIN)/python -I atari_dqn/cli/make.py

# The Pythons that are tried; PYTHON=... names another.
override PYTHONS := $(if $(value PYTHON),"$$PYTHON",python3 python3.13 python3.12 python3.11 python3.10 python)
override FITS := 'import sys; raise SystemExit(not (3, 10) <= sys.version_info[:2] <= (3, 13))'
# People's settings of pip that would lead elsewhere than to .venv; an index of theirs counts.
override PIP_INSTALL := -I -m pip install --quiet --disable-pip-version-check
override PIP := PIP_USER=0 PIP_TARGET= PIP_PREFIX= PIP_ROOT= $(BIN)/python $(PIP_INSTALL)
# Python reads the path of an editable package in the locale's encoding, and would not start with an accent in it under
# LC_ALL=C: so the path is relative, to lib/python3.x/site-packages. (-S: it must start to mend that.)
override RELATIVE := $(BIN)/python -I -S -c 'import glob; [open(p, "w").write("../../../..") for p in glob.glob("$(VENV)/lib/python*/site-packages/*editable*atari_dqn*.pth")]'

# Where packages were lost, with the Python they were for or otherwise, the set-up runs again.
override SOUND := $(and $(wildcard $(READY)),$(shell $(BIN)/python -I -c 'import importlib.util as u; print(u.find_spec("torch") and 1)' 2>/dev/null))
ifneq ($(SOUND),1)
.PHONY: $(READY)
endif

override TARGETS := help setup doctor games runs train sweep aggregate demo resume evaluate compare video watch play report dashboard profile bench family laptop scaling saving cluster torture fuzz mutants bench-gpu test check clean lock
.PHONY: arguments $(TARGETS)
$(TARGETS) $(READY): | arguments

# Before anything else: does each goal exist, have what it needs, and use what was typed?
override CHECK := for p in $(BIN)/python $(PYTHONS); do "$$p" -c $(FITS) 2>/dev/null && exec "$$p" -I atari_dqn/cli/make.py; done
arguments:
	+@$(CHECK); :
.DEFAULT:
	+@($(CHECK)); test $$? -eq 2 || echo 'make: there is no such target, or a file of the project is missing' >&2; exit 2

help:  ## this list
	@echo 'make TARGET VARIABLE=value ...'
	@echo
	@sed -n 's/^\([a-z-]*\):[^#]*##  *\(.*\)/  \1|\2/p' Makefile | awk -F'|' '{printf "%-12s%s\n", $$1, $$2}'
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
	@echo '  RUNS      folders of runs, for aggregate, dashboard and runs'
	@echo '  RUN       a folder in runs/, or latest: for resume, compare and report'
	@echo '  CKPT      a .pt file, a folder in runs/, or latest: for evaluate, video, watch and play'
	@echo '  VIEW      plain | inspect: with what the network sees   (plain)'
	@echo '  EPISODES  whole games to evaluate                      (30)'
	@echo '  PROTOCOL  a file in conf/protocol: nature, machado ... (as the run evaluated)'
	@echo '  WANDB     online | offline | off                       (online if logged in)'
	@echo '  ARGS      any settings of conf/: ARGS="key=value key=value"'

$(READY): requirements.lock pyproject.toml
	@test ! -e $(VENV)/.unfinished && $(BIN)/python -c $(FITS) 2>/dev/null && \
	$(BIN)/python -I -m pip --version >/dev/null 2>&1 && exit 0; \
	for p in $(PYTHONS); do \
	"$$p" -c $(FITS) 2>/dev/null && found=$$p || continue; \
	"$$p" -c 'import ensurepip, venv' 2>/dev/null || continue; \
	echo "setting up $(VENV) with $$("$$p" --version); this takes a minute or two, once"; \
	"$$p" -m venv --clear $(VENV) && touch $(VENV)/.unfinished && exit 0; done; \
	test "$$found" && \
	echo "make: $$found cannot make virtual environments; on Debian and Ubuntu: apt install python3-venv" >&2 || \
	echo 'make: no Python from 3.10 to 3.13 found; install one, or name it: PYTHON=/path/to/python3.12' >&2; exit 2
	@$(PIP) -r requirements.lock && $(PIP) --no-deps --editable . && $(RELATIVE) || \
	{ echo 'make: pip could not install what is needed (see above); `make setup` tries again' >&2; exit 2; }
	@touch $@ && rm -f $(VENV)/.unfinished

# What some targets need besides: an extra of pyproject.toml, at the versions that extras.lock pins.
$(VENV)/.ready-%: $(READY) extras.lock | arguments
	@echo "adding what $* needs"
	@$(PIP) --constraint extras.lock --editable '.[$*]' && $(RELATIVE)
	@touch $@
.PRECIOUS: $(VENV)/.ready-%
override EXTRAS := ray slurm optuna aggregate
override ALL_READY := $(EXTRAS:%=$(VENV)/.ready-%)

setup: $(READY)  ## make .venv with the locked versions (the other targets do this by themselves)

doctor: $(READY)  ## say what is wrong with this machine, if anything
	@$(PROGRAM) $@

games: $(READY)  ## list the names of the games
	@$(PROGRAM) $@

runs: $(READY)  ## list the runs in runs/: how far, how good, how large; RUNS for other folders
	@$(PROGRAM) $@

train: $(READY)  ## learn GAME; SEED, PRESET, STEPS, REPLAY, WANDB, ARGS
	@$(PROGRAM) $@

sweep: $(VENV)/.ready-ray  ## learn many GAMES with SEEDS seeds each, by Ray; SEED, PRESET, STEPS, REPLAY, RAY, STORAGE, WANDB, ARGS
	@$(PROGRAM) $@

aggregate: $(VENV)/.ready-aggregate  ## IQM, median and more of RUNS, beside published agents; without RUNS these alone; ARGS
	@$(PROGRAM) $@

demo: $(READY)  ## learn Pong (no other GAME) in some minutes, film it, draw its curve; SEED, WANDB, ARGS
	@$(PROGRAM) $@

resume: $(READY)  ## go on with RUN from its latest checkpoint; STEPS makes it longer; WANDB, ARGS; GAME for your own environment
	@$(PROGRAM) $@

evaluate: $(READY)  ## play whole games with CKPT, on GAME if given; EPISODES, PROTOCOL, SEED, ARGS="output=PATH"
	@$(PROGRAM) $@

compare: $(READY)  ## draw RUN's curve on the published one; ARGS="published=nnabla output=PATH"
	@$(PROGRAM) $@

video: $(READY)  ## film a game that CKPT plays, to an mp4; VIEW, GAME, PROTOCOL, SEED, ARGS="output=PATH max_seconds=60"
	@$(PROGRAM) $@

watch: $(READY)  ## watch CKPT play in a window; VIEW, GAME, PROTOCOL, SEED, ARGS
	@$(PROGRAM) $@

report: $(READY)  ## put RUN (or several, or runs/) into one HTML file; ARGS="output=PATH videos=0"
	@$(PROGRAM) $@

dashboard: $(READY)  ## the same page, live in a browser on this machine; RUNS, ARGS="port=8001"
	@$(PROGRAM) $@

play: $(READY)  ## play GAME yourself; CKPT for a network's advice beside, SEED, ARGS
	@$(PROGRAM) $@

profile: $(READY)  ## where the time of a turn goes; GAME, SEED, PRESET, STEPS, REPLAY, ARGS
	@$(PROGRAM) $@

# The peers' packages, each in an environment of its own.
.peers/%/.ready: benchmarks/peers/%.txt | arguments $(READY)
	@echo "setting up .peers/$*, once"
	@$(BIN)/python -m venv --clear .peers/$*
	@$(PIP:$(BIN)%=.peers/$*/bin%) -r $<
	@touch $@

override CLEANRL_COMMIT := fe8d8a03c41a7ef5b523e2e354bd01c363e786bb
override CLEANRL_SITE := https://github.com/vwxyzjn/cleanrl

.peers/cleanrl/source: .peers/cleanrl/.ready
	@git clone --quiet $(CLEANRL_SITE) $@ && git -C $@ checkout --quiet $(CLEANRL_COMMIT) || \
	{ rm -rf $@; echo 'make: cannot fetch CleanRL; clone $(CLEANRL_SITE) and name the folder: CLEANRL=PATH' >&2; exit 2; }

bench: $(READY) .peers/cleanrl/.ready .peers/sb3/.ready $(if $(value CLEANRL),,.peers/cleanrl/source)  ## race CleanRL and SB3, measure memory; GAME, CLEANRL=PATH, ARGS
	@if test "$$GAME"; then set -- "$$GAME"; else set -- Pong Breakout; fi; for game in "$$@"; do \
	$(PROGRAM) -- benchmarks/race.py --game "$$game" --cleanrl "$${CLEANRL:-.peers/cleanrl/source}" \
	--cleanrl-python .peers/cleanrl/bin/python --sb3-python .peers/sb3/bin/python || exit 1; done
	@$(BIN)/python benchmarks/race.py --memory

family: $(READY)  ## train and time the variants (2 hours); ARGS=speed for the times
	@$(PROGRAM) -- benchmarks/family.py

laptop: $(READY)  ## minutes to solve Pong, and three games against the nature preset (up to 100 minutes); ARGS
	@$(PROGRAM) -- benchmarks/laptop.py

scaling: $(READY)  ## how the cost grows with games, replay and batch (4 minutes); ARGS="--seconds 6"
	@$(PROGRAM) -- benchmarks/scaling.py

saving: $(READY)  ## what saving and loading a full replay costs (10 minutes); ARGS="--games Pong Seaquest"
	@$(PROGRAM) -- benchmarks/saving.py

cluster: $(VENV)/.ready-ray  ## a sweep on several raylets, one of which is killed; what Ray costs (a quarter of an hour); ARGS
	@for part in kill time actors; do $(PROGRAM) -- benchmarks/sweep.py $$part || exit 1; done

torture: $(READY)  ## kill runs 50 times each, resume them, compare them with untouched ones (15 minutes); ARGS="--csv PATH"
	@$(PROGRAM) -- tests/torture.py

fuzz: $(READY)  ## feed broken and cheating files to the readers (5 minutes); ARGS="--minutes 20"
	@$(PROGRAM) -- tests/fuzz.py

mutants: $(READY)  ## break the program in 183 places, one at a time: do the tests notice? (10 minutes); ARGS="--only agent.py"
	@$(PROGRAM) -- tests/mutants.py

bench-gpu: $(READY)  ## all figures of a CUDA machine, 5 minutes of training among them; ARGS
	@$(PROGRAM) -- benchmarks/gpu.py

test: $(ALL_READY)  ## run the tests; ARGS="-k words"
	@$(PROGRAM) -- -m pytest --numprocesses 2 --dist worksteal

check: $(READY)  ## lint, format and types
	@$(BIN)/python -m ruff check . && $(BIN)/python -m ruff format --check . && $(BIN)/python -m mypy

# What is pinned stays as it is; to renew a pin, delete its line first.
lock: $(READY)
	@$(PIP) uv
	@cp requirements.lock requirements.lock.tmp
	@echo 'torch==2.13.0' | $(BIN)/python -m uv pip compile pyproject.toml - --quiet --extra dev --universal --python-version 3.10 \
	--no-header --no-annotate --no-emit-index-url --no-emit-find-links --output-file requirements.lock.tmp > /dev/null
	@{ echo '# What was tested, for Python 3.10 to 3.13. Made by `make lock`.'; \
	echo '# CUDA packages are left out: torch names its own where its build needs them.'; \
	grep -vE '^(#|cuda|nvidia|triton)' requirements.lock.tmp; } > requirements.lock.new
	@mv requirements.lock.new requirements.lock; rm requirements.lock.tmp
	@$(BIN)/python -m uv pip compile pyproject.toml --quiet $(EXTRAS:%=--extra %) --universal --python-version 3.10 \
	--constraint requirements.lock --no-header --no-annotate --no-emit-index-url --no-emit-find-links \
	--output-file extras.lock > /dev/null
	@{ echo '# The extras of pyproject.toml, as tested. Made by `make lock`.'; \
	grep -vE '^(#|cuda|nvidia|triton)' extras.lock; } > extras.lock.new && mv extras.lock.new extras.lock

clean:  ## remove .venv and caches; runs/ stays
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache *.egg-info
	find atari_dqn tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +
