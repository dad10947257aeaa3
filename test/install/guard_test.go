// SPDX-License-Identifier: Apache-2.0

package install

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"

	authenticationv1 "k8s.io/api/authentication/v1"
	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/hack/localcluster/operator"
	"github.com/nodebootstrap/nodebootstrap/internal/kubeconfig"
	"github.com/nodebootstrap/nodebootstrap/internal/owned"
	"github.com/nodebootstrap/nodebootstrap/internal/token"
	"github.com/nodebootstrap/nodebootstrap/test/env"
)

// ask sends a kubelet's CSR for a node.
func ask(t *testing.T, cfg *rest.Config, node string) *certificatesv1.CertificateSigningRequest {
	t.Helper()
	request, err := env.KubeletRequest(node)
	env.Must(t, err)
	clients, err := kubernetes.NewForConfig(cfg)
	env.Must(t, err)
	// The authorizer may see the binding that permits CSRs a moment later.
	env.Eventually(t, "sending a request", func() error {
		sent, err := clients.CertificatesV1().CertificateSigningRequests().Create(t.Context(), request, metav1.CreateOptions{})
		if err == nil {
			request = sent
		}
		return err
	})
	t.Cleanup(func() { cluster.DeleteAfter(t, request) })
	return request
}

// askFor sends the CSR of a node whose NodeBootstrap has an approval.
func askFor(t *testing.T, name string, approval v1alpha1.Approval) *certificatesv1.CertificateSigningRequest {
	t.Helper()
	nb := cluster.NodeBootstrap(name)
	nb.Spec.ClientCertificate.Approval = approval
	cluster.Create(t, nb)
	_, kubeconfig := cluster.WaitAwaited(t, name)
	cfg, err := clientcmd.RESTConfigFromKubeConfig(kubeconfig)
	env.Must(t, err)
	return ask(t, cfg, name)
}

// askAsStranger sends the CSR of a kubelet without a token, which nobody approves.
func askAsStranger(t *testing.T) *certificatesv1.CertificateSigningRequest {
	t.Helper()
	const user = "stranger"
	cluster.Create(t, env.Binding(user, "system:node-bootstrapper", rbacv1.UserKind, user))
	cfg, err := cluster.ConfigFor(user)
	env.Must(t, err)
	return ask(t, cfg, user)
}

// textbook lets kube-controller-manager approve any name for any bootstrap token, as many guides do.
func textbook(t *testing.T) {
	t.Helper()
	cluster.Create(t, env.Binding("textbook", "system:certificates.k8s.io:certificatesigningrequests:nodeclient", rbacv1.GroupKind, "system:bootstrappers"))
}

// With the textbook binding kube-controller-manager would approve at once a CSR that waits for a person. It tries and is
// refused; the person is not.
func TestGuardHoldsTheTextbookBinding(t *testing.T) {
	textbook(t)
	request := askFor(t, "guarded", v1alpha1.ApprovalManual)
	env.Eventually(t, "the refusal of kube-controller-manager", func() error {
		log, err := os.ReadFile(filepath.Join(cluster.LogDir(), "kube-controller-manager.log"))
		if err == nil && !bytes.Contains(log, []byte("may not approve what a token of nodebootstrap asks for")) {
			err = errors.New("its log does not say so")
		}
		return err
	})
	cluster.Get(t, "", request.Name, request)
	if len(request.Status.Conditions) > 0 {
		t.Fatalf("the request is decided on: %+v", request.Status.Conditions)
	}
	if _, err := operator.Kubectl(t.Context(), cluster.Cluster, "certificate", "approve", request.Name); err != nil {
		t.Fatal(err)
	}
	cluster.WaitCertificate(t, request)
}

// A CSR with approval ClusterWide is approved by kube-controller-manager.
func TestGuardLeavesClusterWideAlone(t *testing.T) {
	cluster.WaitCertificate(t, askFor(t, "unguarded", v1alpha1.ApprovalClusterWide))
}

func TestGuardByUser(t *testing.T) {
	request := askFor(t, "judged", v1alpha1.ApprovalManual)
	stranger := askAsStranger(t)
	with := func(r *certificatesv1.CertificateSigningRequest, c certificatesv1.RequestConditionType) *certificatesv1.CertificateSigningRequest {
		r = r.DeepCopy()
		r.Status.Conditions = []certificatesv1.CertificateSigningRequestCondition{{Type: c, Status: corev1.ConditionTrue, Reason: "Test"}}
		return r
	}
	for user, may := range map[string]bool{
		"jane":               true,
		"system:admin":       true,
		"oidc:jane@corp.com": true,
		"system:serviceaccount:" + operator.Namespace + ":" + operator.ServiceAccount: true,
		"system:kube-controller-manager":                                              false,
		"system:serviceaccount:kube-system:certificate-controller":                    false,
		"system:serviceaccount:" + operator.Namespace + ":default":                    false,
		"system:serviceaccount:default:" + operator.ServiceAccount:                    false,
		"system:node:worker-1":                                                        false,
		request.Spec.Username:                                                         false,
	} {
		t.Run(user, func(t *testing.T) {
			c := as(t, user) // RBAC allows everybody here to approve
			decide := func(r *certificatesv1.CertificateSigningRequest) func() error {
				return func() error { return c.SubResource("approval").Update(t.Context(), r.DeepCopy()) }
			}
			approve := decide(with(request, certificatesv1.CertificateApproved))
			if may {
				allowed(t, approve)
			} else {
				refused(t, "nodebootstrap-guard", approve)
			}
			allowed(t, decide(with(request, certificatesv1.CertificateDenied)))
			if user != "system:serviceaccount:"+operator.Namespace+":"+operator.ServiceAccount {
				allowed(t, decide(with(stranger, certificatesv1.CertificateApproved)))
			}
		})
	}
}

