// SPDX-License-Identifier: Apache-2.0

package check_test

import (
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	certificatesv1 "k8s.io/api/certificates/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/internal/check"
	"github.com/nodebootstrap/nodebootstrap/internal/lifecycle"
	"github.com/nodebootstrap/nodebootstrap/internal/nodetest"
	"github.com/nodebootstrap/nodebootstrap/internal/rbac"
)

const server = "https://api.example.com:6443"

// chain is a certificate of an API server, which is its own CA, valid for ten years.
func chain(t *testing.T, life time.Duration) (*x509.Certificate, []byte) {
	t.Helper()
	ca := nodetest.CertificateFor("api.example.com", nodetest.Now.Add(-time.Hour), nodetest.Now.Add(life))
	block, _ := pem.Decode(ca)
	return nodetest.Must(x509.ParseCertificate(block.Bytes)), ca
}

func crd(t *testing.T) map[string]any {
	t.Helper()
	content := nodetest.Must(os.ReadFile("../../config/crd/bases/nodebootstrap.io_nodebootstraps.yaml"))
	var out map[string]any
	if err := yaml.Unmarshal(content, &out); err != nil {
		t.Fatal(err)
	}
	out["status"] = map[string]any{"conditions": []any{map[string]any{"type": "Established", "status": "True"}}}
	return out
}

func lease(holder string, age time.Duration) *coordinationv1.Lease {
	return &coordinationv1.Lease{Spec: coordinationv1.LeaseSpec{
		HolderIdentity: &holder, LeaseDurationSeconds: new(int32(15)), RenewTime: &metav1.MicroTime{Time: nodetest.Now.Add(-age)},
	}}
}

func issued(name string, life time.Duration) certificatesv1.CertificateSigningRequest {
	r := nodetest.Request(name, 1, time.Hour, nodetest.Approved(time.Hour))
	r.Status.Certificate = nodetest.Certificate(nodetest.Now.Add(-time.Hour), nodetest.Now.Add(life))
	return *r
}

// inOrder are the facts about a cluster and a node that are in order.
func inOrder(t *testing.T) *check.Facts {
	t.Helper()
	leaf, ca := chain(t, 10*365*24*time.Hour)
	nb := nodetest.NodeBootstrap()
	nb.Status.ObservedGeneration = nb.Generation
	nb.Status.Conditions = []metav1.Condition{
		{Type: v1alpha1.ConditionReady, Status: metav1.ConditionTrue, Reason: v1alpha1.ReasonAwaitingNode},
		{Type: v1alpha1.ConditionCredentialsAvailable, Status: metav1.ConditionTrue},
		{Type: v1alpha1.ConditionJoined, Status: metav1.ConditionTrue},
	}
	deployment := &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Namespace: "nodebootstrap-system", Name: "nodebootstrap-manager"}}
	deployment.Spec.Template.Spec.Containers = []corev1.Container{{Image: "registry:5000/a/nodebootstrap:v0.3.1@sha256:00", Args: []string{"--leader-elect", "--cluster-server", server}}}
	deployment.Status.ReadyReplicas = 1
	renewals := rbac.Binding(rbac.BindingApproveRenewals)
	renewals.Labels, renewals.Name = nil, "approve-renewals"
	return &check.Facts{
		Now: nodetest.Now, ServerTime: nodetest.Now, Plugin: "v0.3.2", Kubernetes: "v1.36.3+k3s1", Namespace: "nodebootstrap-system",
		Presented:      []*x509.Certificate{leaf},
		CRD:            check.Read[map[string]any]{Value: crd(t)},
		Deployment:     check.Read[*appsv1.Deployment]{Value: deployment},
		Leader:         check.Read[*coordinationv1.Lease]{Value: lease("pod-1", time.Second)},
		Signer:         check.Read[*coordinationv1.Lease]{Value: lease("kcm", time.Second)},
		NodeBootstraps: check.Read[[]v1alpha1.NodeBootstrap]{Value: []v1alpha1.NodeBootstrap{*nb}},
		RootCA:         check.Read[string]{Value: string(ca)},
		Endpoints:      map[string]check.Endpoint{server: {Addresses: []string{"192.0.2.1"}, Chain: []*x509.Certificate{leaf}}},
		Bypass:         check.Read[*lifecycle.Bypass]{Value: &lifecycle.Bypass{}},
		Bindings:       check.Read[[]rbacv1.ClusterRoleBinding]{Value: []rbacv1.ClusterRoleBinding{*renewals}},
		Requests:       check.Read[[]certificatesv1.CertificateSigningRequest]{Value: []certificatesv1.CertificateSigningRequest{issued("csr-1", 300*24*time.Hour)}},
		IsKubeadm:      check.Read[bool]{Value: true},
		Permissions:    []check.Permission{check.NewPermission("create", "namespaces", "", true, nil)},
		Node: &check.NodeFacts{
			Name: nodetest.NodeName, NodeBootstrap: check.Read[*v1alpha1.NodeBootstrap]{Value: nb},
			Lease: check.Read[*coordinationv1.Lease]{Value: lease(nodetest.NodeName, time.Second)},
		},
	}
}

