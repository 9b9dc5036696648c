# The single check before a commit: `make check`. `make levels`: the tests at three processor levels.
.PHONY: check lint types test levels pictures

check: lint types test

lint:
	ruff check .
	ruff format --check .

types:
	mypy

test:
	pytest

# torch and oneDNN choose their kernels by the processor; these switches make a newer processor behave like an older one.
levels:
	ATEN_CPU_CAPABILITY=default ONEDNN_MAX_CPU_ISA=SSE41 pytest
	ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2 pytest
	pytest

pictures:
	python docs/pictures/draw.py
	python -m docs.pictures.stair
