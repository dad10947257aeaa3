#!/bin/sh
# Builds the Kubernetes programs that tests and the demo run, from the versions pinned in go.mod beside this file; or, with a
# minor version like 1.36, the programs that differ, from the go.mod in the directory of that name.
# Usage: build.sh OUTPUT_DIRECTORY [MINOR]
set -eu
out=$(mkdir -p "$1" && cd "$1" && pwd)
other=${2:-}
cd "$(dirname "$0")"
sources="build.sh fakeruntime/*.go"
if [ -n "$other" ]; then
	if [ ! -d "$other" ]; then
		echo "K8S_VERSION is one of" [0-9]*.[0-9]* "or none, not $other" >&2
		exit 2
	fi
	cd "$other"
	sources=../build.sh
fi
export CGO_ENABLED=0

version=$(go list -m -f '{{.Version}}' k8s.io/kubernetes)
minor=${version#v1.}
minor=${minor%%.*}
pkg=k8s.io/component-base/version
ldflags="-s -w -X $pkg.gitVersion=$version -X $pkg.gitMajor=1 -X $pkg.gitMinor=$minor"

# build NAME PACKAGE: nothing is done for a program that was built from the same pins, by the same compiler.
build() {
	name=$1 package=$2
	# shellcheck disable=SC2086 # several files
	stamp="$(cat go.mod go.sum $sources | cksum) $(go env GOVERSION GOOS GOARCH | tr '\n' ' ')"
	if [ -x "$out/$name" ] && [ "$(cat "$out/.$name.stamp" 2>/dev/null)" = "$stamp" ]; then
		return
	fi
	echo "Building $name of Kubernetes $version (all take about 8 minutes the first time) ..."
	start=$(date +%s)
	rm -f "$out/.$name.stamp"
	{ go build -v -ldflags "$ldflags" -o "$out/.$name.new" "$package" 2>&1 || touch "$out/.$name.failed"; } |
		tee "$out/.$name.log" | awk 'NR % 100 == 0 { print "    " NR " packages"; fflush() }'
	if [ -e "$out/.$name.failed" ]; then
		rm -f "$out/.$name.failed"
		echo "Building $name failed; the last lines of $out/.$name.log:" >&2
		tail -n 20 "$out/.$name.log" >&2
		exit 1
	fi
	rm -f "$out/.$name.log"
	mv "$out/.$name.new" "$out/$name" # at once: a test may start the program right now
	echo "$stamp" >"$out/.$name.stamp"
	echo "    done in $(($(date +%s) - start)) s"
}

for name in kube-apiserver kube-controller-manager kubelet kubectl kubeadm; do
	build "$name" "k8s.io/kubernetes/cmd/$name"
done
if [ -z "$other" ]; then
	build etcd go.etcd.io/etcd/server/v3
	build fakeruntime ./fakeruntime
fi
