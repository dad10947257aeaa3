#!/bin/sh
# Writes nodebootstrap.yaml, krew's manifest of the kubectl plugin, beside the archives of a release.
# Usage: manifest.sh VERSION DIRECTORY
set -eu
version=v${1#v} # krew demands the v
cd "$2"

{
	cat <<EOF
apiVersion: krew.googlecontainertools.github.com/v1alpha2
kind: Plugin
metadata:
  name: nodebootstrap
spec:
  version: $version
  homepage: https://github.com/nodebootstrap/nodebootstrap
  shortDescription: Let a machine join as one node, and as no other
  description: |
    Lets a machine join over ssh or with user data, shows what a node is waiting for,
    and explains why a certificate signing request was approved, denied or ignored.

    The cluster needs the operator NodeBootstrap, which issues each machine a
    single-use bootstrap kubeconfig that is valid for one node name.
  platforms:
EOF
	for archive in kubectl-nodebootstrap_*.tar.gz; do
		platform=${archive#kubectl-nodebootstrap_}
		platform=${platform%.tar.gz}
		bin=kubectl-nodebootstrap
		case $platform in windows_*) bin=$bin.exe ;; esac
		cat <<EOF
  - selector:
      matchLabels:
        os: ${platform%_*}
        arch: ${platform#*_}
    uri: https://github.com/nodebootstrap/nodebootstrap/releases/download/$version/$archive
    sha256: $(sha256sum "$archive" | cut -d ' ' -f 1)
    bin: $bin
EOF
	done
} >nodebootstrap.yaml
