# `make run` starts a hub with a demo device; `make test` proves the checkout. Each installs what it needs by itself.
# `make help` lists the rest.

PYTHON ?= python3
PYTEST_ARGS ?=
BENCH_ARGS ?=
FUZZ_ARGS ?= -max_total_time=120
SOAK_ARGS ?=

export PATH := $(CURDIR)/.venv/bin:$(PATH)
.DEFAULT_GOAL := help

# $(call prepare,TARGET): install what TARGET needs. When that cannot be done the script's one line ends the run.
prepare = $(eval reason := $(shell $(PYTHON) scripts/bootstrap.py $(1)))$(if $(filter 0,$(.SHELLSTATUS)),,$(error \
	$(or $(reason),scripts/bootstrap.py failed, see above)))

CLUSTER_ARGS ?=
SUITES_ARGS ?=
# What `make test` runs on PostgreSQL and NATS as well: of each SDK and each chapter something. `make suites` runs all.
CLUSTERED = $(addprefix tests/sdk/test_,telemetry_python.py twins.py methods_sdk.py c2d.py registry_manager.py \
	queries.py provisioning_python.py provisioning_node.py checkpointing.py events_sdk.py device_http_sdk.py \
	files_python.py management_sdk.py) \
	$(addprefix tests/behaviour/test_,mqtt.py amqp_devices.py twins_mqtt.py eventhubs_reading.py events.py files.py odd_texts.py)
.PHONY: help run test lint bench soak cluster suites fuzz lock docs clean

help: ## this list
	@sed -n 's/^\([a-z]*\):.*## /make \1\t/p' Makefile | expand -t 14

run: ## start a hub with a demo device that sends telemetry
	$(call prepare,run)@muster serve --demo

test: ## style, types, layers and every test
	$(call prepare,test)@$(MAKE) --no-print-directory check-style
	@python scripts/low_ports.py pytest -n 3 --dist worksteal -m "not soak" $(PYTEST_ARGS)
	$(if $(PYTEST_ARGS),,@python scripts/low_ports.py pytest -n 3 --dist worksteal --engines clustered $(CLUSTERED))

lint: ## style, types and layers only
	$(call prepare,lint)@$(MAKE) --no-print-directory check-style

.PHONY: check-style
check-style:
	@ruff check --quiet .
	@ruff format --check --quiet .
	@mypy --no-error-summary
	@mypy --no-error-summary scripts bench
	@mkdir -p build && lint-imports >build/lint-imports.txt || { cat build/lint-imports.txt; exit 1; }

bench: ## measure the hub beside Mosquitto, RabbitMQ and a least C server, talking back, queries, certificates, registrations, into docs/results
	$(call prepare,bench)@python -m bench.run $(BENCH_ARGS)
	@python -m bench.talking $(filter --quick,$(BENCH_ARGS))
	@python -m bench.queries $(filter --quick,$(BENCH_ARGS))
	@python -m bench.certificates $(filter --quick,$(BENCH_ARGS))
	@python -m bench.registrations $(filter --quick --again,$(BENCH_ARGS))
	@python -m bench.amqp $(filter --quick --again,$(BENCH_ARGS))

soak: ## the long proofs; a run that was stopped goes on where it was
	$(call prepare,test)@python scripts/low_ports.py python scripts/soak.py $(SOAK_ARGS)

cluster: ## break a cluster of three nodes under load; a run that was stopped goes on where it was
	$(call prepare,cluster)@python scripts/cluster.py $(CLUSTER_ARGS)

suites: ## the SDK suites and the chapters on PostgreSQL and NATS; a run that was stopped goes on where it was
	$(call prepare,test)@python scripts/low_ports.py python scripts/suites.py $(SUITES_ARGS)

fuzz: ## what AMQP clients may send, coverage-guided, for two minutes (FUZZ_ARGS)
	$(call prepare,test)@python -m pip install --quiet --no-deps --target build/atheris atheris==3.0.0
	@PYTHONPATH=build/atheris:src:. python tests/fuzz/amqp_input.py $(FUZZ_ARGS)

docs: ## write docs/errors.md and docs/limits.md from their tables
	$(call prepare,lint)@python scripts/tables.py

lock: ## renew requirements/*.lock from pyproject.toml
	@PYTHON=$(PYTHON) scripts/lock

clean: ## remove what the other targets made, but no data of a hub
	rm -rf --one-file-system .venv build bench/build tests/node/node_modules .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