// all are the results before and after the installation, each name once.
func all(f *check.Facts) []check.Result {
	results := check.Cluster(f)
	return append(results, slices.DeleteFunc(check.BeforeInstallation(f), func(r check.Result) bool { return r.Name != "permissions" })...)
}

func TestInOrder(t *testing.T) {
	results := all(inOrder(t))
	var names []string
	for _, r := range results {
		names = append(names, r.Name)
		if r.Status != check.Passed || r.Fix != "" {
			t.Errorf("got %+v", r)
		}
	}
	for _, name := range check.Names() {
		if name != check.Machine && !slices.Contains(names, name) {
			t.Errorf("%s was not checked", name)
		}
	}
}

// Each fact that is not in order changes the result of one check, and no other one but to Skipped.
func TestEachFact(t *testing.T) {
	forbidden := apierrors.NewForbidden(rbacv1.Resource("things"), "", errors.New(`User "jane" cannot list resource "things"`))
	ready := func(f *check.Facts) *metav1.Condition { return &f.NodeBootstraps.Value[0].Status.Conditions[0] }
	ofNode := func(f *check.Facts) *v1alpha1.NodeBootstrap {
		f.Node.NodeBootstrap.Value = f.Node.NodeBootstrap.Value.DeepCopy()
		return f.Node.NodeBootstrap.Value
	}
	condition := func(kind string, status metav1.ConditionStatus, reason string) func(*check.Facts) {
		return func(f *check.Facts) {
			nb := ofNode(f)
			nb.Status.Conditions = append(slices.DeleteFunc(nb.Status.Conditions, func(c metav1.Condition) bool { return c.Type == kind }),
				metav1.Condition{Type: kind, Status: status, Reason: reason, Message: "why"})
		}
	}
	for name, tc := range map[string]struct {
		edit  func(*check.Facts)
		check string
		want  check.Status
		says  string
		fix   string
	}{
		"too old":         {func(f *check.Facts) { f.Kubernetes = "v1.29.9" }, "kubernetes-version", check.Failed, "older than 1.30", "kubeadm upgrade plan"},
		"not tested, old": {func(f *check.Facts) { f.Kubernetes = "v1.30.0" }, "kubernetes-version", check.Warning, "tested with 1.35 to 1.37", ""},
		"not tested, new": {func(f *check.Facts) { f.Kubernetes = "v1.38.0-alpha.1" }, "kubernetes-version", check.Warning, "tested with", ""},
		"no version":      {func(f *check.Facts) { f.Kubernetes = "?" }, "kubernetes-version", check.Warning, "is not a version", ""},
		"slow clock":      {func(f *check.Facts) { f.Now = f.Now.Add(-10 * time.Second) }, "clock", check.Warning, "10s apart", "timedatectl"},
		"wrong clock":     {func(f *check.Facts) { f.Now = f.Now.Add(5 * time.Minute) }, "clock", check.Failed, "5m", "timedatectl"},
		"no CRD":          {func(f *check.Facts) { f.CRD.Value = nil }, "crd", check.Failed, "not installed", "kubectl apply -k config/crd"},
		"not established": {func(f *check.Facts) { delete(f.CRD.Value, "status") }, "crd", check.Failed, "does not serve", "kubectl apply -k config/crd"},
		"CRD may not be read": {func(f *check.Facts) { f.CRD = check.Read[map[string]any]{Err: forbidden} }, "crd", check.Warning,
			`User "jane" cannot list resource "things"`, ""},
		"one of two": {func(f *check.Facts) { f.Deployment.Value.Spec.Replicas = new(int32(2)) }, "operator-running", check.Warning, "1 of 2 Pods", "describe pods"},
		"no replicas": {func(f *check.Facts) { f.Deployment.Value.Spec.Replicas = new(int32(0)) }, "operator-running", check.Failed, "no replicas",
			"kubectl scale -n nodebootstrap-system deployment/nodebootstrap-manager --replicas=2"},
		"not ready, but led": {func(f *check.Facts) {
			f.Deployment.Value.Status.ReadyReplicas = 0
			f.Pods.Value = []corev1.Pod{{Status: corev1.PodStatus{Conditions: []corev1.PodCondition{{Type: corev1.PodScheduled, Status: corev1.ConditionFalse, Message: "no nodes"}}}}}
		}, "operator-running", check.Warning, "no nodes", "describe pods"},
		"another minor by the Lease": {func(f *check.Facts) {
			f.Leader.Value.Labels = map[string]string{"app.kubernetes.io/version": "v0.2.0"}
		}, "operator-version", check.Warning, "v0.2.0, and this plugin is v0.3.2", ""},
		"another minor":  {func(f *check.Facts) { f.Plugin = "v0.4.0" }, "operator-version", check.Warning, "v0.3.1, and this plugin is v0.4.0", ""},
		"stale Lease":    {func(f *check.Facts) { f.Leader.Value = lease("pod-1", time.Minute) }, "operator-leading", check.Failed, "pod-1 renewed the Lease last 60s ago", "kubectl rollout restart"},
		"given back":     {func(f *check.Facts) { f.Leader.Value = lease("", time.Second) }, "operator-leading", check.Failed, "gave the Lease back", "kubectl rollout restart"},
		"never led":      {func(f *check.Facts) { f.Leader.Value = nil }, "operator-leading", check.Failed, "no manager has ever led", "kubectl rollout restart"},
		"tokens refused": {func(f *check.Facts) { ready(f).Reason = v1alpha1.ReasonTokensNotAccepted }, "token-authentication", check.Failed, nodetest.NodeName, "--enable-bootstrap-token-auth=true"},
		"server missing": {func(f *check.Facts) { f.Deployment.Value.Spec.Template.Spec.Containers[0].Args = nil }, "server-known", check.Failed, "no API server URL", "kubectl patch deployment"},
		"unresolved":     {endpoint(check.Endpoint{Unresolved: errors.New("no such host")}), "server-reachable", check.Failed, "no such host", "kubectl patch deployment"},
		"unreachable":    {endpoint(check.Endpoint{Unreachable: errors.New("refused")}), "server-reachable", check.Failed, "--skip server-reachable", "kubectl patch deployment"},
		"another CA": {func(f *check.Facts) {
			f.NodeBootstraps.Value[0].Spec.Cluster.CABundle = string(nodetest.CertificateFor("other", nodetest.Now, nodetest.Now.Add(1e8*time.Second)))
		}, "server-certificate", check.Failed, "does not chain", `kubectl patch nodebootstrap worker-1 --type=merge -p '{"spec":{"cluster":{"caBundle":null}}}'`},
		"another name": {func(f *check.Facts) {
			f.NodeBootstraps.Value[0].Spec.Cluster.Server = "https://other.example.com"
			f.Endpoints["https://other.example.com"] = f.Endpoints[server]
		}, "server-certificate", check.Failed, "not other.example.com", "kubectl patch nodebootstrap"},
		"CA expires":  {func(f *check.Facts) { useCA(t, f, 89*24*time.Hour) }, "ca-lifetime", check.Warning, "expires in 89d", "kubeadm certs"},
		"CA expired":  {func(f *check.Facts) { useCA(t, f, -time.Minute) }, "ca-lifetime", check.Failed, "expired", "kubeadm certs"},
		"others":      {bypassed("crb", "system:bootstrappers"), "approval", check.Failed, "whatever the name", "kubectl delete clusterrolebinding crb"},
		"others, too": {bypassed("crb", "system:authenticated"), "approval", check.Failed, "whatever the name", "kubectl edit clusterrolebinding crb"},
		"ours renews": {func(f *check.Facts) {
			f.Bindings.Value = []rbacv1.ClusterRoleBinding{*rbac.Binding(rbac.BindingApproveRenewals)}
		}, "renewal", check.Warning, "only while", "kubectl create clusterrolebinding"},
		"none renews":  {func(f *check.Facts) { f.Bindings.Value = nil }, "renewal", check.Failed, "nothing lets nodes renew", "kubectl create clusterrolebinding"},
		"not signed":   {add(*nodetest.Request("csr-2", 1, time.Hour, nodetest.Approved(2*time.Minute))), "signer", check.Failed, "csr-2", "--cluster-signing-cert-file"},
		"no signer":    {func(f *check.Facts) { f.Signer.Value = lease("kcm", time.Hour) }, "signer", check.Failed, "does not run", "kube-controller-manager"},
		"static token": {add(*nodetest.Request("csr-2", 1, time.Hour, func(r *certificatesv1.CertificateSigningRequest) { r.Spec.Username = "kubelet-bootstrap" })), "static-tokens", check.Warning, "kubelet-bootstrap", "docs/migrating.md"},
		"no component": {func(f *check.Facts) { f.KubeadmMissing.Value = []string{"ClusterRole"} }, "kubeadm-join", check.Warning, "lacks its ClusterRole", "kubectl apply -k config/components/kubeadm"},
		"may not":      {func(f *check.Facts) { f.Permissions[0].Allowed.Value = false }, "permissions", check.Failed, "create namespaces", "--context"},

		"no NodeBootstrap": {func(f *check.Facts) { f.Node.NodeBootstrap.Value = nil }, "nodebootstrap", check.Failed, "does not exist", "kubectl get nodebootstraps"},
		"not seen":         {func(f *check.Facts) { ofNode(f).Generation++ }, "nodebootstrap", check.Warning, "has not seen", ""},
		"not Ready":        {condition(v1alpha1.ConditionReady, metav1.ConditionFalse, v1alpha1.ReasonKeyReplaced), "conditions", check.Failed, "KeyReplaced: why", "kubectl nodebootstrap reissue"},
		"stolen":           {condition(v1alpha1.ConditionTokenMisused, metav1.ConditionTrue, "SecondKey"), "conditions", check.Failed, "SecondKey: why", "kubectl nodebootstrap reissue"},
		"not revoked":      {condition(v1alpha1.ConditionCertificateNotRevoked, metav1.ConditionTrue, "x"), "conditions", check.Failed, "why", "kubectl nodebootstrap status"},
		"no report":        {func(f *check.Facts) { ofNode(f).Status.Conditions = nil }, "conditions", check.Warning, "has not reported", ""},
		"silent":           {func(f *check.Facts) { f.Node.Lease.Value = lease(nodetest.NodeName, time.Hour) }, "lease", check.Failed, "60m ago", "systemctl restart kubelet"},
		"no Lease":         {func(f *check.Facts) { f.Node.Lease.Value = nil }, "lease", check.Failed, "has no Lease", "systemctl restart kubelet"},
		"expires":          {requests(issued("csr-1", 29*24*time.Hour)), "certificate", check.Warning, "expires in 29d", "systemctl restart kubelet"},
		"renewed at once":  {requests(issued("csr-1", 28*24*time.Hour), issued("csr-2", 29*24*time.Hour), issued("csr-3", time.Hour)), "certificate", check.Warning, "expires in 29d", "systemctl restart kubelet"},
		"expired":          {requests(issued("csr-1", -time.Minute)), "certificate", check.Failed, "expired", "kubectl nodebootstrap reissue"},
		"in the status": {func(f *check.Facts) {
			ofNode(f).Status.ClientCertificate = &v1alpha1.ClientCertificate{StartTime: nodetest.Ago(0), ExpirationTime: nodetest.Ago(-24 * time.Hour)}
		}, "certificate", check.Warning, "expires in 24h", "systemctl restart kubelet"},
		"not running": {condition(v1alpha1.ConditionClientCertificateExpiring, metav1.ConditionTrue, "NodeNotRunning"), "conditions", check.Failed, "why", "systemctl start kubelet"},
		"pending": {func(f *check.Facts) {
			f.Node.Pending.Value = []check.Pending{{Request: nodetest.Request("csr-2", 1, time.Hour), Why: "a person approves"}}
		}, "requests", check.Warning, "csr-2 is pending for 60m: a person approves", "kubectl nodebootstrap explain csr-2"},
	} {
		t.Run(name, func(t *testing.T) {
			f := inOrder(t)
			tc.edit(f)
			found := false
			for _, r := range all(f) {
				switch {
				case r.Name == tc.check && r.Status == tc.want:
					found = true
					if !strings.Contains(r.Message, tc.says) || !strings.Contains(r.Fix, tc.fix) || (tc.fix == "") != (r.Fix == "") {
						t.Errorf("got %+v", r)
					}
				case r.Name != tc.check && r.Status != check.Passed && r.Status != check.Skipped:
					t.Errorf("this changed, too: %+v", r)
				}
			}
			if !found {
				t.Errorf("%s is not %s", tc.check, tc.want)
			}
		})
	}
}

