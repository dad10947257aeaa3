// SPDX-License-Identifier: Apache-2.0

package check

import (
	"cmp"
	"context"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/hack/localcluster"
	"github.com/nodebootstrap/nodebootstrap/hack/localcluster/operator"
	"github.com/nodebootstrap/nodebootstrap/internal/check"
	"github.com/nodebootstrap/nodebootstrap/internal/rbac"
	"github.com/nodebootstrap/nodebootstrap/test/env"
)

// prepared is a cluster in order, with a Deployment, a node that has joined and one that is awaited.
func prepared(t *testing.T) {
	t.Helper()
	deploy(t)
	joined := &v1alpha1.NodeBootstrap{ObjectMeta: metav1.ObjectMeta{Name: member}}
	cluster.Create(t, joined)
	_, kubeconfig := cluster.WaitAwaited(t, member)
	var err error
	kubelet, err = cluster.StartKubelet(t.Context(), localcluster.KubeletConfig{NodeName: member, BootstrapKubeconfig: kubeconfig})
	env.Must(t, err)
	t.Cleanup(func() { env.Check(t, kubelet.Stop()) })
	cluster.Create(t, &v1alpha1.NodeBootstrap{ObjectMeta: metav1.ObjectMeta{Name: "awaited"}})
	cluster.WaitReady(t, member, metav1.ConditionTrue, v1alpha1.ReasonJoined)
	cluster.WaitAwaited(t, "awaited")
}

// breakage breaks one thing, until the test is over.
type breakage struct {
	check string
	want  check.Status
	// args are for the command. By default it checks the cluster and the member.
	args []string
	do   func(t *testing.T)
	// says is in the message.
	says string
	// fixed runs the fix, or something in its place; nil if that cannot be run here.
	fixed func(t *testing.T, r check.Result)
	// after is the status after that, if it is another one than before.
	after check.Status
}

// run sees that only one line changes, and that it is as before after the fix.
func (b breakage) run(t *testing.T) {
	args := b.args
	if args == nil {
		args = []string{member}
	}
	before := run(t, args...)
	for name, status := range before.statuses() {
		if status == check.Failed || status == check.Warning {
			t.Fatalf("%s is %s before anything is broken: %+v", name, status, before.results)
		}
	}
	b.do(t)
	var r report
	env.Eventually(t, "only "+b.check+" changes", func() error {
		r = run(t, args...)
		return r.differs(before.statuses(), b.check, b.want)
	})
	result := r.find(t, b.check)
	if !strings.Contains(result.Message, b.says) {
		t.Errorf("the message is %q, and has no %q", result.Message, b.says)
	}
	mark := map[check.Status]string{check.Failed: "✗", check.Warning: "!"}[b.want]
	if out := execute(t, args...).out; !strings.Contains(out, mark+" "+b.check+": ") || result.Fix != "" && !strings.Contains(out, "\n    ") {
		t.Errorf("it prints\n%s", out)
	}
	t.Logf("%s %s: %s\n    %s", mark, b.check, result.Message, result.Fix)
	if b.fixed == nil {
		return
	}
	b.fixed(t, result)
	env.Eventually(t, "the fix works", func() error {
		return run(t, args...).differs(before.statuses(), b.check, cmp.Or(b.after, before.statuses()[b.check]))
	})
}

// runsFix runs the fix as it is printed, with some changes.
func runsFix(changes ...string) func(*testing.T, check.Result) {
	return func(t *testing.T, r check.Result) { fix(t, r, changes...) }
}

