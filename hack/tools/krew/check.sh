#!/bin/sh
# Validates krew's manifest of a release as krew's index does, and installs the archive of each platform with krew.
# Usage: check.sh DIRECTORY
set -eu
release=$(cd "$1" && pwd)
cd "$(dirname "$0")"
store=$(mktemp -d)
trap 'rm -rf "$store"' EXIT
export KREW_NO_UPGRADE_CHECK=1 # it would ask GitHub

fail() {
	echo "krew's manifest: $*" >&2
	exit 1
}

# quietly COMMAND: its output is shown if it fails.
quietly() {
	"$@" </dev/null >"$store/log" 2>&1 || {
		cat "$store/log" >&2
		return 1
	}
}

validate=$(go tool -n validate-krew-manifest) # builds it, and prints its path
krew=$(go tool -n krew)
quietly "$validate" -skip-install -manifest "$release/nodebootstrap.yaml" || fail "it is not valid"
for archive in "$release"/kubectl-nodebootstrap_*.tar.gz; do
	platform=${archive##*/kubectl-nodebootstrap_}
	platform=${platform%.tar.gz}
	export KREW_OS="${platform%_*}" KREW_ARCH="${platform#*_}" KREW_ROOT="$store/$platform"
	quietly "$krew" install --manifest "$release/nodebootstrap.yaml" --archive "$archive" || fail "$archive cannot be installed"
	tar tzf "$archive" LICENSE >/dev/null 2>&1 || fail "$archive has no LICENSE"
done
