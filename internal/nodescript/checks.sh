# say prints a line for people. Nobody may be reading any more.
say() { printf '%s\n' "$*" >&2 || :; }

# fail CODE MESSAGE ends the script; undo runs first.
fail() {
	nb_code=$1
	shift
	say "error: $*"
	exit "$nb_code"
}

has() { command -v "$1" >/dev/null 2>&1; }

lower() { printf '%s' "$1" | tr '[:upper:]' '[:lower:]'; }

# read_unit reads the kubelet's unit, its drop-ins and their environment files.
read_unit() {
	nb_unit_text=$(systemctl cat "$nb_unit" 2>/dev/null) ||
		fail "$EXIT_PROGRAM_MISSING" "systemd has no unit $nb_unit that runs the kubelet. Install the kubelet, or name its unit with --unit."
	nb_files=$(printf '%s\n' "$nb_unit_text" | sed -n 's/^EnvironmentFile=-\{0,1\}//p')
	for nb_file in $nb_files; do
		# kubeadm replaces this file.
		if [ "$nb_method" != kubeadm ] || [ "$nb_file" != /var/lib/kubelet/kubeadm-flags.env ]; then
			nb_unit_text="$nb_unit_text
$(cat "$nb_file" 2>/dev/null)"
		fi
	done
}

