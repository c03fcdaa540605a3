# `make demo` shows the main job, `make test` and `make lint` check it; all that they need goes into .venv.
PYTHON ?= python3
PIP = .venv/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
# The tests share out among the cores; one worker per core, two at most: each holds its own torch.
WORKERS ?= 2

.PHONY: demo test test-lowest mutants lint format docs catalog atlas benchmark benchmark-gpu clean

demo: .venv/installed
	.venv/bin/unetinspect trace sd15 --device meta --offline
	.venv/bin/unetinspect skips sd15 --res 128 --device meta --offline

test: .venv/tests-installed
	.venv/bin/python -m pytest --numprocesses $(WORKERS) --dist worksteal

# Do the lowest versions of the dependencies do? The core of the tests needs no transformers, which would ask for newer ones.
LOWEST_TESTS = tests/test_against_torch.py tests/test_catalog.py tests/test_cli.py tests/test_cli_errors.py tests/test_completion.py \
	tests/test_observe.py tests/test_streams.py tests/test_views.py
test-lowest: .venv-lowest/installed
	.venv-lowest/bin/python -m pytest --numprocesses $(WORKERS) --dist worksteal --override-ini filterwarnings=default $(LOWEST_TESTS)

# Which small faults in the package do the tests notice?
mutants: .venv/tests-installed
	.venv/bin/python -m tests.mutants

lint: .venv/lint-installed
	.venv/bin/ruff format --check .
	.venv/bin/ruff check .
	.venv/bin/mypy
	.venv/bin/python tests/size.py

format: .venv/lint-installed
	.venv/bin/ruff check --fix-only --quiet .
	.venv/bin/ruff format .

docs: .venv/tests-installed
	.venv/bin/python docs/pictures.py
	CI=1 .venv/bin/python -m pytest --quiet tests/test_docs.py --update-golden

# What the program reads of configs/*.yaml, and of the models that diffusers builds of them.
catalog: .venv/tests-installed
	CI=1 .venv/bin/python -m pytest --quiet tests/test_catalog.py tests/test_catalog_tensors.py -k "yaml_files or built_anew" --update-golden

# What explain-error knows of diffusers' errors: they are provoked, which takes three minutes.
atlas: .venv/tests-installed
	.venv/bin/python -m tests.atlas

# The other tools get an environment of their own, with transformers: where that is installed, `import diffusers` imports it too.
benchmark: .venv/installed .venv-benchmark/installed
	.venv/bin/python benchmarks/run.py --write docs/benchmarks.md

benchmark-gpu: .venv/installed
	.venv/bin/python benchmarks/gpu.py --write docs
	.venv/bin/python benchmarks/capture.py --device cuda --write docs/benchmarks.md

clean:
	rm -rf .venv .venv-benchmark .venv-lowest dist build .pytest_cache .mypy_cache .ruff_cache .hypothesis

# Dependency groups need pip 25.1.
.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(PIP) --upgrade pip
	$(PIP) --editable .
	touch $@

.venv/tests-installed: .venv/installed
	$(PIP) --group test
	touch $@

.venv-lowest/installed: pyproject.toml constraints.txt tests/lowest.py
	$(PYTHON) -m venv .venv-lowest
	.venv-lowest/bin/python -m pip install --quiet --disable-pip-version-check --upgrade pip
	.venv-lowest/bin/python tests/lowest.py > .venv-lowest/constraints.txt
	.venv-lowest/bin/python -m pip install --quiet --disable-pip-version-check --constraint .venv-lowest/constraints.txt --editable . --group test-core
	touch $@

.venv/lint-installed: .venv/tests-installed
	$(PIP) --group lint
	touch $@

.venv-benchmark/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv-benchmark
	.venv-benchmark/bin/python -m pip install --quiet --disable-pip-version-check --upgrade pip
	.venv-benchmark/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable . --group benchmark
	touch $@