// Each check turns red or yellow when what it is about is broken, and no other does.
func TestEachCheck(t *testing.T) {
	prepared(t)
	for name, b := range map[string]breakage{
		"crd is old": {check: "crd", want: check.Failed, says: "without status.awaitingSince", do: func(t *testing.T) {
			undo(t, "apply", "-k", filepath.Join(root, "config", "crd"))
			kubectl(t, "patch", "crd", "nodebootstraps.nodebootstrap.io", "--type=json", "-p",
				`[{"op":"remove","path":"/spec/versions/0/schema/openAPIV3Schema/properties/status/properties/awaitingSince"}]`)
		}, fixed: runsFix()},
		"no replicas": {check: "operator-running", want: check.Failed, says: "no replicas", do: func(t *testing.T) {
			kubectl(t, "scale", "-n", operator.Namespace, "deployment/nodebootstrap-manager", "--replicas=0")
			undo(t, "scale", "-n", operator.Namespace, "deployment/nodebootstrap-manager", "--replicas=1")
		}, fixed: func(t *testing.T, r check.Result) {
			fix(t, r)
			settle(t)
		}},
		"no Pod is ready": {check: "operator-running", want: check.Warning, says: "no Pod of the Deployment", do: func(t *testing.T) {
			var pods corev1.PodList
			env.Must(t, cluster.Client.List(t.Context(), &pods, client.InNamespace(operator.Namespace)))
			for _, p := range pods.Items {
				p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionFalse}}
				env.Must(t, cluster.Client.Status().Update(t.Context(), &p))
			}
		}, fixed: func(t *testing.T, _ check.Result) { settle(t) }},
		"another version": {check: "operator-version", want: check.Warning, says: "v0.4.0, and this plugin is v0.3.1", do: func(t *testing.T) {
			setImage(t, "registry.example.com:5000/nodebootstrap:v0.4.0")
			t.Cleanup(func() { setImage(t, "registry.example.com/nodebootstrap:"+pluginVersion) })
		}},
		"no leader": {check: "operator-leading", want: check.Failed, says: "no manager leads", do: func(t *testing.T) {
			env.Must(t, manager.Stop())
		}, fixed: func(t *testing.T, _ check.Result) { env.Must(t, startManager(t.Context())) }},
		"server unknown": {check: "server-known", want: check.Failed, says: "no API server URL is known", do: func(t *testing.T) {
			setClusterInfo(t, "")
			t.Cleanup(func() {
				kubectl(t, "rollout", "undo", "-n", operator.Namespace, "deployment/nodebootstrap-manager")
				settle(t)
			})
		}, fixed: func(t *testing.T, r check.Result) {
			fix(t, r, "https://api.example.com:6443", cluster.Server())
			settle(t)
		}},
		"server has no address": {check: "server-reachable", want: check.Failed, says: "does not resolve", do: func(t *testing.T) {
			setClusterInfo(t, "https://nowhere.invalid:6443")
		}},
		"server is down": {check: "server-reachable", want: check.Failed, says: "refused", do: func(t *testing.T) {
			setClusterInfo(t, "https://127.0.0.1:1")
		}},
		"another name": {check: "server-certificate", want: check.Failed, says: "127.0.0.2", do: func(t *testing.T) {
			setClusterInfo(t, forward(t, "127.0.0.2:0"))
		}},
		"another CA": {check: "server-certificate", want: check.Failed, says: "does not chain", do: func(t *testing.T) {
			cluster.Create(t, withCluster("other-ca", cluster.Server(), newServer(t, 10*365*24*time.Hour).ca))
		}, fixed: runsFix()},
		"CA expires": {check: "ca-lifetime", want: check.Warning, says: "the published CA expires in", do: func(t *testing.T) {
			s := newServer(t, 10*24*time.Hour)
			cluster.Create(t, withCluster("short-ca", s.url, s.ca))
		}},
		"CA expired": {check: "ca-lifetime", want: check.Failed, says: "have expired", do: func(t *testing.T) {
			s := newServer(t, -time.Hour)
			cluster.Create(t, withCluster("expired-ca", s.url, s.ca))
		}},
		"any name is approved": {check: "approval", want: check.Failed, says: "whatever the name", args: []string{}, do: func(t *testing.T) {
			undo(t, "delete", "clusterrolebinding", "approve-all")
			kubectl(t, "create", "clusterrolebinding", "approve-all", "--group=system:bootstrappers",
				"--clusterrole=system:certificates.k8s.io:certificatesigningrequests:nodeclient")
		}, fixed: runsFix()},
		"renewals end with the operator": {check: "renewal", want: check.Warning, says: "goes with the last one", do: func(t *testing.T) {
			kubectl(t, "delete", "clusterrolebinding", "approve-kubelet-renewals")
		}, fixed: runsFix()},
		"nothing is signed": {check: "signer", want: check.Failed, says: "has no certificate", do: stopSigning,
			fixed: func(t *testing.T, _ check.Result) { env.Must(t, cluster.StartControllerManager(t.Context(), nil)) }},
		"the signer does not run": {check: "signer", want: check.Failed, says: "does not run", do: func(t *testing.T) {
			cluster.Create(t, &coordinationv1.Lease{
				ObjectMeta: metav1.ObjectMeta{Namespace: "kube-system", Name: "kube-controller-manager"},
				Spec: coordinationv1.LeaseSpec{
					HolderIdentity: new("gone"), LeaseDurationSeconds: new(int32(15)), RenewTime: &metav1.MicroTime{Time: time.Now().Add(-time.Hour)},
				},
			})
		}},
		"a static token": {check: "static-tokens", want: check.Warning, says: `"kubelet-bootstrap"`, do: func(t *testing.T) {
			cluster.Create(t, env.Binding("create-csrs", "system:node-bootstrapper", "Group", "site:joiners"))
			send(t, "kubelet-bootstrap", "site:joiners", kubeletRequest(t, "static", nil))
		}},
		"the component kubeadm": {check: "kubeadm-join", want: check.Warning, says: "RoleBinding in kube-system", do: func(t *testing.T) {
			cluster.Create(t, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "kube-system", Name: "kubeadm-config"}})
			undo(t, "delete", "-k", filepath.Join(root, "config", "components", "kubeadm"))
		}, fixed: runsFix(), after: check.Passed},
	} {
		t.Run(name, b.run)
	}
	t.Run("of the API server", answers)
	t.Run("without a leader", withoutLeader)
	t.Run("node", node)
	t.Run("user", users)
	t.Run("before the installation", beforeInstallation)
}

