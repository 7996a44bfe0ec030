# modelfleet: `make` lists what there is to do.
SHELL := /bin/sh
GO    ?= go
ARGS  ?=
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
# Reproducible: no paths, no build ids, no cgo.
BUILD  = CGO_ENABLED=0 $(GO) build -trimpath -buildvcs=false -ldflags "-s -w -buildid= -X main.version=$(VERSION)"
BINS   = agent/cmd/modelfleet-agent coordinator/cmd/modelfleet-coordinator coordinator/cmd/modelfleet

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: demo
demo: ## run a whole fleet on loopback (ARGS="--stay" keeps it up, ARGS=--json for machines)
	@test -d bin/demo || echo "compiling; the first time it takes a few minutes" >&2
	@$(GO) run ./infra/demo $(ARGS)

.PHONY: build
build: ## the three binaries, into bin/
	@mkdir -p bin
	@for b in $(BINS); do $(BUILD) -o bin/ ./$$b || exit 1; done

.PHONY: keyless
keyless: ## the operator's command and the coordinator with Sigstore's keyless signing (12 MB more), into bin/keyless/
	@mkdir -p bin/keyless
	@for b in coordinator/cmd/modelfleet-coordinator coordinator/cmd/modelfleet; do $(BUILD) -tags keyless -o bin/keyless/ ./$$b || exit 1; done

.PHONY: heartbeat
heartbeat: ## out/heartbeat.zip: the function that keeps a fleet fresh, for Lambda on arm64
	@mkdir -p out
	GOOS=linux GOARCH=arm64 $(BUILD) -tags lambda.norpc -o out/bootstrap ./functions/heartbeat
	@cd out && rm -f heartbeat.zip && zip -q heartbeat.zip bootstrap && rm bootstrap

.PHONY: test
test: ## every test: unit, property, fuzz seeds, synctest, end to end
	$(GO) test -timeout 20m ./...

.PHONY: race
race: ## every test under the race detector
	$(GO) test -race -timeout 40m ./...

.PHONY: fuzz
fuzz: ## fuzz every target for FUZZTIME each (default 20s)
	@sh infra/fuzz.sh $${FUZZTIME:-20s}

.PHONY: lint
lint: ## formatting, vet, staticcheck
	@test -z "$$(gofmt -l .)" || { echo "gofmt these:"; gofmt -l .; exit 1; }
	$(GO) vet ./...
	$(GO) run honnef.co/go/tools/cmd/staticcheck@v0.8.2 ./...

.PHONY: bench
bench: ## the figures of BENCHMARKS.md (ARGS="-list", "-quick", or a name)
	@$(GO) run ./infra/bench $(ARGS)

.PHONY: golden
golden: ## rewrite golden files, scripts, pictures of states and the record of dependencies
	$(GO) test . ./coordinator/web ./coordinator/cli -update
	$(GO) test ./agent/update ./coordinator/rollout -rewrite

.PHONY: package
package: build ## deb and rpm of the agent and the coordinator, into out/
	@sh infra/packages/build.sh $(VERSION)

.PHONY: infra-test
infra-test: ## format, validate and test the Terraform modules against mocks
	@sh infra/terraform/test.sh

.PHONY: clean
clean: ## remove what was built
	rm -rf bin out
