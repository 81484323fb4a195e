# Everything a newcomer types. Each target installs what it needs into .venv, once, through uv from requirements.lock.
#   make repro   the whole pipeline: data, teacher, students, evaluation, ONNX, benchmark, report
#   make test    lint, types, unit tests and the toy pipeline
#   make check   lint and types alone (seconds)
#   make table   methods against pairs of networks, with seeds (see below)
#   make serve   the demo page and the server of student and teacher, on 127.0.0.1:8000
#   make docs    write anew what is made from the code: params.schema.json, docs/params.md, docs/methods.md
#   make lock    resolve all locks anew, and try them as `make platforms` does
#   make platforms  ask whether the locks suit every system and Python that README names (needs a package index)
#   make clean   remove what the pipeline made (not .venv)

SHELL := /bin/bash
PYTHON ?= python3
UV_VERSION := 0.13.9
BIN := .venv/bin
export UV_SYSTEM_CERTS := 1
# Where it is set, every process would compile torch anew: two seconds each.
unexport PYTHONDONTWRITEBYTECODE
export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: repro test check table serve docs lock platforms clean

# dvc.lock changes with every run. Until somebody commits one of their own, a run leaves the checkout as clean as it was;
# to start recording runs in git: git update-index --no-skip-worktree dvc.lock && git add dvc.lock
# DVC looks for git unless it is told that there is none, as in a downloaded archive; after a `git init` there:
# dvc config --local --unset core.no_scm
repro: .venv/installed
	@if [ -e .git ] || git rev-parse --git-dir >/dev/null 2>&1; then \
		git show HEAD:./dvc.lock 2>/dev/null | grep -q '^stages:' || git update-index --skip-worktree dvc.lock || true; \
	else \
		dvc config --local core.no_scm true; \
	fi
	dvc repro

test: check
	python -m pytest -n auto

check: .venv/installed
	ruff check .
	ruff format --check .
	mypy

# make table PAIRS=a,f METHODS=vanilla,kd,afd,sakd SEEDS=0,1,2 PROTOCOL=unified: trains what is missing of that table
PAIRS ?= a
METHODS ?= vanilla,kd,afd,sakd
SEEDS ?= 0
PROTOCOL ?= unified
table: .venv/installed
	python -m stages.table --pairs $(PAIRS) --methods $(METHODS) --seeds $(SEEDS) --protocol $(PROTOCOL)

serve: .venv/installed
	python -m serve run artifacts/deploy/deployed.onnx artifacts/deploy/teacher.onnx --samples data/prepared/test

docs: .venv/installed
	python -m stages.reference

lock: .venv/uv/bin/uv
	.venv/uv/bin/uv pip compile -q --universal --generate-hashes --no-emit-index-url --python-version 3.11 \
		--group dev --group scale pyproject.toml -o requirements.lock
	.venv/uv/bin/uv pip compile -q --universal --generate-hashes --no-emit-index-url --python-version 3.11 \
		--group serve --constraint requirements.lock -o requirements-serve.lock
	.venv/uv/bin/uv pip compile -q --generate-hashes --no-emit-index-url --python-version 3.11 \
		--python-platform x86_64-manylinux_2_28 --group serve-gpu --constraint requirements.lock \
		-o requirements-serve-gpu.lock
	$(MAKE) platforms

# Asks the package index, without installing anything, whether the locks suit every system and Python that README names.
# antlr4-python3-runtime has no wheel, but is Python alone.
DRY_RUN := MACOSX_DEPLOYMENT_TARGET=14.0 .venv/uv/bin/uv pip install -q --dry-run --require-hashes --target .venv/nothing \
	--only-binary :all: --no-binary antlr4-python3-runtime
platforms: .venv/uv/bin/uv
	@set -e; for python in 3.11 3.12 3.13 3.14; do \
		for system in x86_64-manylinux_2_28 aarch64-manylinux_2_28 aarch64-apple-darwin; do \
			for lock in requirements.lock requirements-serve.lock; do \
				$(DRY_RUN) --python-platform $$system --python-version $$python -r $$lock; \
				echo "$$lock suits $$system with Python $$python"; \
			done; \
		done; \
		$(DRY_RUN) --python-platform x86_64-manylinux_2_28 --python-version $$python -r requirements-serve-gpu.lock; \
		echo "requirements-serve-gpu.lock suits x86_64-manylinux_2_28 with Python $$python"; \
	done

clean:
	rm -rf artifacts data/prepared report .resume

# uv lives in an environment of its own inside .venv, so that the lock alone decides what .venv holds.
.venv/uv/bin/uv:
	$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed, this is " + sys.version) if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv --clear .venv
	$(PYTHON) -m venv .venv/uv
	.venv/uv/bin/pip install -q uv==$(UV_VERSION)

.venv/installed: requirements.lock .venv/uv/bin/uv
	@echo "Installing the pinned packages into .venv (several GB, once)"
	.venv/uv/bin/uv pip sync -q --python $(BIN)/python --require-hashes requirements.lock
	touch $@