// answers changes the answers of the API server.
func answers(t *testing.T) {
	for name, tc := range map[string]struct {
		breakage
		with answerer
	}{
		"old": {breakage{check: "kubernetes-version", want: check.Failed, says: "v1.29.3 is older than 1.30"}, answerer{version: "v1.29.3"}},
		"new": {breakage{check: "kubernetes-version", want: check.Warning, says: "tested with"}, answerer{version: "v1.99.0"}},
		// With more, the Leases would be too old.
		"clock": {breakage{check: "clock", want: check.Warning, says: "s apart"}, answerer{ahead: 13 * time.Second}},
	} {
		t.Run(name, func(t *testing.T) {
			proxy := newProxy(t)
			tc.args = []string{member, "--kubeconfig", proxy.kubeconfig}
			tc.do = func(*testing.T) { proxy.answer(tc.with) }
			tc.fixed = func(*testing.T, check.Result) { proxy.answer(answerer{}) }
			tc.run(t)
		})
	}
}

// withoutLeader changes what a leader would set right.
func withoutLeader(t *testing.T) {
	env.Must(t, manager.Stop())
	t.Cleanup(func() { env.Must(t, startManager(context.WithoutCancel(t.Context()))) })
	left := []string{"--skip", "operator-leading"}
	breakage{check: "token-authentication", want: check.Failed, says: "does not accept the token of awaited", args: left, do: func(t *testing.T) {
		setReady(t, "awaited", metav1.ConditionFalse, v1alpha1.ReasonTokensNotAccepted)
	}, fixed: func(t *testing.T, _ check.Result) {
		setReady(t, "awaited", metav1.ConditionTrue, v1alpha1.ReasonAwaitingNode)
	}}.run(t)
	breakage{check: "nodebootstrap", want: check.Warning, says: "has not seen the last change", args: append([]string{"awaited"}, left...), do: func(t *testing.T) {
		kubectl(t, "patch", "nodebootstrap", "awaited", "--type=merge", "-p", `{"spec":{"token":{"ttl":"23h"}}}`)
	}}.run(t)
	breakage{check: "renewal", want: check.Failed, says: "nothing lets nodes renew", args: left, do: func(t *testing.T) {
		kubectl(t, "delete", "clusterrolebinding", "approve-kubelet-renewals", rbac.BindingApproveRenewals)
	}, fixed: runsFix()}.run(t)
}

// setLease renews the Lease of the member at a time from now.
func setLease(t *testing.T, from time.Duration) {
	t.Helper()
	lease := &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Namespace: corev1.NamespaceNodeLease, Name: member}}
	env.Change(t, cluster, lease, func(l *coordinationv1.Lease) { l.Spec.RenewTime = &metav1.MicroTime{Time: time.Now().Add(from)} })
}

