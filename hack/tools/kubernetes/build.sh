#!/bin/sh
# Builds the Kubernetes programs that tests and the demo run, from the versions pinned in go.mod beside this file.
# Usage: build.sh OUTPUT_DIRECTORY
set -eu
out=$(mkdir -p "$1" && cd "$1" && pwd)
cd "$(dirname "$0")"
export CGO_ENABLED=0

version=$(go list -m -f '{{.Version}}' k8s.io/kubernetes)
minor=${version#v1.}
minor=${minor%%.*}
pkg=k8s.io/component-base/version
ldflags="-s -w -X $pkg.gitVersion=$version -X $pkg.gitMajor=1 -X $pkg.gitMinor=$minor"

# build NAME PACKAGE: nothing is done for a program that was built from the same pins, by the same compiler.
build() {
	name=$1 package=$2
	stamp="$(cat go.mod go.sum build.sh fakeruntime/*.go | cksum) $(go env GOVERSION GOOS GOARCH | tr '\n' ' ')"
	if [ -x "$out/$name" ] && [ "$(cat "$out/.$name.stamp" 2>/dev/null)" = "$stamp" ]; then
		return
	fi
	echo "Building $name (all six take about 8 minutes the first time) ..."
	start=$(date +%s)
	rm -f "$out/.$name.stamp"
	{ go build -v -ldflags "$ldflags" -o "$out/$name" "$package" 2>&1 || touch "$out/.$name.failed"; } |
		tee "$out/.$name.log" | awk 'NR % 100 == 0 { print "    " NR " packages"; fflush() }'
	if [ -e "$out/.$name.failed" ]; then
		rm -f "$out/.$name.failed"
		echo "Building $name failed; the last lines of $out/.$name.log:" >&2
		tail -n 20 "$out/.$name.log" >&2
		exit 1
	fi
	rm -f "$out/.$name.log"
	echo "$stamp" >"$out/.$name.stamp"
	echo "    done in $(($(date +%s) - start)) s"
}

build etcd go.etcd.io/etcd/server/v3
build kube-apiserver k8s.io/kubernetes/cmd/kube-apiserver
build kube-controller-manager k8s.io/kubernetes/cmd/kube-controller-manager
build kubelet k8s.io/kubernetes/cmd/kubelet
build kubectl k8s.io/kubernetes/cmd/kubectl
build fakeruntime ./fakeruntime
