# `make run` serves; `make test` tests. Each makes .venv the first time, and works offline after.

PYTHON ?= $(firstword $(foreach name,python3 python3.14 python3.13 python3.12 python3.11,$(shell \
	command -v $(name) >/dev/null && $(name) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	2>/dev/null && echo $(name))))
BIN := .venv/bin
# No resolving: the lists are whole, and pip's resolver looks past a pin where an extra is asked for
# (coverage[toml]), so a new release on the index would break a fresh clone.
PIP_INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes
UV := uv==0.13.9
LOCK := $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	--no-emit-index-url --no-emit-find-links --custom-compile-command 'make lock'

LIMITED := $(RATE_LIMIT)$(shell grep -s '^ *\(export *\)\?RATE_LIMIT *=.' .env)

.PHONY: run test servers test-clients soak bench bench-growth check audit lock clean

run: .venv/run.done $(if $(LIMITED),.venv/limits.done)
	@exec $(BIN)/python -m scripts.run

test: .venv/test.done
	$(BIN)/python -m pytest --cov --cov-report=term

check: .venv/test.done
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Servers that some tests talk to; without them those tests are skipped, and say so.
SUDO := $(if $(filter-out 0,$(shell id -u)),sudo)
servers:
	@command -v nginx >/dev/null && command -v redis-server >/dev/null \
		|| { $(SUDO) apt-get -qq update && $(SUDO) env DEBIAN_FRONTEND=noninteractive \
			apt-get -qq install -y --no-install-recommends nginx redis-server; } >/dev/null 2>&1 \
		|| echo 'nginx and redis-server could not be installed: their tests will be skipped'

lock: .venv/python.done
	$(BIN)/python -m pip install --quiet $(UV)
	$(LOCK) requirements.in --output-file requirements.txt
	$(LOCK) requirements-limits.in --output-file requirements-limits.txt
	$(LOCK) requirements-test.in --output-file requirements-test.txt
	$(LOCK) requirements-audit.in --output-file requirements-audit.txt
	$(LOCK) requirements-clients.in --output-file requirements-clients.txt
	$(LOCK) requirements-bench.in --output-file requirements-bench.txt
	$(LOCK) requirements-bench-litellm.in --output-file requirements-bench-litellm.txt --override bench/peers/litellm-overrides.txt
	cd tests/clients && npm install --package-lock-only --omit-lockfile-registry-resolved
	cd bench/peers && npm install --package-lock-only --omit-lockfile-registry-resolved

# The clients that people use, each with its own packages; those for Node are tested where Node is.
test-clients: .venv/test.done .venv-clients/done tests/clients/node_modules/done
	$(BIN)/python -m pytest tests/clients/check_clients.py

# Half an hour at half capacity with 5 % faults: nothing may grow. SOAK_MINUTES=5 for less.
soak: .venv/run.done
	$(BIN)/python -m scripts.soak

# What the proxy costs beside its peers, and how that grows: each in less than 8 minutes, with nginx
# from the system, alone on the machine. PEERS=all: with those that take long to install.
bench: .venv/run.done .venv-bench/done $(if $(PEERS),.venv-bench-litellm/done bench/peers/node_modules/done)
	@exec .venv-bench/bin/python -m bench $(PEERS)

bench-growth: .venv/run.done .venv-bench/done
	@exec .venv-bench/bin/python -m bench growth

# What is installed is what was locked, and no .pth file runs at every start of Python. Known holes
# are a report and no gate: they come from the network, and on any day.
audit: .venv/python.done
	@rm -rf .venv/runtime .venv/audit
	@$(BIN)/python -m venv .venv/runtime
	@.venv/runtime/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r requirements.txt
	@! find .venv/runtime -name '*.pth' ! -name distutils-precedence.pth | grep . || { echo 'A .pth file that should not be there.' >&2; exit 1; }
	@echo "requirements.txt: $$(.venv/runtime/bin/python -m pip list --disable-pip-version-check --format=freeze | grep -vcE '^(pip|setuptools)=') packages, no stray .pth file"
	@$(BIN)/python -m venv .venv/audit && .venv/audit/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r requirements-audit.txt \
		&& .venv/audit/bin/pip-audit --disable-pip --require-hashes --progress-spinner off --timeout 10 -r requirements.txt \
		|| echo 'pip-audit: see above; a report, no gate'

clean:
	rm -rf .venv .venv-clients .venv-bench .venv-bench-litellm tests/clients/node_modules bench/peers/node_modules

.venv/python.done:
	@test -n "$(PYTHON)" || { echo 'Python 3.11 or newer is needed; name it: make PYTHON=/path/to/python3 ...' >&2; exit 1; }
	@echo 'Making .venv with $(PYTHON) ...'
	@$(PYTHON) -m venv .venv || { echo 'On Debian and Ubuntu: apt install python3-venv' >&2; exit 1; }
	@touch $@

.venv/run.done: requirements.txt | .venv/python.done
	@echo 'Installing what requirements.txt lists into .venv ...'
	@$(PIP_INSTALL) -r requirements.txt
	@touch $@

.venv/limits.done: requirements-limits.txt | .venv/python.done
	@echo 'Installing what requirements-limits.txt lists into .venv ...'
	@$(PIP_INSTALL) -r requirements-limits.txt
	@touch $@

.venv/test.done: requirements-test.txt | .venv/python.done
	@echo 'Installing what requirements-test.txt lists into .venv ...'
	@$(PIP_INSTALL) -r requirements-test.txt
	@touch $@

.venv-%/done: requirements-%.txt | .venv/python.done
	@echo 'Installing what $< lists into .venv-$* ...'
	@$(BIN)/python -m venv .venv-$*
	@.venv-$*/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r $<
	@touch $@

tests/clients/node_modules/done: tests/clients/package-lock.json
	@echo 'Installing what tests/clients/package-lock.json lists ...'
	@if command -v npm >/dev/null; then \
		cd tests/clients && npm ci --ignore-scripts --no-audit --no-fund --loglevel=error && touch node_modules/done; \
		else echo 'npm is missing: the tests of the clients for Node will be skipped'; fi

# Portkey answers each stream with 500 on these Nodes ("TypeError: immutable"): the headers of what
# it fetched cannot be changed, a copy of them can.
PORTKEY := bench/peers/node_modules/@portkey-ai/gateway/build/start-server.js
bench/peers/node_modules/done: bench/peers/package-lock.json
	@echo 'Installing what bench/peers/package-lock.json lists ...'
	@cd bench/peers && npm ci --ignore-scripts --no-audit --no-fund --loglevel=error
	@sed -i 's/:new Response(p,e)}const Ad/:new Response(p,{status:e.status,headers:new Headers(e.headers)})}const Ad/' $(PORTKEY)
	@touch $@
