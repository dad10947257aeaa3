// SPDX-License-Identifier: Apache-2.0

package check

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/duration"
	utilversion "k8s.io/apimachinery/pkg/util/version"
	bootstrapapi "k8s.io/cluster-bootstrap/token/api"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/internal/csr"
	"github.com/nodebootstrap/nodebootstrap/internal/rbac"
	"github.com/nodebootstrap/nodebootstrap/internal/token"
)

// The versions of Kubernetes of docs/install.md: the oldest one that serves what the operator uses, and those that the tests run on.
var (
	oldestKubernetes = utilversion.MajorMinor(1, 30)
	testedFrom       = utilversion.MajorMinor(1, 35)
	testedTo         = utilversion.MajorMinor(1, 37)
)

func kubernetesVersion(f *Facts) []Result {
	v, err := utilversion.ParseGeneric(f.Kubernetes)
	if err != nil {
		return warning("", "not checked: %q is not a version", f.Kubernetes)
	}
	minor := utilversion.MajorMinor(v.Major(), v.Minor())
	switch {
	case minor.LessThan(oldestKubernetes):
		return failed("kubeadm upgrade plan   # on a control-plane machine", "%s is older than %s, the oldest that all parts of the operator work with", f.Kubernetes, oldestKubernetes)
	case minor.LessThan(testedFrom) || testedTo.LessThan(minor):
		return warning("", "%s: the operator is tested with %s to %s", f.Kubernetes, testedFrom, testedTo)
	}
	return passed("%s", f.Kubernetes)
}

// A kubelet fails with an API server's certificate that is not valid yet, and the script of join refuses a clock that is five minutes late.
const (
	clockWarning = 10 * time.Second
	clockWrong   = 5 * time.Minute
)

func clock(f *Facts) []Result {
	// The time of the API server is cut to the second.
	apart := f.Now.Sub(f.ServerTime).Abs().Truncate(time.Second)
	const fix = "timedatectl set-ntp true   # on the machine whose clock is wrong"
	switch {
	case apart >= clockWrong:
		return failed(fix, "this machine's clock and that of the API server are %s apart", duration.HumanDuration(apart))
	case apart >= clockWarning:
		return warning(fix, "this machine's clock and that of the API server are %s apart", duration.HumanDuration(apart))
	}
	return passed("this machine and the API server have the same time, to the second or so")
}

func permissions(f *Facts) []Result {
	var denied []string
	for _, p := range f.Permissions {
		if p.Allowed.Err != nil {
			return unread(p.Allowed.Err)
		}
		if !p.Allowed.Value {
			denied = append(denied, p.What)
		}
	}
	if len(denied) > 0 {
		return failed("kubectl nodebootstrap check --pre --context ADMIN   # and install as a cluster-admin", "you cannot install the operator, since you may not %s", strings.Join(denied, ", "))
	}
	return passed("you may create all that an installation has")
}

// tokenFlag enables bootstrap tokens in kube-apiserver.
const tokenFlag = "--enable-bootstrap-token-auth"

func tokenAuthentication(f *Facts) []Result {
	const fix = "on each control-plane machine, add " + tokenFlag + "=true to the flags of kube-apiserver (kubeadm: /etc/kubernetes/manifests/kube-apiserver.yaml)"
	if f.NodeBootstraps.Err != nil {
		return unread(f.NodeBootstraps.Err)
	}
	for _, nb := range f.NodeBootstraps.Value {
		ready := meta.FindStatusCondition(nb.Status.Conditions, v1alpha1.ConditionReady)
		if ready != nil && ready.Reason == v1alpha1.ReasonTokensNotAccepted {
			return failed(fix, "the API server does not accept the token of %s: %s", nb.Name, ready.Message)
		}
	}
	for _, nb := range f.NodeBootstraps.Value {
		if meta.IsStatusConditionTrue(nb.Status.Conditions, v1alpha1.ConditionCredentialsAvailable) {
			return passed("the API server accepts the token of %s", nb.Name)
		}
	}
	return flagOfAPIServer(f, fix)
}

// flagOfAPIServer judges by the flags of kube-apiserver, which only kubeadm's clusters and the like show.
func flagOfAPIServer(f *Facts, fix string) []Result {
	if f.APIServers.Err != nil {
		return unread(f.APIServers.Err)
	}
	for _, pod := range f.APIServers.Value {
		for _, c := range pod.Spec.Containers {
			args := slices.Concat(c.Command, c.Args)
			if !slices.Contains(args, tokenFlag+"=true") && !slices.Contains(args, tokenFlag) {
				return failed(fix, "the Pod %s runs without %s=true", pod.Name, tokenFlag)
			}
		}
	}
	if len(f.APIServers.Value) > 0 {
		return passed("kube-apiserver runs with %s=true", tokenFlag)
	}
	return skipped("unknown until a NodeBootstrap has a token: the flags of kube-apiserver, which needs %s=true, are not visible", tokenFlag)
}

