# `make run` serves; `make test` tests. Each makes .venv the first time, and works offline after.

PYTHON ?= $(firstword $(foreach name,python3 python3.14 python3.13 python3.12 python3.11,$(shell \
	command -v $(name) >/dev/null && $(name) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	2>/dev/null && echo $(name))))
BIN := .venv/bin
PIP_INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes
UV := uv==0.13.9
LOCK := $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	--no-emit-index-url --no-emit-find-links --custom-compile-command 'make lock'

.PHONY: run test check audit lock clean

run: .venv/run.done
	@exec $(BIN)/python -m scripts.run

test: .venv/test.done
	$(BIN)/python -m pytest --cov --cov-report=term

check: .venv/test.done
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

lock: .venv/python.done
	$(BIN)/python -m pip install --quiet $(UV)
	$(LOCK) requirements.in --output-file requirements.txt
	$(LOCK) requirements-test.in --output-file requirements-test.txt
	$(LOCK) requirements-audit.in --output-file requirements-audit.txt

# What is installed is what was locked, and no .pth file runs at every start of Python. Known holes
# are a report and no gate: they come from the network, and on any day.
audit: .venv/python.done
	@rm -rf .venv/runtime .venv/audit
	@$(BIN)/python -m venv .venv/runtime
	@.venv/runtime/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.txt
	@! find .venv/runtime -name '*.pth' ! -name distutils-precedence.pth | grep . || { echo 'A .pth file that should not be there.' >&2; exit 1; }
	@echo "requirements.txt: $$(.venv/runtime/bin/python -m pip list --disable-pip-version-check --format=freeze | grep -vcE '^(pip|setuptools)=') packages, no stray .pth file"
	@$(BIN)/python -m venv .venv/audit && .venv/audit/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-audit.txt \
		&& .venv/audit/bin/pip-audit --disable-pip --require-hashes --progress-spinner off --timeout 10 -r requirements.txt \
		|| echo 'pip-audit: see above; a report, no gate'

clean:
	rm -rf .venv

.venv/python.done:
	@test -n "$(PYTHON)" || { echo 'Python 3.11 or newer is needed; name it: make PYTHON=/path/to/python3 ...' >&2; exit 1; }
	@echo 'Making .venv with $(PYTHON) ...'
	@$(PYTHON) -m venv .venv || { echo 'On Debian and Ubuntu: apt install python3-venv' >&2; exit 1; }
	@touch $@

.venv/run.done: requirements.txt | .venv/python.done
	@echo 'Installing what requirements.txt lists into .venv ...'
	@$(PIP_INSTALL) -r requirements.txt
	@touch $@

.venv/test.done: requirements-test.txt | .venv/python.done
	@echo 'Installing what requirements-test.txt lists into .venv ...'
	@$(PIP_INSTALL) -r requirements-test.txt
	@touch $@