func endpoint(e check.Endpoint) func(*check.Facts) {
	return func(f *check.Facts) { f.Endpoints[server] = e }
}

func add(r certificatesv1.CertificateSigningRequest) func(*check.Facts) {
	return func(f *check.Facts) { f.Requests.Value = append(f.Requests.Value, r) }
}

func requests(list ...certificatesv1.CertificateSigningRequest) func(*check.Facts) {
	return func(f *check.Facts) { f.Requests.Value = list }
}

// useCA makes the CA of the server one that is valid for some time.
func useCA(t *testing.T, f *check.Facts, life time.Duration) {
	t.Helper()
	leaf, ca := chain(t, life)
	f.RootCA.Value, f.Presented = string(ca), []*x509.Certificate{leaf}
	f.Endpoints[server] = check.Endpoint{Addresses: []string{"192.0.2.1"}, Chain: f.Presented}
	if life < 0 {
		delete(f.Endpoints, server)
	}
}

// bypassed lets a binding of two groups approve any name.
func bypassed(name, group string) func(*check.Facts) {
	return func(f *check.Facts) {
		f.Bypass.Value = &lifecycle.Bypass{Open: true, Why: []string{`RBAC: allowed by ClusterRoleBinding "` + name + `" of ClusterRole "any" to Group "` + group + `"`}}
		f.Bindings.Value = append(f.Bindings.Value, rbacv1.ClusterRoleBinding{
			ObjectMeta: metav1.ObjectMeta{Name: name}, Subjects: []rbacv1.Subject{{Kind: "Group", Name: "system:bootstrappers:a"}, {Kind: "Group", Name: group}},
		})
	}
}

