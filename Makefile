# Two commands do all the set-up: `make demo` runs the main job, `make test` runs the tests.
PENSTOCK = .venv/bin/penstock
PYTEST = .venv/bin/python -m pytest

.PHONY: help setup system demo test check unit bench clean
help:
	@echo "make demo             set up, run the main job, print where its report is"
	@echo "make test             set up, run every test, real daemons included"
	@echo "make check            lint, types, layers, unit tests"
	@echo "make bench NAME=...   one benchmark of benchmarks/"

setup:
	@scripts/setup

system:
	@scripts/system

demo: setup
	$(PENSTOCK) run examples/antibodies/pipeline.toml

check: setup
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	.venv/bin/lint-imports
	$(PYTEST) tests/unit tests/contract -q -n 2

test: setup system check
	$(PYTEST) tests/real tests/story tests/docs --durations=15

bench: setup
	.venv/bin/python benchmarks/$(NAME).py

clean:
	rm -rf .venv examples/*/out examples/*/report.html
