#!/bin/sh
# Fails when a generated file or a go.mod is not what its sources give. Changes nothing.
set -eu
cd "$(dirname "$0")/.."
before=$(mktemp -d)
trap 'rm -rf "$before"' EXIT

generated="api config/crd/bases config/rbac charts/nodebootstrap/files docs/api.md"
# shellcheck disable=SC2086 # several files
tar cf "$before/generated.tar" $generated
make -s generate manifests
mkdir "$before/have"
tar xf "$before/generated.tar" -C "$before/have"
stale=
for path in $generated; do
	diff -ru "$before/have/$path" "$path" || stale=yes
done
tar xf "$before/generated.tar"
if [ -n "$stale" ]; then
	echo "Generated files are stale: run make generate manifests" >&2
	exit 1
fi

for module in . hack/tools hack/tools/kubernetes hack/tools/prometheus hack/tools/actionlint hack/tools/krew; do
	(cd "$module" && go mod tidy -diff) || {
		echo "$module/go.mod is not tidy: run go mod tidy there" >&2
		exit 1
	}
done

for overlay in default samples overlays/hardened overlays/kubeadm overlays/monitored; do
	go tool -modfile=hack/tools/go.mod kustomize build "config/$overlay" >/dev/null
done
