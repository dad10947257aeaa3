# Targets of the project; make lists them. All tools are built from pinned modules: only Go is needed. Kubernetes and etcd are
# downloaded in their pinned versions, or built as well.

VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo devel)
IMG     ?= ghcr.io/nodebootstrap/nodebootstrap:$(VERSION)

# Static binaries, with one build cache.
export CGO_ENABLED ?= 0

GOBUILD = go build -trimpath -ldflags "-s -w -X github.com/nodebootstrap/nodebootstrap/internal/version.version=$(VERSION)"
TOOL    = go tool -modfile=hack/tools/go.mod

.DEFAULT_GOAL := help
.PHONY: help
help: ## Show this list.
	@awk -F ':.*## ' '/^##@/ { print "\n" substr($$0, 5) } /^[a-z-]+:.*## / { printf "  %-16s %s\n", $$1, $$2 }' Makefile

##@ Try it

.PHONY: demo
demo: demo-ready ## A machine joins a real cluster on this machine from four lines of YAML; then everything is stopped.
	bin/demo

.PHONY: up
up: demo-ready ## The same, but the cluster runs until Ctrl-C; prints the KUBECONFIG to use.
	bin/demo --stay

# Kubernetes is downloaded while the operator is compiled.
.PHONY: demo-ready demo-programs
demo-ready:
	@$(MAKE) -s --no-print-directory -j2 controlplane demo-programs
demo-programs:
	@$(MAKE) -s --no-print-directory build
	@$(MAKE) -s --no-print-directory bin/demo

##@ Build

.PHONY: build
build: bin/manager bin/kubectl-nodebootstrap ## Build bin/manager and bin/kubectl-nodebootstrap.

.PHONY: bin/manager bin/kubectl-nodebootstrap bin/demo bin/runtests # Go decides what to rebuild
bin/manager:
	$(GOBUILD) -o $@ ./cmd/manager
bin/kubectl-nodebootstrap:
	$(GOBUILD) -o $@ ./cmd/kubectl-nodebootstrap
bin/demo:
	go build -trimpath -o $@ ./hack/demo
bin/runtests:
	@go build -trimpath -o $@ ./hack/runtests

.PHONY: controlplane
controlplane: ## Fill bin/k8s with Kubernetes and etcd: official builds, or built from source where they cannot be reached, or with SOURCE=1; with K8S_VERSION=1.36 also bin/k8s-1.36.
	@SOURCE=$(SOURCE) go run -trimpath ./hack/controlplane bin/k8s
ifdef K8S_VERSION
	@SOURCE=$(SOURCE) go run -trimpath ./hack/controlplane bin/k8s-$(K8S_VERSION) $(K8S_VERSION)
endif

.PHONY: image
image: ## Build the container image $(IMG) for this platform. For several: docker buildx build --platform linux/amd64,linux/arm64 .
	docker build --build-arg VERSION=$(VERSION) -t $(IMG) .

.PHONY: build-installer
CONFIG ?= default
build-installer: ## Render dist/install.yaml with the image $(IMG) from config/$(CONFIG): default, overlays/hardened, overlays/kubeadm or overlays/monitored.
	@mkdir -p dist
	$(TOOL) kustomize build config/$(CONFIG) | sed 's#image: ghcr.io/nodebootstrap/nodebootstrap:latest#image: $(IMG)#' > dist/install.yaml

