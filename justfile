# What a developer does, by one word each; CI calls the same words.

# this list
default:
    @just --list

# a virtual environment with all that development needs
setup:
    uv sync

# the whole of histo on synthetic patches
demo:
    uv run histo demo

# lay the code out
format:
    uv run ruff format .
    uv run ruff check --fix-only --quiet .

# what ruff finds, and whether the layout holds
lint:
    uv run ruff check .
    uv run ruff format --check .

# mypy, strict
types:
    uv run mypy

# the tests, on every core; compiled first, as each process that they start imports torch and fastai
test *ARGS:
    uv run --compile-bytecode pytest -n auto --dist loadscope {{ARGS}}

# the tests of about a second or more each: whole commands, processes, browsers, servers
test-slow *ARGS:
    uv run --compile-bytecode pytest -n auto --dist loadscope -m slow {{ARGS}}

# the tests that take long: kills at random, several processes, every write, the parts of bench-gpu
test-long *ARGS:
    uv run --compile-bytecode pytest -n auto --dist loadscope -m long {{ARGS}}

# the lines of histo that no test runs, in this process or in those that tests start
coverage *ARGS:
    uv run --compile-bytecode pytest -n auto --dist loadscope -m "not long" --cov --cov-report=term-missing:skip-covered {{ARGS}}

# what CI runs
check: lint types test test-slow

# the tests with the lowest versions that pyproject.toml allows, in an environment of their own; without
# --no-config the pins of [tool.uv] would be installed instead
lowest *ARGS="tests":
    uv venv --quiet --allow-existing .venv-lowest
    uv pip install --no-config --quiet --python .venv-lowest --resolution lowest-direct --group dev .
    uv run --no-project --python .venv-lowest --no-sync python -m pytest -m "not long" {{ARGS}}

# known holes of the dependencies as they are installed, from the advisory databases
audit:
    uv export --quiet --no-hashes --no-emit-project --all-extras --output-file .audit.txt
    uvx pip-audit --requirement .audit.txt --no-deps --disable-pip --strict

# look for bytes that break a reader: `just fuzz decoder 1200`, or card, hdf5, labels, run, geojson; findings are files here
fuzz TARGET SECONDS="1200" *FLAGS:
    uv run --group fuzz python tests/fuzz/fuzz_{{TARGET}}.py -max_total_time={{SECONDS}} {{FLAGS}}

# 1,000 random pictures by every writer at hand, read by every path: a table of right, refused, wrong
decoders *ARGS="--count 1000":
    uv run python -m tests.decoders {{ARGS}}

# fail every write of every command, one at a time, and judge what is left: `just writes --short`
writes *ARGS:
    uv run python -m tests.writes .writes {{ARGS}}

# train by 1, 2 and 4 processes of this machine, kill one of two, and compare what they leave
launches *ARGS:
    uv run python -W ignore -m tests.launched .launches {{ARGS}}

# kill cuts and maps of slides 20 times each, and compare what they leave: `just kills-slides --kills 5`
kills-slides *ARGS:
    uv run python -m tests.kills_slides .kills {{ARGS}}

# the measurements of benchmarks/README.md
bench *ARGS:
    uv run python benchmarks/speed.py {{ARGS}}

# all that is to be measured on a GPU, in under 9 minutes: benchmarks/results/gpu-NAME.json, and the tables
bench-gpu *ARGS:
    uv run python benchmarks/gpu.py {{ARGS}}

# the documentation site, in docs/_build/html; a warning, such as a broken link, is an error
docs:
    uv run python docs/make_commands.py
    uv run --group docs sphinx-build -W --keep-going -q -c docs . docs/_build/html

# whether the pages on the web that the documentation links to are there
docs-links:
    uv run --group docs sphinx-build -W --keep-going -q -c docs -b linkcheck . docs/_build/links

# what an installer needs, in dist/
build:
    uv build
