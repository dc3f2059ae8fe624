# What the Makefiles share: the variables that were typed, the check of them, and the Pythons that can run it.
SHELL := /bin/sh

# What was typed reaches recipes by the environment alone, unexpanded: make itself would run a $(shell ...) in it, the
# shell a quote and what follows. So no recipe may name a variable such as $(GAME); atari_dqn/cli/make.py reads them.
override TYPED := $(strip $(foreach .v,$(.VARIABLES),$(if $(filter command,$(origin $(.v))),$(.v))))
$(foreach .v,$(filter-out MAKE% SHELL,$(TYPED)),$(eval override $$(.v) := $$(value $$(.v))))
override GOALS := $(MAKECMDGOALS)
# Variables that a parent make passes on may be its own.
override INHERITED := $(if $(filter-out 0,$(MAKELEVEL)),$(shell printf %s "$$MAKEFLAGS"))
export TYPED GOALS INHERITED
export $(TYPED)
unexport PYTHONHOME

# Nobody names these: `venv --clear` empties a folder, and the checks must be the checks.
override ROOT := $(if $(wildcard atari_dqn/cli/make.py),,../)
override VENV := $(ROOT).venv
override BIN := $(VENV)/bin
# People's settings of pip that would lead elsewhere than to .venv; an index of theirs counts.
override PIP_INSTALL := -I -m pip install --quiet --disable-pip-version-check
override NO_PIP_SETTINGS := PIP_USER=0 PIP_TARGET= PIP_PREFIX= PIP_ROOT=
# A make in another folder, which finds in the environment what was typed here. (Not as $(MAKE), which `make -n` runs.)
override OTHER_MAKE := MAKEFLAGS= MFLAGS= MAKELEVEL= $(MAKE)

# The Pythons that are tried; PYTHON=... names another.
override PYTHONS := $(if $(value PYTHON),"$$PYTHON",python3 python3.14 python3.13 python3.12 python3.11 python3.10 python)
override FITS := 'import sys; raise SystemExit(not (3, 10) <= sys.version_info[:2] <= (3, 14))'

# Before anything else: does each goal exist, have what it needs, and use what was typed?
override CHECK := for p in $(BIN)/python $(PYTHONS); do "$$p" -c $(FITS) 2>/dev/null && exec "$$p" -I $(ROOT)atari_dqn/cli/make.py; done
.PHONY: arguments
arguments:
	+@$(CHECK); :
.DEFAULT:
	+@($(CHECK)); test $$? -eq 2 || echo 'make: there is no such target, or a file of the project is missing' >&2; exit 2

# The lines of the targets whose descriptions begin with so many #, at most 80 columns wide.
override LIST = sed -n 's/^\([a-z0-9-]*\):[^\#]*$(1)  *\([^\#].*\)/\1 \2/p' Makefile | awk '{ line = sprintf("  %-11s", $$1); \
	for (i = 2; i <= NF; i++) { if (length(line) + length($$i) > 78) { print line; line = sprintf("%-13s", "") } \
	line = line " " $$i } print line }' | sed 's/^\(  [a-z0-9-]*  *\) /\1/'