.PHONY: release-assets
release-assets: build-installer ## Build dist/release: everything in a release $(VERSION), like v0.1.0, except the image $(IMG).
	rm -rf dist/release && mkdir dist/release
	cp dist/install.yaml dist/release/install.yaml
	for overlay in hardened kubeadm; do \
		$(MAKE) -s build-installer CONFIG=overlays/$$overlay && mv dist/install.yaml dist/release/install-$$overlay.yaml || exit 1; \
	done
	$(TOOL) helm package charts/nodebootstrap --version $(VERSION:v%=%) --app-version $(VERSION) --destination dist/release
	for platform in linux_amd64 linux_arm64 darwin_amd64 darwin_arm64 windows_amd64 windows_arm64; do \
		case $$platform in windows_*) plugin=kubectl-nodebootstrap.exe ;; *) plugin=kubectl-nodebootstrap ;; esac; \
		GOOS=$${platform%_*} GOARCH=$${platform#*_} $(GOBUILD) -o dist/$$plugin ./cmd/kubectl-nodebootstrap && \
		tar czf dist/release/kubectl-nodebootstrap_$$platform.tar.gz -C dist $$plugin -C .. LICENSE || exit 1; \
	done
	rm dist/kubectl-nodebootstrap dist/kubectl-nodebootstrap.exe
	hack/tools/krew/manifest.sh $(VERSION) dist/release
	hack/tools/krew/check.sh dist/release

##@ Check

# client-go stops a program that changes objects in its caches, which hand out no copies.
UNCHANGED_CACHES = KUBE_CACHE_MUTATION_DETECTOR=true

.PHONY: test-packages
test-packages: ## Install what the tests of machines need from Debian's packages: an SSH server, sudo, cloud-init, Ignition and others.
	@hack/tools/test-packages.sh

.PHONY: test-fast
test-fast: bin/runtests ## Run the tests that need no cluster: no root, no Kubernetes. What has not changed since the last time is not repeated.
	@$(UNCHANGED_CACHES) bin/runtests -without-cluster ./... -- -short -timeout 10m

.PHONY: test
test: controlplane bin/manager bin/kubectl-nodebootstrap bin/runtests ## Run all tests, with a real control plane and real kubelets, which need Linux, root and make test-packages.
	@$(MAKE) -s fuzz FUZZTIME=5000x
	@$(UNCHANGED_CACHES) bin/runtests ./... -- -count=1 -p 1 -timeout 30m

.PHONY: e2e
E2E_PACKAGES = $(if $(POLICIES),./test/e2e,./hack/localcluster ./controllers ./test/check ./test/e2e ./test/install ./test/join)
e2e: controlplane bin/manager bin/kubectl-nodebootstrap bin/runtests ## Run the end-to-end tests; with K8S_VERSION=1.36 on that Kubernetes, with POLICIES=hardened under all policies.
	@$(UNCHANGED_CACHES) KUBEBUILDER_ASSETS=$(if $(K8S_VERSION),$(CURDIR)/bin/k8s-$(K8S_VERSION)) NODEBOOTSTRAP_POLICIES=$(POLICIES) \
		bin/runtests $(E2E_PACKAGES) -- -count=1 -p 1 -timeout 30m

.PHONY: fuzz
# Executions, not seconds: before Go 1.27, "go test" may fail with "context deadline exceeded" as its time ends (https://go.dev/issue/75804).
FUZZTIME ?= 100000x
fuzz: ## Fuzz the verdict on CSRs against an oracle, each target FUZZTIME times (100000x).
	@for target in $$(go test -list '^Fuzz' ./internal/csr | grep '^Fuzz'); do \
		go test -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZTIME) ./internal/csr || exit 1; \
	done

.PHONY: faults
CHAOSSEED ?= 0
FAULTPAIRS ?= 20000
faults: controlplane bin/manager ## Run 200 SIGKILLs while nodes join a real control plane; then every fault, FAULTPAIRS pairs of faults (20,000; all with -1, which takes half a day), every intervention and a thousand random histories in memory.
	go test -count=1 -timeout 45m ./test/chaos -v -chaos.seed=$(CHAOSSEED) -chaos.kills=200 -chaos.restarts=8 -chaos.nodes=8 -chaos.duration=25m -chaos.quiet=15s
	go test -count=1 -timeout 24h ./test/faults -v -faults.all -faults.pairs=$(FAULTPAIRS) -faults.interventions=-1 -rapid.checks=1000 -rapid.seed=0

# Builds the manager of another revision.
build-base = @dir=$$(mktemp -d) && git archive $(1) | tar -x -C $$dir && (cd $$dir && go build -o $(CURDIR)/bin/manager-base ./cmd/manager); ended=$$?; rm -rf $$dir; exit $$ended