// Each field that a CustomResourceDefinition lacks is found, and one without a missing field is in order.
func TestMissingFields(t *testing.T) {
	var walk func(schema map[string]any, path string)
	walked := 0
	walk = func(schema map[string]any, path string) {
		if items, ok := schema["items"].(map[string]any); ok {
			walk(items, path)
		}
		properties, _ := schema["properties"].(map[string]any)
		for name, below := range properties {
			if path == "" && (name == "metadata" || name == "apiVersion" || name == "kind") || strings.HasPrefix(path, "status.conditions.") {
				continue
			}
			delete(properties, name)
			f := inOrder(t)
			f.CRD.Value = clone(t, current)
			if r := check.Cluster(f)[2]; r.Name != "crd" || r.Status != check.Failed || !strings.Contains(r.Message, path+name) {
				t.Errorf("without %s%s: %+v", path, name, r)
			}
			walked++
			properties[name] = below
			walk(below.(map[string]any), path+name+".")
		}
	}
	current = crd(t)
	version := current["spec"].(map[string]any)["versions"].([]any)[0].(map[string]any)
	walk(version["schema"].(map[string]any)["openAPIV3Schema"].(map[string]any), "")
	if walked < 50 {
		t.Errorf("only %d fields were left out", walked)
	}
}

// current is the CustomResourceDefinition that is being changed.
var current map[string]any

