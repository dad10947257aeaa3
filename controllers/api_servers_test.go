// SPDX-License-Identifier: Apache-2.0

package controllers_test

import (
	"strings"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/nodebootstrap/nodebootstrap/internal/kubeconfig"
	"github.com/nodebootstrap/nodebootstrap/test/servers"
)

// The flag and cluster-info are validated like spec.cluster.server, so that no source accepts what another one rejects.
func TestServersAreJudgedAlike(t *testing.T) {
	for _, server := range servers.Good() {
		if err := cluster.Client.Create(t.Context(), nodeBootstrap(t, "", []string{"cluster", "server"}, server), client.DryRunAll); err != nil {
			t.Errorf("%q: %v", server, err)
		}
		if err := kubeconfig.ValidateServer(server); err != nil {
			t.Errorf("%q: %v", server, err)
		}
	}
	for _, server := range servers.Bad() {
		err := cluster.Client.Create(t.Context(), nodeBootstrap(t, "", []string{"cluster", "server"}, server), client.DryRunAll)
		if !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), "spec.cluster.server: ") || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%q: %v", server, err)
			continue
		}
		if !strings.Contains(err.Error(), "write for example https://api.example.com:6443") && !strings.Contains(err.Error(), "Too long") {
			t.Errorf("%q: the error does not say what to write: %v", server, err)
		}
		if kubeconfig.ValidateServer(server) == nil {
			t.Errorf("%q: the flag and cluster-info accept it", server)
		}
	}
}

// The error for a list names the index of each wrong entry, and the entry itself if it looks like an address.
func TestRefusedAddressesAreNamed(t *testing.T) {
	addresses := []any{"worker-1.example.com", "192.0.2.7", "2001:db8::7", "192.0.2.0/24", "2001:db8::/64", "xn--bcher-kva.example", "1password.example.com", "10-0-0-7.example"}
	bad := []any{
		"10.0.0.300", "999.1.1.1", "256.256.256.256", "10.0.0", "10", "10.0.0.0.1", "010.0.0.7", "worker.1", "worker.0x1f", "0x7f000001",
		"10.0.0.0/33", "10.0.0.0/-1", "10.0.0.0/", "10.0.0.300/24", "2001:db8::/129", "/24", "10.0.0.0/24/24", "10.0.0.1-10.0.0.9", "10.0.0.0/255.255.255.0",
		"2001:db8:::7", "[2001:db8::7]", "fe80::1%eth0", "::ffff:192.0.2.7", "192.0.2.7:10250",
		"", " ", ".", "worker..example.com", "worker.example.com.", "-worker", "worker-", "worker_1", "*.example.com", "Worker", "wörker", "<IP>", "{{ip}}", "$IP", "a b", "192.0.2.7,192.0.2.8", "https://worker",
		strings.Repeat("a", 64),
	}
	if err := cluster.Client.Create(t.Context(), nodeBootstrap(t, "", []string{"servingCertificate", "addresses"}, addresses), client.DryRunAll); err != nil {
		t.Error(err)
	}
	for _, address := range bad {
		err := cluster.Client.Create(t.Context(), nodeBootstrap(t, "", []string{"servingCertificate", "addresses"}, []any{"192.0.2.7", address, "worker-1"}), client.DryRunAll)
		if !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), "spec.servingCertificate.addresses[1]: ") ||
			strings.Contains(err.Error(), "addresses[0]") || strings.Contains(err.Error(), "addresses[2]") {
			t.Errorf("%q: %v", address, err)
		}
	}
	err := cluster.Client.Create(t.Context(), nodeBootstrap(t, "", []string{"servingCertificate", "addresses"}, []any{"10.0.0.300", "worker-1", "10.0.0.0/33", "AbCdEf"}), client.DryRunAll)
	for _, says := range []string{"addresses[0]: Forbidden: 10.0.0.300 is neither", "addresses[2]: Forbidden: 10.0.0.0/33 is neither", "addresses[3]: Forbidden: this entry is neither"} {
		if err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("the error does not say %q: %v", says, err)
		}
	}
}

// The rules for a NodeBootstrap of the maximum size are within the API server's cost budget.
func TestLargestNodeBootstrapIsAffordable(t *testing.T) {
	pem := string(ca(t, time.Now().Add(time.Hour)))
	nb := nodeBootstrap(t, strings.Repeat("n", 63), []string{"cluster", "server"}, "https://"+strings.Repeat("a.", 126)+"b/"+strings.Repeat("x", 1700))
	var addresses []any
	for i := range 64 {
		addresses = append(addresses, strings.Repeat("a.", 120)+strings.Repeat("b", i%10+1)+string(rune('a'+i%26))+"c"+string(rune('a'+i/26)))
	}
	for path, value := range map[string]any{"cluster.caBundle": strings.Repeat(pem, 65536/len(pem)), "servingCertificate.addresses": addresses, "token.ttl": "8760h", "clientCertificate.approval": "Node"} {
		parts := strings.Split(path, ".")
		setSpec(t, nb, parts, value)
	}
	if err := cluster.Client.Create(t.Context(), nb, client.DryRunAll); err != nil {
		t.Error(err)
	}
}
