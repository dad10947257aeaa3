# undo runs when the script ends. Unless the machine has joined, it removes what the script wrote.
undo() {
	nb_code=$?
	trap - EXIT
	trap '' HUP INT TERM
	if [ -n "$nb_started" ]; then
		systemctl stop "$nb_unit" >/dev/null 2>&1
		if [ -n "$(certificate)" ]; then # it got its certificate at the last moment
			systemctl start "$nb_unit" >/dev/null 2>&1
			nb_written='' nb_old_bootstrap='' nb_started='' nb_code=0
			if [ "$nb_method" = kubeadm ]; then nb_code=$EXIT_HALF_JOINED; fi
			finish
		fi
	fi
	if [ "$nb_code" != 0 ]; then remove_written; fi
	rm -rf "$nb_work"
	exit "$nb_code"
}

remove_written() {
	if [ -n "$nb_written" ]; then say "[undo] removing what was written:$nb_written"; fi
	for nb_file in $nb_written; do rm -f "$nb_file"; done
	if [ -n "$nb_old_bootstrap" ]; then printf '%s\n' "$nb_old_bootstrap" | put "$nb_bootstrap" 077; fi
	if [ -n "$nb_written" ]; then rm -f "$nb_undo"; fi # else it can be that of an earlier run
	for nb_dir in $nb_made; do rmdir "$nb_dir" 2>/dev/null; done
	if [ -n "$nb_started" ]; then
		if [ -z "$nb_was_enabled" ]; then systemctl disable "$nb_unit" >/dev/null 2>&1; fi
		if [ -n "$nb_was_active" ]; then systemctl start "$nb_unit" >/dev/null 2>&1; fi
	fi
}

# recover does what the undo of an earlier run could not do because the machine went down, or the run was killed.
recover() {
	[ -e "$nb_undo" ] || return
	nb_written=$(cat "$nb_undo")
	remove_written
	nb_written=
}

# note_written notes in a file what is about to be written.
note_written() {
	make_dir "$(dirname "$nb_undo")"
	printf '%s\n' "$nb_written" | put "$nb_undo" 077 || fail "$EXIT_FILES" "$nb_undo cannot be written (see above). Is the disk full, or the file system read-only?"
}

# make_dir creates a directory and its parents, and notes which are new.
make_dir() {
	[ -d "$1" ] && return
	make_dir "$(dirname "$1")"
	mkdir "$1" || fail "$EXIT_FILES" "the directory $1 cannot be created (see above). Is the disk full, or the file system read-only?"
	nb_made="$1 $nb_made"
}

# put PATH UMASK writes standard input to a file atomically.
put() {
	if [ -d "$1" ]; then
		say "$1 is a directory"
		return 1
	fi
	(umask "$2" && cat >"$1.new") && sync_file "$1.new" && mv -f "$1.new" "$1" && return
	rm -f "$1.new"
	return 1
}

sync_file() { sync "$1" 2>/dev/null || sync; }

# write PATH UMASK CONTENT writes a file that undo removes.
write() {
	make_dir "$(dirname "$1")"
	if ! [ -e "$1" ]; then
		nb_written="$nb_written $1"
		note_written
	fi
	printf '%s' "$3" | put "$1" "$2" || fail "$EXIT_FILES" "$1 cannot be written (see above). Is the disk full, or the file system read-only?"
	say "[write] $1"
}

# request creates the key, unless an earlier run did, and exchanges a CSR for the signed kubeconfig. The key stays if this fails, since it
# can be pinned by then.
request() {
	if [ -s "$nb_key" ] && ! [ -d "$nb_key" ]; then
		openssl pkey -in "$nb_key" -passin pass: -noout || fail "$EXIT_FILES" "$nb_key is not a private key that openssl can read without a \
passphrase (see above). Move it away."
		say "[write] using the key $nb_key of an earlier run"
	else
		make_dir "$(dirname "$nb_key")"
		nb_pem=$(openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256) || fail "$EXIT_PROGRAM_MISSING" "openssl creates no key (see above)."
		[ -e "$nb_key" ] || nb_written=" $nb_key"
		printf '%s\n' "$nb_pem" | put "$nb_key" 077 ||
			fail "$EXIT_FILES" "the key $nb_key cannot be written (see above). Is the disk full, or the file system read-only?"
		say "[write] $nb_key, the node's key, which stays on this machine"
	fi
	# By default openssl encodes the name as a UTF8String, which no kubelet does.
	nb_csr=$(printf '[req]\nstring_mask=default\ndistinguished_name=req\n' |
		openssl req -new -config /dev/stdin -key "$nb_key" -subj "/O=system:nodes/CN=system:node:$nb_node") ||
		fail "$EXIT_FILES" "openssl creates no request for the key $nb_key (see above). If it is not a usable key, delete it."
	nb_written='' nb_made=''
	printf 'NODEBOOTSTRAP-REQUEST %s\n%s\nNODEBOOTSTRAP-END\n' "$nb_method" "$nb_csr" || :
	nb_signed=
	while IFS= read -r nb_line <&3; do
		if [ "$nb_line" = NODEBOOTSTRAP-END ]; then
			exec 3<&-
			# The certificate is issued: from here on the script goes on to the end, connected or not.
			trap '' HUP INT TERM
			return
		fi
		nb_signed="$nb_signed$nb_line
"
	done
	fail "$EXIT_NO_ANSWER" "no signed kubeconfig arrived before the connection ended. Nothing was changed, except that the key $nb_key is there: the next run uses it."
}