const guardOfTokens = "nodebootstrap-guard-tokens"

// A token can send a kubelet's CSR, but none that outlives its deletion or that another signer's approver may approve.
func TestGuardOfWhatTokensAskFor(t *testing.T) {
	request := askFor(t, "asks", v1alpha1.ApprovalManual)
	var secret corev1.Secret
	cluster.Get(t, "nodebootstrap-system", owned.KubeconfigSecretName("asks"), &secret)
	cfg, err := clientcmd.RESTConfigFromKubeConfig(secret.Data[kubeconfig.Key])
	env.Must(t, err)
	asToken, err := dryRun(cfg)
	env.Must(t, err)
	good := func() *certificatesv1.CertificateSigningRequest {
		return &certificatesv1.CertificateSigningRequest{
			ObjectMeta: metav1.ObjectMeta{GenerateName: "csr-"},
			Spec:       certificatesv1.CertificateSigningRequestSpec{Request: request.Spec.Request, SignerName: request.Spec.SignerName, Usages: request.Spec.Usages},
		}
	}
	labelled := good()
	labelled.Labels, labelled.Annotations = map[string]string{"a": "b"}, map[string]string{"a": "b"} // as by an admission policy
	for _, r := range []*certificatesv1.CertificateSigningRequest{good(), labelled} {
		allowed(t, func() error { return asToken.Create(t.Context(), r.DeepCopy()) })
	}
	signer := func(name string, usages ...certificatesv1.KeyUsage) func(*certificatesv1.CertificateSigningRequest) {
		return func(r *certificatesv1.CertificateSigningRequest) { r.Spec.SignerName, r.Spec.Usages = name, usages }
	}
	for name, spoil := range map[string]func(*certificatesv1.CertificateSigningRequest){
		"a finalizer": func(r *certificatesv1.CertificateSigningRequest) { r.Finalizers = []string{"example.com/stay"} },
		"an owner": func(r *certificatesv1.CertificateSigningRequest) {
			r.OwnerReferences = []metav1.OwnerReference{{APIVersion: "v1", Kind: "Node", Name: "a", UID: "a"}}
		},
		"the signer of people":               signer(certificatesv1.KubeAPIServerClientSignerName, certificatesv1.UsageClientAuth),
		"the signer of serving certificates": signer(certificatesv1.KubeletServingSignerName, certificatesv1.UsageServerAuth),
		"a signer of this cluster":           signer("example.com/signer", certificatesv1.UsageClientAuth),
	} {
		t.Run(name, func(t *testing.T) {
			r := good()
			spoil(r)
			refused(t, guardOfTokens, func() error { return asToken.Create(t.Context(), r.DeepCopy()) })
		})
	}
	t.Run("a review of who asks", func(t *testing.T) {
		clients, err := kubernetes.NewForConfig(cfg)
		env.Must(t, err)
		allowed(t, func() error {
			_, err := clients.AuthenticationV1().SelfSubjectReviews().Create(t.Context(), &authenticationv1.SelfSubjectReview{}, metav1.CreateOptions{})
			return err
		})
	})
}

// A token writes nothing but CSRs, whatever RBAC allows its groups.
func TestGuardOfWhatTokensWrite(t *testing.T) {
	request := askAsStranger(t)
	cluster.Create(t, env.Binding("generous", "cluster-admin", rbacv1.GroupKind, token.Group))
	cfg, err := cluster.ConfigFor("system:bootstrap:abcdef", "system:bootstrappers", token.Group)
	env.Must(t, err)
	c, err := dryRun(cfg)
	env.Must(t, err)
	clients, err := kubernetes.NewForConfig(cfg)
	env.Must(t, err)
	ctx := t.Context()
	labelled := client.RawPatch("application/merge-patch+json", []byte(`{"metadata":{"labels":{"a":"b"}}}`))
	for name, act := range map[string]func() error{
		"Node": func() error {
			return c.Create(ctx, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "a"}})
		},
		"ConfigMap": func() error {
			return c.Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: metav1.NamespaceDefault, Name: "a"}})
		},
		"NodeBootstrap": func() error { // without anything that nodebootstrap-limits refuses, which may answer first
			return c.Create(ctx, &v1alpha1.NodeBootstrap{ObjectMeta: metav1.ObjectMeta{Name: "a"}})
		},
		"request changed": func() error { return c.Patch(ctx, request.DeepCopy(), labelled) },
		"request deleted": func() error { return c.Delete(ctx, request.DeepCopy()) },
		"request approved": func() error {
			return c.SubResource("approval").Update(ctx, request.DeepCopy())
		},
		"connection": func() error {
			return clients.CoreV1().RESTClient().Get().Namespace(metav1.NamespaceDefault).Resource("services").Name("kubernetes").SubResource("proxy").Do(ctx).Error()
		},
	} {
		t.Run(name, func(t *testing.T) { refused(t, guardOfTokens, act) })
	}
}
