# `make run` serves, `make test` tests. Each makes .venv the first time, and works offline after.
# PYTHON=/path/to/python3 names the Python to make it with.

BIN := .venv/bin
TEST_PROCESSES := 4 # side by side, for two cores: most tests wait; 0: one after the other
unexport PYTHONDONTWRITEBYTECODE # else each process compiles all tests again

.PHONY: run test check servers test-clients soak bench bench-growth audit lock clean

run: .venv/run.done
	@exec $(BIN)/python -m scripts.run

test: .venv/test.done
	$(BIN)/python -m pytest -n $(TEST_PROCESSES) --dist loadfile --no-loadscope-reorder --cov --cov-report=term

check: .venv/test.done
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# nginx and Redis, from the system: without them the tests that need them are skipped.
servers:
	@scripts/servers.sh

# The clients that people use, each with its own packages.
test-clients: .venv/test.done .venv-clients/done tests/clients/node_modules/done
	$(BIN)/python -m pytest tests/clients/check_*.py

# Half an hour at half capacity with 5 % faults: nothing may grow. SOAK_MINUTES=5 for less.
soak: .venv/run.done
	$(BIN)/python -m scripts.soak

# What the proxy costs beside its peers, and how that grows: 8 minutes each. PEERS=all: all peers.
bench: .venv/run.done .venv-bench/done $(if $(PEERS),.venv-litellm/done bench/peers/node_modules/done)
	@exec .venv-bench/bin/python -m bench $(PEERS)
bench-growth: .venv/run.done .venv-bench/done
	@exec .venv-bench/bin/python -m bench growth

audit:
	@scripts/audit.sh

lock: .venv/run.done
	@scripts/lock.sh

clean:
	rm -rf .venv .venv-* tests/clients/node_modules bench/peers/node_modules

.venv/run.done: requirements.txt
	@scripts/install.sh .venv $< $@

.venv/test.done: requirements/test.txt
	@scripts/install.sh .venv $< $@

.venv-%/done: requirements/%.txt
	@scripts/install.sh .venv-$* $< $@

%/node_modules/done: %/package-lock.json
	@scripts/node.sh $*