func clone(t *testing.T, from map[string]any) map[string]any {
	t.Helper()
	var out map[string]any
	if err := json.Unmarshal(nodetest.Must(json.Marshal(from)), &out); err != nil {
		t.Fatal(err)
	}
	return out
}

// Before the installation, a server that is not known is to be given to it, which is no fault of the cluster.
func TestServerBeforeInstallation(t *testing.T) {
	f := inOrder(t)
	f.Before, f.Deployment.Value, f.NodeBootstraps.Value = true, nil, nil
	for _, r := range check.BeforeInstallation(f) {
		if r.Status == check.Failed || (r.Status == check.Warning) != (r.Name == "server-known") || r.Status == check.Warning && !strings.Contains(r.Fix, "--cluster-server") {
			t.Errorf("got %+v", r)
		}
	}
}

// Not every server that a NodeBootstrap names is connected to.
func TestManyServers(t *testing.T) {
	f := inOrder(t)
	for i := range 20 {
		nb := f.NodeBootstraps.Value[0].DeepCopy()
		nb.Spec.Cluster.Server = fmt.Sprintf("https://%d.example.com", i)
		f.NodeBootstraps.Value = append(f.NodeBootstraps.Value, *nb)
	}
	if n := len(check.Targets(f)); n != 10 {
		t.Errorf("there are %d targets", n)
	}
	if !slices.ContainsFunc(check.Cluster(f), func(r check.Result) bool {
		return r.Status == check.Skipped && strings.HasPrefix(r.Message, "11 more servers")
	}) {
		t.Error("nothing says that some are not checked")
	}
}

