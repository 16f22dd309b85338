# Two commands do all the set-up: `make demo` runs the main job, `make test` runs the tests.
PENSTOCK = .venv/bin/penstock
PYTEST = .venv/bin/python -m pytest
# Slurm mostly waits, so the others run beside it; what starts Ray has the machine for itself.
ALONE = tests/real/ray tests/real/nodes tests/real/serve tests/real/telemetry
BESIDE_SLURM = $(filter-out $(ALONE) tests/real/slurm,$(wildcard tests/real/[a-z]*))

.PHONY: help setup system demo demo-cluster demo-genomes demo-cfd demo-video infra infra-tools test check unit audit bench clean
help:
	@echo "make demo             set up, run the main job, print where its report is"
	@echo "make demo-cluster     the same from Ray to a real Slurm and back, with S3 in between, all on this machine"
	@echo "make demo-genomes     reads of eleven genomes on S3: a table tuned and trained on Ray, clusters, one read served"
	@echo "make demo-cfd         generated turbulence, streamed into OpenFOAM while it runs, and judged beside the truth"
	@echo "make demo-video       videos cut into shots, judged, near-duplicates found, the best written as clips; a gallery"
	@echo "make infra            infrastructure: what deploy/deploy.toml would change, and all offline checks"
	@echo "make test             set up, run every test, real daemons included"
	@echo "make check            lint, types, layers, unit tests"
	@echo "make audit            ask OSV for known vulnerabilities of all pinned packages (needs the network)"
	@echo "make bench NAME=...   one benchmark of benchmarks/"

setup:
	@scripts/setup

system:
	@scripts/system

demo: setup
	$(PENSTOCK) run examples/antibodies/pipeline.toml

demo-cluster: setup
	@scripts/system slurm
	@scripts/demo-cluster

demo-genomes: setup
	@scripts/demo-genomes

demo-cfd: setup
	@scripts/system openfoam
	$(PENSTOCK) run examples/flow/pipeline.toml
	$(PENSTOCK) judge examples/flow/out/generated --truth examples/flow/out/truth_sample --steady-seconds 15 --out examples/flow/judgement.html

demo-video: setup
	.venv/bin/python examples/video/make.py examples/video/videos
	$(PENSTOCK) run examples/video/pipeline.toml
	$(PENSTOCK) gallery examples/video/out/clips --title "Curated videos" --out examples/video/gallery.html

infra-tools:
	@scripts/infra-tools

infra: setup infra-tools
	$(PENSTOCK) infra render deploy/deploy.toml --out deploy/rendered
	$(PENSTOCK) infra validate deploy/rendered

check: setup
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	.venv/bin/lint-imports
	$(PYTEST) tests/unit tests/contract -q -n 2

test: setup system infra-tools check
	$(PYTEST) tests/real/slurm $(BESIDE_SLURM) -n 2 --dist loadfile --durations=15
	$(PYTEST) $(ALONE) tests/story tests/docs --durations=15

audit:
	@scripts/audit

bench: setup
	.venv/bin/python benchmarks/$(NAME).py

clean:
	rm -rf .venv examples/*/out examples/*/report.html examples/genomes/reads examples/video/videos examples/video/gallery.html