# kubelet_flags NAME prints each value of a flag of the kubelet in the unit.
kubelet_flags() {
	printf '%s\n' "$nb_unit_text" |
		sed -n -e '/^[[:space:]]*[#;]/d' -e 's/.*--'"$1"'[= ]["'\'']\{0,1\}\([^"'\'' \\]*\).*/\1/p'
}

# path NAME DEFAULT prints the path that a flag of the kubelet has in the unit, else the default.
path() {
	nb_path=$(kubelet_flags "$1" | tail -n 1)
	case $nb_path in
	/*[\$%]* | [!/]* | "") echo "$2" ;;
	*) echo "$nb_path" ;;
	esac
}

# find_paths takes the paths that the unit and the kubelet configuration have.
find_paths() {
	# A kubelet that has its settings as flags reads no configuration.
	if [ -n "$(kubelet_flags kubeconfig)" ] && [ -z "$(kubelet_flags config)" ] && [ "$nb_method" = kubelet ]; then nb_config=''; fi
	nb_bootstrap=$(path bootstrap-kubeconfig "$nb_bootstrap")
	nb_kubeconfig=$(path kubeconfig "$nb_kubeconfig")
	nb_config=$(path config "$nb_config")
	nb_undo=$nb_bootstrap.undo
	if [ "$nb_method" = kubelet ]; then
		nb_file=$(configured clientCAFile)
		nb_ca=$(path client-ca-file "${nb_file:-$nb_ca}")
	fi
}

# configured KEY prints a string in the machine's kubelet configuration.
configured() {
	sed -n 's/^ *"\{0,1\}'"$1"'"\{0,1\}: *"\{0,1\}\([^",]*\).*/\1/p' "$nb_config" 2>/dev/null | head -n 1
}

# kubelet_program prints the program that the unit starts.
kubelet_program() {
	printf '%s\n' "$nb_unit_text" | sed -n 's/^ExecStart=[-@:+!]*\([^ ]\{1,\}\).*/\1/p' | tail -n 1
}

check_root() {
	[ "$(id -u)" = 0 ] || fail "$EXIT_NOT_ROOT" "this runs as the user $(id -un), and it needs root. Use sudo."
}

check_programs() {
	if [ -z "$nb_method" ]; then
		nb_method=kubelet
		if has kubeadm; then nb_method=kubeadm; fi
	fi
	nb_programs=systemctl
	if [ "$nb_method" = kubeadm ]; then nb_programs="$nb_programs kubeadm"; fi
	if [ -z "$nb_token_kubeconfig" ]; then nb_programs="$nb_programs openssl"; fi
	for nb_program in $nb_programs; do
		has "$nb_program" || fail "$EXIT_PROGRAM_MISSING" "$nb_program is not installed, or not in $PATH. Install it."
	done
	read_unit
	nb_program=$(kubelet_program)
	has "${nb_program:-kubelet}" ||
		fail "$EXIT_PROGRAM_MISSING" "the kubelet is not installed: the unit $nb_unit starts ${nb_program:-kubelet}, which does not exist. Install it."
	say "[check] root, $nb_programs and the kubelet $nb_program are there"
}

# certificate_file prints where the client certificate of the kubelet's kubeconfig is; nothing if it is in the kubeconfig itself.
certificate_file() { sed -n 's/^ *client-certificate: *//p' "$nb_kubeconfig" 2>/dev/null | head -n 1; }

# certificate prints the client certificate of the kubelet's kubeconfig in PEM.
certificate() {
	nb_pem=$(certificate_file)
	if [ -n "$nb_pem" ]; then
		cat "$nb_pem"
	else
		sed -n 's/^ *client-certificate-data: *//p' "$nb_kubeconfig" | head -n 1 | base64 -d
	fi 2>/dev/null
}

# same_cluster reports whether the kubelet's kubeconfig is for this cluster. A cluster can have several URLs.
same_cluster() {
	[ -n "$nb_server" ] && [ "$nb_at" != "$nb_server" ] || return 0
	nb_authority=$(sed -n 's/^ *certificate-authority: *//p' "$nb_kubeconfig" | head -n 1)
	if [ -n "$nb_authority" ]; then
		cat "$nb_authority"
	else
		sed -n 's/^ *certificate-authority-data: *//p' "$nb_kubeconfig" | head -n 1 | base64 -d
	fi 2>/dev/null | cmp -s - "$nb_work/ca.crt"
}

# check_member ends the script if this machine is a node: with success if it is this one. The kubelet writes its kubeconfig before it has
# the certificate that is named there.
check_member() {
	if [ -z "$(certificate)" ]; then
		[ -z "$nb_only_member" ] || fail "$EXIT_NOT_MEMBER" "this machine is not a node: there is no $nb_kubeconfig with a certificate. \
Another machine has joined as $nb_node. If this one is to replace it: kubectl nodebootstrap reissue $nb_node"
		say "[check] this machine is not a node yet: there is no $nb_kubeconfig with a certificate"
		return
	fi
	nb_cleanup="Remove the machine from its cluster first (kubeadm reset, or delete $nb_kubeconfig and the kubelet's certificates), and run this again."
	has openssl || fail "$EXIT_OTHER_NODE" "this machine is a node already: $nb_kubeconfig exists. Which one cannot be checked without openssl. $nb_cleanup"
	nb_is=$(certificate | openssl x509 -noout -subject -nameopt RFC2253 2>/dev/null | sed 's/.*CN=system:node:\([^,]*\).*/\1/')
	nb_at=$(sed -n 's/^ *server: *//p' "$nb_kubeconfig" | head -n 1)
	[ "$nb_is" = "$nb_node" ] && same_cluster ||
		fail "$EXIT_OTHER_NODE" "this machine is the node ${nb_is:-of an unknown name} of the cluster at ${nb_at:-an unknown address} already ($nb_kubeconfig). $nb_cleanup"
	certificate | openssl x509 -noout -checkend 0 >/dev/null 2>&1 ||
		fail "$EXIT_OTHER_NODE" "this machine was the node $nb_node already, and its certificate has expired. $nb_cleanup"
	nb_pem=$(certificate_file)
	if [ -n "$nb_server" ] && [ -n "$nb_pem" ] && has curl; then
		nb_status=$(curl -s --max-time 10 --cacert "$nb_work/ca.crt" --cert "$nb_pem" --key "$nb_pem" -o /dev/null -w '%{http_code}' \
			"$nb_server/api/v1/nodes/$nb_node") || nb_status=
		[ "$nb_status" != 401 ] ||
			fail "$EXIT_OTHER_NODE" "this machine has a certificate of the node $nb_node that the API server at $nb_server does not accept. $nb_cleanup"
	fi
	if [ -e "$nb_undo" ] && [ -z "$nb_check_only" ]; then
		finish # an earlier run was killed
	else
		say "[done] this machine is the node $nb_node already. Nothing was changed."
	fi
	if [ -z "$nb_token_kubeconfig" ]; then echo NODEBOOTSTRAP-MEMBER; fi
	exit 0
}

# check_name keeps a kubelet from sending a CSR in another name: the operator would take that for theft.
check_name() {
	nb_found=$(kubelet_flags hostname-override)
	nb_host=$(lower "$(uname -n)")
	for nb_override in $nb_found; do
		if [ "$nb_override" = %H ]; then nb_override=$nb_host; fi # systemd.unit(5)
		[ "$(lower "$nb_override")" = "$nb_node" ] || fail "$EXIT_OTHER_NAME" "the kubelet would register as $nb_override, and not as $nb_node: \
the unit $nb_unit or one of its files has --hostname-override=$nb_override. Correct it, or use a NodeBootstrap of that name."
	done
	if [ -z "$nb_found" ] && [ "$nb_method" = kubelet ] && [ "$nb_host" != "$nb_node" ]; then
		fail "$EXIT_OTHER_NAME" "the kubelet would register as $nb_host, the host name of this machine, and not as $nb_node. \
Add --hostname-override=$nb_node to the arguments of the kubelet in the unit $nb_unit, or set the host name (hostnamectl set-hostname $nb_node)."
	fi
	say "[check] the kubelet will register as $nb_node"
}

# check_runtime finds the socket of the container runtime as kubelet and kubeadm do.
check_runtime() {
	if [ -z "$nb_runtime" ] && [ "$nb_method" = kubelet ]; then
		nb_runtime=$(kubelet_flags container-runtime-endpoint | tail -n 1)
		nb_runtime=${nb_runtime:-$(configured containerRuntimeEndpoint)}
		nb_runtime=${nb_runtime:-unix:///run/containerd/containerd.sock}
	elif [ -z "$nb_runtime" ]; then
		for nb_socket in /run/containerd/containerd.sock /run/crio/crio.sock /run/cri-dockerd.sock; do
			if [ -S "$nb_socket" ]; then
				nb_runtime=unix://$nb_socket
				break
			fi
		done
	fi
	nb_socket=${nb_runtime#unix://}
	nb_advice="Start the container runtime (systemctl start containerd), or name its socket with --runtime-socket."
	[ -S "$nb_socket" ] || fail "$EXIT_RUNTIME" "there is no container runtime at ${nb_socket:-a usual socket}. $nb_advice"
	if has curl; then
		nb_curl=0
		curl -s --max-time 5 --unix-socket "$nb_socket" -o /dev/null http://localhost/ || nb_curl=$?
		[ "$nb_curl" != 7 ] || fail "$EXIT_RUNTIME" "the container runtime does not answer at $nb_socket. $nb_advice"
	fi
	say "[check] the container runtime answers at $nb_socket"
}

check_clock() {
	nb_now=$(date +%s)
	[ "$nb_now" -ge $((nb_rendered - 300)) ] || fail "$EXIT_CLOCK" "the clock of this machine is $((nb_rendered - nb_now)) s behind: \
it says $(date -u). Set it (timedatectl set-ntp true): with a wrong clock, no certificate is valid."
	[ "$nb_expires" = 0 ] || [ "$nb_now" -le "$nb_expires" ] || fail "$EXIT_CLOCK" "by the clock of this machine ($(date -u)), the bootstrap \
token expired $((nb_now - nb_expires)) s ago. If the clock is right, the operator has published a new kubeconfig: use that."
	say "[check] the clock says $(date -u)"
}

# check_server connects to the API server. Any answer will do: only the connection and the certificate count.
check_server() {
	if has curl; then
		nb_curl=0
		nb_why=$(curl -sS --max-time 10 --cacert "$nb_work/ca.crt" -o /dev/null "$nb_server/version" 2>&1) || nb_curl=$?
	elif has openssl; then
		check_server_by_openssl
	else
		say "[check] the API server was not checked: neither curl nor openssl is installed"
		return
	fi
	# curl explains some errors in several lines, and the last line of the script says what to do.
	nb_why=$(printf '%s\n' "$nb_why" | sed -n 1p)
	case $nb_curl in
	0) ;;
	60) fail "$EXIT_SERVER" "the certificate of $nb_server is not valid for this cluster's CA: $nb_why. \
Is this the right API server? If its CA was replaced, run this again when the operator has published a new kubeconfig." ;;
	*) fail "$EXIT_SERVER" "the API server at $nb_server cannot be reached from this machine: $nb_why. Check name, route and firewall." ;;
	esac
	say "[check] the API server answers at $nb_server, with a certificate of the cluster's CA"
}