// Only the token of a static token file is one.
func TestSendersOfCSRs(t *testing.T) {
	for user, want := range map[string]check.Status{
		"kubelet-bootstrap": check.Warning, "system:bootstrap:abcdef": check.Passed, "system:node:worker-1": check.Passed,
		"system:serviceaccount:openshift:node-bootstrapper": check.Passed,
	} {
		f := inOrder(t)
		add(*nodetest.Request("csr-2", 1, time.Hour, func(r *certificatesv1.CertificateSigningRequest) { r.Spec.Username = user }))(f)
		for _, r := range check.Cluster(f) {
			if r.Name == "static-tokens" && r.Status != want {
				t.Errorf("a CSR of %s is %+v", user, r)
			}
		}
	}
}

// The objects of the component are those that it has.
func TestKubeadmObjects(t *testing.T) {
	content := string(nodetest.Must(os.ReadFile("../../config/components/kubeadm/kubeadm.yaml")))
	var found []string
	for _, doc := range strings.Split(content, "\n---\n") {
		var o metav1.PartialObjectMetadata
		if err := yaml.Unmarshal([]byte(doc), &o); err != nil {
			t.Fatal(err)
		}
		if o.Name != check.KubeadmName {
			t.Errorf("%s has the name %s", o.Kind, o.Name)
		}
		found = append(found, o.Kind+" "+o.Namespace)
	}
	for _, o := range check.KubeadmObjects {
		if !slices.Contains(found, o.Kind+" "+o.Namespace) {
			t.Errorf("the component has no %s", o.Kind)
		}
	}
	if len(found) != len(check.KubeadmObjects) {
		t.Errorf("the component has %q", found)
	}
}
