# make demo   train a small network on real scans and write its report (about two minutes)
# make test   format, lint, types and tests, as continuous integration runs them
VENV := .venv
PY := $(VENV)/bin/python
# One thread per test worker: small tensors are slower with several, and two workers fill two cores.
ONE_THREAD := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1
PYTEST := $(ONE_THREAD) $(PY) -m pytest -n 2 --jaxtyping-packages=fieldguide,beartype.beartype

.PHONY: demo test test-full lint bench install install-dev clean

demo: install
	$(VENV)/bin/fieldguide demo

test: lint
	$(PYTEST) -m "not slow"

test-full: lint
	$(PYTEST)

lint: install-dev
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/basedpyright

bench: install-dev
	$(PY) -m benchmarks

install:
	@sh tools/install.sh $(VENV) ""

install-dev:
	@sh tools/install.sh $(VENV) "dev,parity,export,optimizers,text"

clean:
	rm -rf $(VENV) .pytest_cache .ruff_cache .hypothesis
