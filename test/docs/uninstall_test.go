// SPDX-License-Identifier: Apache-2.0

package docs

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/metadata"

	"github.com/nodebootstrap/nodebootstrap/test/env"
)

// An uninstall as documented leaves everything that existed before the installation, and the node that has joined, whether
// the operator runs or is already dead.
func TestUninstallLeavesNothing(t *testing.T) {
	installs := map[string]string{
		"kubectl": commandsUnder(t, "docs/install.md", "One file"),
		"Helm":    withoutFirstLine(commandsUnder(t, "docs/install.md", "Helm")),
	}
	for name, c := range map[string]struct {
		by   string
		more string
		dead bool
	}{
		"kubectl":                   {by: "kubectl"},
		"kubectl, operator is dead": {by: "kubectl", dead: true},
		"Helm, after an upgrade":    {by: "Helm", more: lineWith(t, "helm upgrade", commandsUnder(t, "docs/operations.md", "Upgrading"))},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newPlayground(t)
			was := p.objects(t)
			p.run(t, "set -x\n"+installs[c.by]+c.more+joined+`
cp config/samples/nodebootstrap-full.yaml worker-2.yaml
kubectl apply -f worker-2.yaml
kubectl wait --for=condition=Ready nodebootstrap --all --timeout=1m
kubectl get secrets -A | grep bootstrap-token-
kubectl get clusterrolebindings nodebootstrap-create-csrs nodebootstrap-approve-renewals
`)
			if p.operatorIsDead = c.dead; c.dead {
				env.Must(t, p.manager.Kill())
				p.manager, p.deployed = nil, ""
			}
			p.run(t, "set -x\n"+commandsUnder(t, "docs/operations.md", "With "+c.by))
			env.Eventually(t, "nothing being left", func() error {
				var left []string
				is := p.objects(t)
				for key := range is {
					if !was[key] {
						left = append(left, key)
					}
				}
				slices.Sort(left)
				if len(left) > 0 {
					return fmt.Errorf("these are left: %s", strings.Join(left, ", "))
				}
				for key := range was {
					if !is[key] {
						t.Errorf("%s was deleted", key)
					}
				}
				return nil
			})
		})
	}
}

// lives are kinds of which nodes and the control plane create objects by themselves, and events, which expire.
var lives = []string{"events", "nodes", "csinodes", "leases", "certificatesigningrequests", "ipaddresses"}

// objects are all objects in the cluster, except for some kinds.
func (p *playground) objects(t *testing.T) map[string]bool {
	t.Helper()
	client, err := metadata.NewForConfig(p.AdminConfig())
	env.Must(t, err)
	lists, err := p.clients.Discovery().ServerPreferredResources()
	var groups *discovery.ErrGroupDiscoveryFailed
	if err != nil && !errors.As(err, &groups) { // a group may be about to be deleted
		t.Fatal(err)
	}
	found := map[string]bool{}
	for _, list := range lists {
		gv, err := schema.ParseGroupVersion(list.GroupVersion)
		env.Must(t, err)
		for _, r := range list.APIResources {
			if !slices.Contains(r.Verbs, "list") || slices.Contains(lives, r.Name) {
				continue
			}
			objects, err := client.Resource(gv.WithResource(r.Name)).List(t.Context(), metav1.ListOptions{})
			if err != nil {
				continue // a kind that was just deleted
			}
			for _, o := range objects.Items {
				found[r.Name+" "+o.Namespace+"/"+o.Name] = true
			}
		}
	}
	return found
}

func commandsUnder(t *testing.T, document, heading string) string {
	t.Helper()
	text, err := under(document, heading)
	env.Must(t, err)
	return text
}

func withoutFirstLine(s string) string {
	_, rest, _ := strings.Cut(s, "\n")
	return rest
}

func lineWith(t *testing.T, word, text string) string {
	t.Helper()
	for line := range strings.Lines(text) {
		if strings.Contains(line, word) {
			return line
		}
	}
	t.Fatalf("no line has %q: %s", word, text)
	return ""
}
