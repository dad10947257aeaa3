// SPDX-License-Identifier: Apache-2.0

package docs

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/go-logr/logr"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	ctrl "sigs.k8s.io/controller-runtime"

	"github.com/nodebootstrap/nodebootstrap/test/env"
)

var getOptions = metav1.GetOptions{}

// installed is the operator, and what the documents assume about a cluster that was built by hand.
const installed = `
kubectl apply -k config/overlays/hardened
until kubectl wait --for=condition=Established crd --all --timeout=1m; do sleep 0.1; done # one without a status is an error
kubectl patch deployment -n nodebootstrap-system nodebootstrap-manager --type=json -p \
  '[{"op":"add","path":"/spec/template/spec/containers/0/args/-","value":"--cluster-server=https://api.example.com:6443"}]'
`

// awaited are the nodes that the documents mention.
const awaited = `
cp config/samples/nodebootstrap.yaml worker-1.yaml
kubectl apply -f worker-1.yaml
kubectl wait --for=condition=Ready nodebootstrap/worker-1 --timeout=1m
`

// joined lets the machine worker-1 join.
const joined = awaited + `
kubectl nodebootstrap kubeconfig worker-1 | ssh root@worker-1 'umask 077; cat > /var/lib/kubelet/bootstrap-kubeconfig'
kubectl wait --for=condition=Joined nodebootstrap/worker-1 --timeout=1m
`

// before are the commands that run before a document. Each document has a new cluster, those that are not listed here one without
// the operator.
var before = map[string]string{
	"docs/metrics.md":     installed,
	"docs/operations.md":  "make build-installer\n" + installed + joined,
	"docs/security.md":    installed + joined,
	"docs/join.md":        installed + awaited,
	"docs/pinned-keys.md": installed + awaited,
	"docs/user-data.md": `
kubectl apply -k config/overlays/kubeadm
until kubectl wait --for=condition=Established crd --all --timeout=1m; do sleep 0.1; done
`,
	"docs/migrating.md": installed + joined + `
kubectl create clusterrolebinding create-csrs --group=system:bootstrappers --clusterrole=system:node-bootstrapper
kubectl create clusterrolebinding approve-csrs --group=system:bootstrappers \
  --clusterrole=system:certificates.k8s.io:certificatesigningrequests:nodeclient
kubectl create clusterrole any-name --verb=create --resource=certificatesigningrequests.certificates.k8s.io/nodeclient
kubectl create clusterrolebinding any-other-name --user=kubelet-bootstrap --clusterrole=any-name
kubectl create clusterrolebinding yet-another-name --group=system:bootstrappers --clusterrole=any-name
kubectl create clusterrolebinding kubeadm:node-autoapprove-bootstrap --group=system:bootstrappers:kubeadm:default-node-token \
  --clusterrole=system:certificates.k8s.io:certificatesigningrequests:nodeclient
kubectl create secret generic -n kube-system bootstrap-token-abcdef --type=bootstrap.kubernetes.io/token \
  --from-literal=token-id=abcdef --from-literal=token-secret=0123456789abcdef --from-literal=usage-bootstrap-authentication=true
`,
	// The machine worker-4 waits for a person.
	"docs/troubleshooting.md": installed + joined + `
kubectl apply -f - <<EOF
apiVersion: nodebootstrap.io/v1alpha1
kind: NodeBootstrap
metadata: {name: worker-4}
spec: {clientCertificate: {approval: Manual}}
EOF
kubectl nodebootstrap kubeconfig worker-4 --wait 1m | ssh root@worker-4 'umask 077; cat > /var/lib/kubelet/bootstrap-kubeconfig'
kubectl wait --for=jsonpath='{.status.conditions[?(@.type=="Ready")].reason}'=AwaitingApproval nodebootstrap/worker-4 --timeout=1m
`,
}

// onKubeadm are the documents that need a cluster of kubeadm.
var onKubeadm = []string{"docs/gitops.md", "docs/kubeadm.md", "docs/user-data.md"}

func TestMain(m *testing.M) {
	ctrl.SetLogger(logr.Discard())
	if err := flag.Set("test.parallel", "4"); err != nil { // each has a control plane of its own, and mostly waits
		panic(err)
	}
	os.Exit(m.Run())
}

// TestDocuments runs the commands of each document in their order.
func TestDocuments(t *testing.T) {
	documents, err := Documents()
	env.Must(t, err)
	for _, name := range documents {
		blocks, err := Blocks(name)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		script := commands(name, blocks)
		if script == "" {
			continue
		}
		t.Run(strings.ReplaceAll(name, "/", " "), func(t *testing.T) {
			t.Parallel()
			p := newPlayground(t)
			p.servesMetrics = name == "docs/metrics.md"
			if p.kubeadm = slices.Contains(onKubeadm, name); p.kubeadm {
				env.Must(t, p.InitKubeadm(t.Context(), nil))
			}
			for _, b := range blocks {
				if file := b.File(); file != "" {
					env.Must(t, os.WriteFile(filepath.Join(p.dir, file), []byte(b.Text), 0o600))
				}
				if b.Language == "ini" {
					p.unit = b.Text
				}
			}
			p.run(t, "set -x\n"+before[name]+"\n"+script)
		})
	}
}

// commands are those of a document, one after the other: those for the node over ssh on worker-1.
func commands(name string, blocks []Block) string {
	var script strings.Builder
	for _, b := range blocks {
		switch {
		case b.run():
			fmt.Fprintf(&script, ": %s, line %d\n%s", name, b.Line, b.Text)
		case b.Language == "sh" && b.Who == onTheNode:
			fmt.Fprintf(&script, ": %s, line %d\nssh root@worker-1 bash -euxo pipefail <<'END-OF-BLOCK'\n%sEND-OF-BLOCK\n", name, b.Line, b.Text)
		}
	}
	return script.String()
}

// Each block of commands is run, or says why not.
func TestBlocksAreMarked(t *testing.T) {
	documents, err := Documents()
	env.Must(t, err)
	for _, name := range documents {
		blocks, err := Blocks(name)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		for _, b := range blocks {
			reason, isNotRun := strings.CutPrefix(b.Who, notRun)
			switch {
			case b.Language == "sh" && (b.run() || b.Who == onTheNode || isNotRun && len(strings.TrimSpace(reason)) > 5):
			case b.Language == "yaml" && (b.Who == "" || b.Who == onTheNode || b.Who == fragment):
			case b.Language == transcript && (b.Who == "" || b.Who == offline):
			case b.Language == "promql" || b.Language == "ini" || b.Language == "mermaid":
			case b.Language == "" && b.Who == "": // output
				if strings.HasPrefix(b.Text, "kubectl ") {
					t.Errorf("%s, line %d: commands are in a block sh", name, b.Line)
				}
			default:
				t.Errorf("%s, line %d: a block of %q marked %q", name, b.Line, b.Language, b.Who)
			}
		}
	}
}
