# The single check before a commit: `make check`. `make levels`: the tests at three processor levels.
.PHONY: check lint types test levels pictures lock sbom

check: lint types test

lint:
	ruff check .
	ruff format --check .

types:
	mypy

test:
	pytest

# torch and oneDNN choose their kernels by the processor; these switches make a newer processor behave like an older one.
# Only the tests that compute with a model can differ: those of the other rooms run once.
COMPUTING = tests/model tests/answers tests/evaluation tests/training tests/docs/test_lesson.py tests/commands/test_evaluate.py

levels:
	ATEN_CPU_CAPABILITY=default ONEDNN_MAX_CPU_ISA=SSE41 pytest $(COMPUTING)
	ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2 pytest $(COMPUTING)
	pytest

pictures:
	python docs/pictures/draw.py
	python -m docs.pictures.stair

# Exact versions with their sha256, for Linux, macOS and Windows and every supported Python. Needs `pip install uv`.
# PyTorch and the CUDA libraries that it brings are left out: which build fits depends on the machine.
lock:
	uv pip compile --quiet --universal --generate-hashes --no-header --no-annotate --python-version 3.10 \
	    --extra dev --extra release pyproject.toml \
	    $$(printf -- '--no-emit-package %s ' torch triton $$(uv pip compile --quiet --universal --no-header \
	    --no-annotate --python-version 3.10 pyproject.toml | grep -oE '^(nvidia|cuda)[a-z0-9-]*' | sort -u)) \
	    --output-file .ci/lock.txt

# What this environment holds, in the CycloneDX format. Needs `pip install -e '.[release]'`.
sbom:
	cyclonedx-py environment --pyproject pyproject.toml --output-reproducible --output-file sbom.json