# start_kubelet starts it with the bootstrap kubeconfig $1.
start_kubelet() {
	if [ -e "$nb_bootstrap" ]; then nb_old_bootstrap=$(cat "$nb_bootstrap"); fi
	[ -e "$nb_kubeconfig" ] || nb_written=" $nb_kubeconfig"
	write "$nb_bootstrap" 077 "$1"
	if [ -e "$nb_ca" ]; then
		cmp -s "$nb_ca" "$nb_work/ca.crt" || say "[write] keeping $nb_ca, which is another CA than that of the API server"
	else
		write "$nb_ca" 022 "$nb_ca_certificates"
	fi
	if [ -n "$nb_config" ] && ! [ -e "$nb_config" ]; then write "$nb_config" 022 "$nb_kubelet_configuration"; fi
	note_state
	say "[start] systemctl enable and restart $nb_unit"
	systemctl enable "$nb_unit" >/dev/null 2>&1
	systemctl restart "$nb_unit" ||
		fail "$EXIT_NOT_JOINED" "systemctl restart $nb_unit failed (see above)."
	nb_since=$(date +%s)
	until [ -n "$(certificate)" ]; do
		[ $(($(date +%s) - nb_since)) -lt "$nb_limit" ] || give_up "the kubelet got no certificate within $nb_limit s."
		sleep 0.2 2>/dev/null || sleep 1
	done
}

give_up() {
	say "[start] the last lines of the kubelet's log:"
	journalctl -u "$nb_unit" -n 10 --no-pager -o cat 2>&1 | sed 's/^/    /' >&2
	fail "$EXIT_NOT_JOINED" "$* What the cluster says: kubectl nodebootstrap status $nb_node"
}

# run_kubeadm joins with the discovery file $1. The output goes to a file, since kubeadm would end if the connection is cut while it writes.
run_kubeadm() {
	printf '%s' "$nb_join_configuration" | sed "s#DISCOVERY_FILE#$nb_work/discovery.conf#" >"$nb_work/join.yaml"
	rm -f "$nb_kubeconfig" # it names no certificate: see check_member
	nb_written=" $nb_work/discovery.conf"
	for nb_file in "$nb_bootstrap" "$nb_kubeconfig" "$nb_ca" "$nb_config" /var/lib/kubelet/kubeadm-flags.env /var/lib/kubelet/instance-config.yaml; do
		[ -e "$nb_file" ] || nb_written="$nb_written $nb_file"
	done
	note_written
	printf '%s' "$1" | put "$nb_work/discovery.conf" 077 || fail "$EXIT_FILES" "$nb_work cannot be written (see above). Is the disk full?"
	note_state
	say "[start] kubeadm join"
	nb_kubeadm=0
	kubeadm join --config "$nb_work/join.yaml" >"$nb_work/kubeadm.log" 2>&1 || nb_kubeadm=$?
	sed 's/^/    /' "$nb_work/kubeadm.log" >&2
	if [ "$nb_kubeadm" != 0 ] && [ -n "$(certificate)" ]; then
		nb_written='' nb_started=''
		fail "$EXIT_HALF_JOINED" "kubeadm join failed (see above) after the kubelet had got its certificate. This machine is the node $nb_node now. \
Correct what kubeadm reports, or remove the machine from the cluster (kubeadm reset) and request a reissue."
	fi
	[ "$nb_kubeadm" = 0 ] || give_up "kubeadm join failed (see above)."
}

# note_state notes in which state undo leaves the kubelet.
note_state() {
	if systemctl is-active --quiet "$nb_unit"; then nb_was_active=true; fi
	if systemctl is-enabled --quiet "$nb_unit" 2>/dev/null; then nb_was_enabled=true; fi
	nb_started=true
}

# finish deletes what only the join needed.
finish() {
	rm -f "$nb_bootstrap" "$nb_undo"
	if [ -z "$nb_token_kubeconfig" ]; then rm -f "$nb_key"; fi
	say "[done] the kubelet has its certificate as $nb_node"
}

main() {
	exec 3<&0 </dev/null
	LC_ALL=C
	PATH=$PATH:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/opt/bin
	export LC_ALL PATH
	umask 022
	nb_written='' nb_made='' nb_started='' nb_was_active='' nb_was_enabled='' nb_old_bootstrap='' nb_work=''
	trap '' PIPE
	trap undo EXIT
	trap 'exit 129' HUP
	trap 'exit 130' INT
	trap 'exit 143' TERM
	check_root
	# /run is in memory. TMPDIR is seldom set for root.
	nb_work=$(mktemp -d "${TMPDIR:-/run}/nodebootstrap.XXXXXX") || fail "$EXIT_FILES" "no temporary directory can be created (see above)."
	printf '%s' "$nb_ca_certificates" >"$nb_work/ca.crt" || fail "$EXIT_FILES" "$nb_work cannot be written (see above). Is the disk full?"
	check_programs
	find_paths
	check_member
	check_name
	check_runtime
	check_clock
	check_server
	check_config
	if [ -n "$nb_check_only" ]; then
		say "[done] all checks passed. Nothing was changed."
		exit 0
	fi
	recover
	nb_signed=$nb_token_kubeconfig
	if [ -z "$nb_token_kubeconfig" ]; then request; fi
	if [ "$nb_method" = kubeadm ]; then run_kubeadm "$nb_signed"; else start_kubelet "$nb_signed"; fi
	nb_started=
	finish
	exit 0
}
