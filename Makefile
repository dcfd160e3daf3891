# make demo    the whole product on this machine, from a synthetic competition to a submission
# make test    what CI runs: lint, types, import contract, tests
# make slow    the tests that take more than half a minute each, which make test leaves out
# make lint    the first three of these
# make generated  what is written from the code: the study file's schema, the picture of the house
# make fuzz    new hostile inputs for ten minutes: SECONDS=50 for each of twelve tests, skipped when time is up
# make faults  the fault suite at full size, about half an hour: kills, outages, damage, and the checker's report
#
# Each installs what it needs into .venv first, the demo what users need. PYTHON=python3.12 chooses the interpreter.

VENV := .venv
BIN := $(VENV)/bin
USERS := $(VENV)/installed-for-users
STAMP := $(VENV)/installed
# Twice the cores that CI has: many tests wait for a process, a server or a lease.
PYTEST_WORKERS ?= 4

.DEFAULT_GOAL := help
.PHONY: help install demo test slow lint generated fuzz faults format screenshot clean

help:
	@sed -n '/^$$/q; s/^# \{0,1\}//p' Makefile

install: $(STAMP)

# Made anew when the dependencies change; the package itself is installed in place.
define INSTALL
@python=; \
for each in $(PYTHON) python3.13 python3.12 python3.11 python3 python; do \
  if "$$each" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
    python="$$each"; break; \
  fi; \
done; \
if [ -z "$$python" ]; then \
  echo "hms_tune needs Python 3.11 or newer with its venv module (Debian, Ubuntu: apt install python3 python3-venv)" >&2; \
  exit 1; \
fi; \
[ -x $(BIN)/pip ] || "$$python" -m venv $(VENV)
@echo "Installing into $(VENV), once: about 7 GB on the disk, most of it PyTorch. pip shows what it downloads."
$(BIN)/python -m pip install --disable-pip-version-check -e "$(1)"
@echo "Installed: $$(du -sh $(VENV) | cut -f 1)"
endef

# What users need; a comma in a call would begin another argument.
EXTRAS := onnx,kaggle

$(USERS): pyproject.toml
	$(call INSTALL,.[$(EXTRAS)])
	@touch $@

# What developers need besides.
$(STAMP): pyproject.toml
	$(call INSTALL,.[dev])
	@touch $(USERS) $@

demo: $(USERS)
	$(BIN)/hms-tune demo

test: lint
	$(BIN)/python -m pytest -n $(PYTEST_WORKERS) --dist worksteal -m 'not slow' --durations=10

slow: $(STAMP)
	$(BIN)/python -m pytest -n $(PYTEST_WORKERS) --dist worksteal -m slow --durations=10

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

# SEEDS, KILLS and TRIALS are of each seed's search.
SEEDS ?= 1 2 3
TRIALS ?= 110
KILLS ?= 80

faults: $(STAMP)
	HMS_TUNE_FAULTS_LONG=1 $(BIN)/python -m pytest tests/faults tests/unit/training/test_checkpoint.py \
	  tests/integration/worker/test_checkpoint_store.py tests/integration/worker/test_disk_full.py \
	  tests/acceptance/test_worker_supervision.py --durations=10
	$(BIN)/python tests/faults/campaign.py --seeds $(SEEDS) --trials $(TRIALS) --kills $(KILLS)
	$(BIN)/python tests/faults/campaign.py --seeds $(SEEDS) --trials $(TRIALS) --kills $(KILLS) --promotion

SECONDS ?= 50

fuzz: $(STAMP)
	HMS_TUNE_FUZZ_SECONDS=$(SECONDS) $(BIN)/python -m pytest tests/fuzz

generated: $(STAMP)
	$(BIN)/python -m hms_tune.config.json_schema > studies/study.schema.json.new
	mv studies/study.schema.json.new studies/study.schema.json
	$(BIN)/python docs/house.py

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The README's picture of the dashboard; needs Chromium, and the study that make demo leaves behind.
screenshot: $(STAMP)
	$(BIN)/python docs/screenshot.py

clean:
	rm -rf $(VENV) demo build dist