// byBinding matches the authorizer's reason for an allowed review.
var byBinding = regexp.MustCompile(`ClusterRoleBinding "([^"]+)"`)

func approval(f *Facts) []Result {
	switch {
	case f.Bypass.Err != nil:
		return unread(f.Bypass.Err)
	case !f.Bypass.Value.Open:
		return passed("nothing else approves the CSRs of the operator's tokens")
	}
	var fixes []string
	for _, why := range f.Bypass.Value.Why {
		if m := byBinding.FindStringSubmatch(why); m != nil {
			fixes = append(fixes, f.remove(m[1]))
		}
	}
	return failed(strings.Join(fixes, "\n"), "kube-controller-manager approves the CSRs of the operator's tokens, whatever the name: %s", strings.Join(f.Bypass.Value.Why, "; "))
}

// remove deletes a binding, unless it is also for others than bootstrap tokens.
func (f *Facts) remove(binding string) string {
	i := slices.IndexFunc(f.Bindings.Value, func(b rbacv1.ClusterRoleBinding) bool { return b.Name == binding })
	if i < 0 || slices.ContainsFunc(f.Bindings.Value[i].Subjects, func(s rbacv1.Subject) bool { return !isBootstrapper(s) }) {
		return "kubectl edit clusterrolebinding " + binding + "   # and remove the groups of bootstrap tokens"
	}
	return "kubectl delete clusterrolebinding " + binding
}

func isBootstrapper(s rbacv1.Subject) bool {
	return strings.HasPrefix(s.Name, bootstrapapi.BootstrapDefaultGroup) || strings.HasPrefix(s.Name, bootstrapapi.BootstrapUserPrefix)
}

func renewal(f *Facts) []Result {
	if f.Bindings.Err != nil {
		return unread(f.Bindings.Err)
	}
	role := rbac.Binding(rbac.BindingApproveRenewals).RoleRef.Name
	fix := "kubectl create clusterrolebinding approve-kubelet-renewals --group=system:nodes --clusterrole=" + role
	ours := false
	for _, b := range f.Bindings.Value {
		switch {
		case b.RoleRef.Name != role || !slices.ContainsFunc(b.Subjects, func(s rbacv1.Subject) bool { return s.Kind == rbacv1.GroupKind && s.Name == "system:nodes" }):
		case rbac.Ours(&b):
			ours = true
		default:
			return passed("the ClusterRoleBinding %s lets nodes renew their certificates, with and without the operator", b.Name)
		}
	}
	if !ours && len(f.NodeBootstraps.Value) > 0 {
		return failed(fix, "nothing lets nodes renew their certificates: each node is lost when its certificate expires. The operator's ClusterRoleBinding %s does not exist",
			rbac.BindingApproveRenewals)
	}
	return warning(fix, "nodes can renew their certificates only while there is a NodeBootstrap: nothing but the operator lets them, and its ClusterRoleBinding goes with the last one")
}

// signerPatience is how long an approved CSR may have no certificate, as for the condition Ready.
const signerPatience = time.Minute

func signer(f *Facts) []Result {
	const fix = "kubectl get pods -n kube-system -l component=kube-controller-manager   # it needs --cluster-signing-cert-file and --cluster-signing-key-file; its log says why it does not sign"
	if f.Requests.Err != nil {
		return unread(f.Requests.Err)
	}
	issued := 0
	for i := range f.Requests.Value {
		r := &f.Requests.Value[i]
		at, approved := csr.ApprovedAt(r)
		switch {
		case !csr.MayDecide(r.Spec.SignerName) || !approved:
		case csr.Issued(r):
			issued++
		case csr.Condition(r, certificatesv1.CertificateFailed) == nil && f.ServerTime.Sub(at.Time) > signerPatience:
			return failed(fix, "kube-controller-manager does not sign: the CSR %s was approved %s ago and has no certificate", r.Name, age(f, at.Time))
		}
	}
	if l := f.Signer.Value; l != nil && holder(l) != "" && !f.ServerTime.Before(heldUntil(l)) {
		return failed(fix, "kube-controller-manager does not run: it renewed its Lease last %s ago", age(f, l.Spec.RenewTime.Time))
	}
	switch {
	case issued > 0:
		return passed("%d approved CSRs of nodes have their certificate", issued)
	case f.Signer.Value != nil:
		return passed("kube-controller-manager runs. No certificate of a node was issued lately")
	}
	return skipped("nothing shows yet whether it works: no certificate of a node was issued lately")
}