check_server_by_openssl() {
	nb_address=${nb_server#https://}
	nb_address=${nb_address%%/*}
	case $nb_address in
	\[*\]) nb_name=$nb_address nb_port=443 ;;
	*:*) nb_name=${nb_address%:*} nb_port=${nb_address##*:} ;;
	*) nb_name=$nb_address nb_port=443 ;;
	esac
	nb_host=${nb_name#\[}
	nb_host=${nb_host%\]}
	nb_verify=-verify_hostname
	case $nb_host in
	*:*) nb_verify=-verify_ip ;;
	*[!0-9.]*) ;;
	*) nb_verify=-verify_ip ;;
	esac
	nb_curl=0
	nb_why=$(openssl s_client -connect "$nb_name:$nb_port" -CAfile "$nb_work/ca.crt" -verify_return_error "$nb_verify" "$nb_host" </dev/null 2>&1) || nb_curl=1
	case $nb_why in *"erify error"* | *"verification failed"*) nb_curl=60 ;; esac
	nb_why=$(printf '%s\n' "$nb_why" | sed -n '/rror/{p;q;}')
}

check_config() {
	if [ "$nb_method" = kubeadm ] || [ -z "$nb_config" ]; then return; fi
	[ -e "$nb_config" ] || [ -n "$nb_kubelet_configuration" ] || fail "$EXIT_NO_CONFIG" "there is no kubelet configuration at $nb_config. \
Create it, or give one with --kubelet-config."
	say "[check] the kubelet configuration is $([ -e "$nb_config" ] && echo "at $nb_config" || echo delivered)"
}
