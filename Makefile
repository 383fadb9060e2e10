# The commands of this project. All of the work is in tools/ and containers/.
SHELL := bash
export PATH := $(PATH):$(CURDIR)/.tools/bin

.PHONY: help setup demo demo-families demo-embeddings test test-platforms lint bench images base-images lock clean

help: ## show these lines
	@sed -n 's/^\([a-z-]*\):.*## /  make \1\t/p' Makefile | expand -t 24

setup: ## set up what is missing: Java and Nextflow (.tools/bin/nextflow) where none is on PATH, and the Python environments
	@tools/setup

demo: ## set up, then train a small reference on scanpy's PBMCs and map three files onto it (results/demo)
	@tools/setup
	@nextflow run . -profile test_full --outdir results/demo

demo-families: ## set up, then do the same with every family of models, into one report (results/demo-families)
	@tools/setup families
	@tools/demo_families results/demo-families

demo-embeddings: ## set up, then map one query by surgery, by a model that it cannot move, and by an embedding of one's own (results/demo-embeddings)
	@tools/setup
	@tools/demo_embeddings results/demo-embeddings

test: ## set up, then run all tests
	@tools/setup test
	@tools/test

test-platforms: ## as root on Debian: install what is missing, then test Docker, SLURM and Charliecloud for real
	@tools/setup platforms
	@tools/test_platforms

lint: ## set up, then run nf-core's own checks alone (docs/nf-core.md)
	@tools/setup
	@tools/lint

bench: ## set up, then measure time and memory beside the libraries, and write docs/performance.md (QUICK=1: less, below results/)
	@tools/setup
	@. containers/activate core && python bench/performance.py $(if $(QUICK),--quick)

images: ## build the container images with Docker: refmap/<env>:<version>
	@tools/images

base-images: ## where no registry is reached: make the images that these are built from, out of Debian's packages
	@tools/base_images

lock: ## resolve the environments anew from containers/*/pyproject.toml
	@tools/lock

clean: ## remove what the demo, the tests and Nextflow left here (not .tools, nor your results)
	@rm -rf results/demo results/demo-families results/demo-embeddings work .nextflow .nextflow.log* .nf-test .nf-test.log .pytest_cache .hypothesis
	@find bin tests bench -name __pycache__ -prune -exec rm -rf {} + 2>/dev/null || true
