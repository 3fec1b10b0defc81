# The vhost-vdpa backend for QEMU: build it, run it, check it
#
# Copyright (c) 2026 The vhost-vdpa backend authors
#
# SPDX-License-Identifier: GPL-2.0-or-later

## make run              boot a Linux guest on the backend and move data
##                       INTERACTIVE=1 leaves a shell in the guest;
##                       VHOSTDEV=/dev/vhost-vdpa-0 uses a real device;
##                       WHERE=kernel-lab a real kernel's, in an emulated
##                       machine
## make check            run all tests; ends with the totals
##                       ONLY=PATTERN runs the tests whose name matches,
##                       V=1 shows each test
## make check-kernel     of these, run those on real kernels, which it compiles
## make bench            measure the backend beside QEMU's own one, which it
##                       compiles, too; RUNS=N is how often, ONLY=PART does
##                       one part alone, see bench/run --help for more
## make build            only compile
## make graft TREE=DIR   put the backend into a QEMU 10.0 source tree;
##                       PATCHES=1 applies what is in patches/, too
## make ungraft TREE=DIR take it out again
## make patches          write it as a patch series, to build/patches/series
## make check-patches    compile QEMU after each patch of the series
## make clean            remove what was compiled
## make distclean        remove build/
##
## Settings, for build, run and check:
## QEMU_SRC=PATH         a QEMU 10.0 tree or tarball of your own, which is
##                       copied; by default Debian trixie's source
## DEBUG=1               compile with debug information
## JOBS=N                compile this many files at a time
## FORCE=1               overwrite changes made inside of a grafted tree
## NO_PACKAGES=1         do not install packages

.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

export QEMU_SRC DEBUG JOBS FORCE NO_PACKAGES V ONLY VHOSTDEV INTERACTIVE WHERE

GRAFT := /usr/bin/python3 -B scripts/graft.py

.PHONY: help build run check check-kernel bench graft ungraft patches
.PHONY: check-patches clean distclean

help:
	@sed -n 's/^## \{0,1\}//p' Makefile

build:
	@scripts/build

run:
	@scripts/run

check:
	@scripts/check

check-kernel:
	@ONLY='kernel-*' scripts/check

bench:
	@/usr/bin/python3 -B bench/run $(if $(RUNS),--runs $(RUNS)) \
	    $(ONLY:%=--only %)

graft ungraft:
	@test -n "$(TREE)" || \
	    { echo 'error: say which tree: make $@ TREE=DIR' >&2; exit 1; }
	@$(GRAFT) $(if $(filter ungraft,$@),--undo) $(if $(FORCE),--force) \
	    $(if $(PATCHES),--patches) \
	    -- "$(TREE)"

patches:
	@scripts/patches

check-patches:
	@scripts/check-patches

clean:
	rm -rf build/qemu/build* build/qemu-upstream/build build/patches \
	    build/logs

distclean:
	rm -rf build
	@echo "what was fetched stays in" \
	    "$${XDG_CACHE_HOME:-$$HOME/.cache}/qemu-vhost-vdpa"