// node breaks what is about one node.
func node(t *testing.T) {
	if r := run(t, "nobody"); r.find(t, "nodebootstrap").Status != check.Failed {
		t.Errorf("a NodeBootstrap that does not exist is %+v", r.results)
	}
	env.Must(t, kubelet.Stop()) // in place of which this renews the Lease
	setLease(t, 10*time.Minute)
	for name, b := range map[string]breakage{
		"not Ready": {check: "conditions", want: check.Failed, says: "KeyPinnedTwice", args: []string{"pinned"}, do: func(t *testing.T) {
			cluster.Create(t, pinned("pinned-too"))
		}, fixed: func(t *testing.T, r check.Result) {
			fix(t, r) // shows the status
			kubectl(t, "delete", "nodebootstrap", "pinned-too")
		}},
		"pending": {check: "requests", want: check.Warning, says: "its NodeBootstrap declares no addresses", do: func(t *testing.T) {
			r, err := env.NewRequest(member, certificatesv1.KubeletServingSignerName, certificatesv1.UsageServerAuth, member)
			env.Must(t, err)
			send(t, "system:node:"+member, "system:nodes", r)
		}},
		"certificate expires": {check: "certificate", want: check.Warning, says: "expires in", do: func(t *testing.T) {
			var all certificatesv1.CertificateSigningRequestList
			env.Must(t, cluster.Client.List(t.Context(), &all))
			for _, r := range all.Items {
				env.Must(t, cluster.Client.Delete(t.Context(), &r))
			}
			cluster.WaitCertificate(t, send(t, "system:node:"+member, "system:nodes", kubeletRequest(t, member, new(int32(1200)))))
		}, fixed: func(t *testing.T, _ check.Result) {
			cluster.WaitCertificate(t, send(t, "system:node:"+member, "system:nodes", kubeletRequest(t, member, nil)))
		}},
		"no kubelet": {check: "lease", want: check.Failed, says: "renewed its Lease last", do: func(t *testing.T) { setLease(t, -2*time.Minute) },
			fixed: func(t *testing.T, _ check.Result) { setLease(t, 10*time.Minute) }},
	} {
		t.Run(name, func(t *testing.T) {
			if b.args != nil {
				cluster.Create(t, pinned("pinned"))
				cluster.WaitAwaited(t, "pinned")
			}
			b.run(t)
		})
	}
}

// users see what they may see.
func users(t *testing.T) {
	admin := run(t, member).statuses()
	r := run(t, member, "--as", "nobody")
	for _, result := range r.results {
		if result.Status == check.Failed || result.Status == check.Warning && !strings.Contains(result.Message, "is forbidden") {
			t.Errorf("without any permission: %+v", result)
		}
	}
	if r.code != 0 || r.find(t, "crd").Status != check.Warning {
		t.Errorf("without any permission: exit code %d, %+v", r.code, r.results)
	}
	kubectl(t, "apply", "-f", documentedRole(t))
	undo(t, "delete", "clusterrole,clusterrolebinding", "nodebootstrap-check")
	env.Eventually(t, "a user with the documented role sees the same", func() error {
		return run(t, member, "--as", "jane", "--as-group", "checkers").differs(admin, "", "")
	})
}

// beforeInstallation is a cluster without the operator's objects.
func beforeInstallation(t *testing.T) {
	kubectl(t, "delete", "nodebootstraps", "--all")
	r := run(t, "--pre")
	if r.code != 0 || slices.ContainsFunc(r.results, func(r check.Result) bool { return r.Status == check.Failed || r.Status == check.Warning }) {
		t.Errorf("before the installation: exit code %d, %+v", r.code, r.results)
	}
	breakage{check: "permissions", want: check.Failed, says: "escalate clusterroles", args: []string{"--pre"}}.differentUser(t)
	kubectl(t, "delete", "crd", "nodebootstraps.nodebootstrap.io")
	t.Cleanup(func() { env.Must(t, operator.Install(context.WithoutCancel(t.Context()), cluster.Cluster)) })
	if again := run(t, "--pre"); again.code != 0 {
		t.Errorf("without the CRD: exit code %d, %+v", again.code, again.results)
	}
	if r := run(t); r.find(t, "crd").Status != check.Failed {
		t.Errorf("without the CRD: %+v", r.results)
	}
}

// differentUser is run for a user who may do everything but install.
func (b breakage) differentUser(t *testing.T) {
	t.Helper()
	before := run(t, b.args...).statuses()
	undo(t, "delete", "clusterrole,clusterrolebinding", "nodebootstrap-check")
	kubectl(t, "apply", "-f", documentedRole(t))
	var r report
	env.Eventually(t, "only "+b.check+" changes", func() error {
		r = run(t, append(b.args, "--as", "jane", "--as-group", "checkers")...)
		return r.differs(before, b.check, b.want)
	})
	if result := r.find(t, b.check); !strings.Contains(result.Message, b.says) {
		t.Errorf("the message is %q, and has no %q", result.Message, b.says)
	}
}
