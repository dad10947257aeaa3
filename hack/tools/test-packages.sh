#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Installs what tests of machines need from Debian's packages: an SSH server and sudo for test machines, and the programs that read or
# decrypt user data, and that run and check scripts. None of their services starts, now or at the next boot.
set -eu

missing=
for package in openssh-client openssh-server sudo cloud-init ignition systemd age busybox shellcheck; do
	[ "$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null)" = installed ] || missing="$missing $package"
done
[ -n "$missing" ] || exit 0
if ! command -v apt-get >/dev/null; then
	echo "the tests need Debian, or the programs of its packages:$missing" >&2
	exit 1
fi

# listens reports whether a program listens on port 22 (0016 in hexadecimal, 0A is LISTEN).
listens() { cat /proc/net/tcp /proc/net/tcp6 2>/dev/null | awk '$2 ~ /:0016$/ && $4 == "0A" { found = 1 } END { exit !found }'; }
before=no
listens && before=yes

echo "Installing$missing ..."
policy=/usr/sbin/policy-rc.d
kept=
restore() {
	rm -f $policy
	[ -z "$kept" ] || mv "$kept" $policy
}
if [ -e $policy ]; then
	kept=$policy.nodebootstrap
	mv $policy $kept
fi
trap restore EXIT
trap 'exit 1' INT TERM HUP
printf '#!/bin/sh\nexit 101\n' >$policy # no service may start
chmod +x $policy
case $missing in *cloud-init*)
	mkdir -p /etc/cloud
	touch /etc/cloud/cloud-init.disabled # at the next boot
	;;
esac

export DEBIAN_FRONTEND=noninteractive
apt-get update -q
# shellcheck disable=SC2086 # several packages
apt-get install -q -y --no-install-recommends $missing
case $missing in *openssh-server*)
	if [ -d /run/systemd/system ]; then systemctl disable ssh.service ssh.socket; fi
	;;
esac

if [ $before = no ] && listens; then
	echo "an SSH server was started on port 22: it must be stopped" >&2
	exit 1
fi