func staticTokens(f *Facts) []Result {
	if err := first(f.Requests.Err, f.Bindings.Err); err != nil {
		return unread(err)
	}
	groups := []string{bootstrapapi.BootstrapDefaultGroup}
	for _, b := range f.Bindings.Value {
		if b.RoleRef.Name != rbac.Binding(rbac.BindingCreateCSRs).RoleRef.Name {
			continue
		}
		for _, s := range b.Subjects {
			if s.Kind == rbacv1.GroupKind && s.Name != "system:authenticated" {
				groups = append(groups, s.Name)
			}
		}
	}
	for i := range f.Requests.Value {
		r := &f.Requests.Value[i]
		if isStatic(r, groups) {
			return warning("remove --token-auth-file from kube-apiserver, in the order of docs/migrating.md#from-a-static-token-file",
				"the user %q, who is no bootstrap token, sent the CSR %s for a kubelet's certificate %s ago: a token of a static token file, which can become any node, is still in use",
				r.Spec.Username, r.Name, age(f, r.CreationTimestamp.Time))
		}
	}
	return passed("no CSR of the last hours was sent with the token of a static token file")
}

// isStatic reports whether a CSR for a kubelet's certificate was sent by a user who is no bootstrap token, no node and no ServiceAccount, and
// is in one of these groups.
func isStatic(r *certificatesv1.CertificateSigningRequest, groups []string) bool {
	return r.Spec.SignerName == certificatesv1.KubeAPIServerClientKubeletSignerName &&
		!slices.ContainsFunc([]string{bootstrapapi.BootstrapUserPrefix, "system:node:", "system:serviceaccount:"}, func(prefix string) bool {
			return strings.HasPrefix(r.Spec.Username, prefix)
		}) &&
		slices.ContainsFunc(r.Spec.Groups, func(g string) bool { return slices.Contains(groups, g) })
}

// KubeadmObjects are those of the component kubeadm. All have the same name.
var KubeadmObjects = []struct{ Kind, Namespace string }{
	{"Role", metav1.NamespaceSystem}, {"RoleBinding", metav1.NamespaceSystem},
	{"Role", metav1.NamespacePublic}, {"RoleBinding", metav1.NamespacePublic},
	{"ClusterRole", ""}, {"ClusterRoleBinding", ""},
}

// KubeadmName is the name of the objects of the component kubeadm.
const KubeadmName = "nodebootstrap-kubeadm-join"

func kubeadmJoin(f *Facts) []Result {
	switch {
	case f.IsKubeadm.Err != nil:
		return unread(f.IsKubeadm.Err)
	case !f.IsKubeadm.Value:
		return skipped("this is not a cluster of kubeadm: there is no ConfigMap kube-system/kubeadm-config")
	case f.KubeadmMissing.Err != nil:
		return unread(f.KubeadmMissing.Err)
	case len(f.KubeadmMissing.Value) > 0:
		return warning("kubectl apply -k config/components/kubeadm", "kubeadm join fails with a published kubeconfig: the component kubeadm lacks its %s. Apply it in a clone, in the chart by kubeadm.enabled=true. "+
			"kubectl nodebootstrap join and sign do not need it", strings.Join(f.KubeadmMissing.Value, ", "))
	}
	return passed("the %d objects exist that kubeadm join needs with a published kubeconfig", len(KubeadmObjects))
}

// InstallVerbs are what an installation does, for each kind of object.
var InstallVerbs = []struct{ Verb, Group, Resource, Namespace string }{
	{"create", "", "namespaces", ""},
	{"create", "apiextensions.k8s.io", "customresourcedefinitions", ""},
	{"create", rbacv1.GroupName, "clusterroles", ""},
	{"escalate", rbacv1.GroupName, "clusterroles", ""},
	{"create", rbacv1.GroupName, "clusterrolebindings", ""},
	{"bind", rbacv1.GroupName, "clusterroles", ""},
	{"create", rbacv1.GroupName, "rolebindings", token.Namespace},
	{"create", rbacv1.GroupName, "roles", token.Namespace},
	{"create", "apps", "deployments", "nodebootstrap-system"},
}

// String of a verb, as in a message.
func verbText(verb, resource, namespace string) string {
	if namespace != "" {
		return fmt.Sprintf("%s %s in %s", verb, resource, namespace)
	}
	return verb + " " + resource
}

// NewPermission is what an installation needs, and the answer of the API server.
func NewPermission(verb, resource, namespace string, allowed bool, err error) Permission {
	return Permission{What: verbText(verb, resource, namespace), Allowed: Read[bool]{allowed, err}}
}