.PHONY: upgrade
upgrade: controlplane build ## Restart the manager at each step of a join, with the build of the revision BASE and this one in turn.
	@test -n "$(BASE)" || { echo "usage: make upgrade BASE=<git revision>" >&2; exit 1; }
	$(call build-base,$(BASE))
	for builds in $(CURDIR)/bin/manager-base:$(CURDIR)/bin/manager $(CURDIR)/bin/manager:$(CURDIR)/bin/manager-base; do \
		NODEBOOTSTRAP_MANAGERS=$$builds go test -count=1 ./test/e2e -v -run 'TestManagerKilledAtEachStep|TestTwoManagers' || exit 1; \
	done

.PHONY: bench
bench: controlplane bin/manager ## Measure the operator on a real control plane, and the revision BASE in alternation if set; prints a table and writes bench.json.
	$(if $(BASE),$(call build-base,$(BASE)))
	go run ./test/bench $(if $(BASE),-base $(CURDIR)/bin/manager-base) $(BENCHFLAGS)

.PHONY: microbench
microbench: ## Measure the pure parts, with their allocations.
	go test -run '^$$' -bench . ./internal/...

.PHONY: verify
verify: controlplane ## Check generated files, chart, alerts, dashboard, shell scripts and the plugin's page, which needs root and make test-packages; run the linter with the import rules.
	hack/verify-generated.sh
	shellcheck .ci/run hack/*.sh hack/tools/*.sh hack/tools/krew/*.sh hack/localcluster/machine/*
	$(TOOL) helm lint --strict --quiet charts/nodebootstrap
	go test -count=1 ./test/rendered ./test/monitoring
	go test -count=1 ./test/docs -run 'Transcripts$$|TestEachCommandHasItsSection'
	go tool -modfile=hack/tools/actionlint/go.mod actionlint
	$(TOOL) golangci-lint run ./...
	for os in darwin windows; do GOOS=$$os go vet ./cmd/kubectl-nodebootstrap || exit 1; done

.PHONY: vulnerabilities
vulnerabilities: ## List known vulnerabilities of the dependencies, from the Go project's database.
	$(TOOL) govulncheck ./cmd/...

##@ Generate

.PHONY: generate
generate: ## Generate the deepcopy functions.
	$(TOOL) controller-gen object:headerFile=hack/boilerplate.go.txt paths=./api/...

.PHONY: manifests
manifests: ## Generate the CRD and the RBAC in config/, the chart's copies, and docs/api.md.
	$(TOOL) controller-gen crd paths=./api/... output:crd:dir=config/crd/bases
	$(TOOL) controller-gen rbac:roleName=nodebootstrap-manager paths=./controllers/... output:rbac:dir=config/rbac
	cp config/crd/bases/nodebootstrap.io_nodebootstraps.yaml charts/nodebootstrap/files/crd.yaml
	{ cat config/rbac/role.yaml; for f in role_bindings service_account metrics_reader; do echo ---; cat config/rbac/$$f.yaml; done; } > charts/nodebootstrap/files/rbac.yaml
	cp $(addprefix config/components/,cage/cage.yaml guard/guard.yaml kubeadm/kubeadm.yaml limits/limits.yaml prometheus/rules.yaml dashboard/nodebootstrap.json) charts/nodebootstrap/files
	$(TOOL) crd-ref-docs --source-path=api --config=hack/api-reference.yaml --renderer=markdown --output-path=docs/api.md --log-level=ERROR
	sed -i 's#items:XValidation: .*FieldValueForbidden  <nil>.} <br />##' docs/api.md # as it leaves out all other XValidations
	sed -i -e '1s/.*/## All types/' -e '1e cat hack/api-introduction.md' docs/api.md

.PHONY: transcripts
transcripts: controlplane ## Rewrite the outputs in docs/plugin.md with what the commands print now, on a real control plane.
	go test -count=1 ./test/docs -run 'Transcripts$$' -update

.PHONY: clean
clean: ## Remove bin and dist.
	rm -rf bin dist
