// SPDX-License-Identifier: Apache-2.0

package node

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"net"
	"testing"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	certutil "k8s.io/client-go/util/cert"
	clocktesting "k8s.io/utils/clock/testing"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/controllers/apiserver"
	"github.com/nodebootstrap/nodebootstrap/controllers/bypass"
	"github.com/nodebootstrap/nodebootstrap/controllers/objects"
	"github.com/nodebootstrap/nodebootstrap/controllers/writes"
	"github.com/nodebootstrap/nodebootstrap/internal/csr"
	"github.com/nodebootstrap/nodebootstrap/internal/lifecycle"
	"github.com/nodebootstrap/nodebootstrap/internal/status"
)

// indexed adds the operator's indexes to a fake client.
type indexed struct{ *fake.ClientBuilder }

func (i indexed) IndexField(_ context.Context, o client.Object, field string, values client.IndexerFunc) error {
	i.WithIndex(o, field, values)
	return nil
}

// An approval depends on the objects at the time it is sent, not when the decision was made: a NodeBootstrap or the API
// server's address may have changed in between. Only the node's own spec was checked again.
func TestServingApprovalRestsOnWhatIsThere(t *testing.T) {
	const name, host, ip = "worker-1", "lb.example", "192.0.2.7"
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	// Nobody checks a CA that is set explicitly.
	ca, err := certutil.NewSelfSignedCACert(certutil.Config{CommonName: "a CA"}, key)
	if err != nil {
		t.Fatal(err)
	}
	wanted := func(uid types.UID) *v1alpha1.NodeBootstrap {
		nb := &v1alpha1.NodeBootstrap{ObjectMeta: metav1.ObjectMeta{Name: name, UID: uid}}
		nb.Spec.ServingCertificate.Addresses = []string{name, host, ip}
		nb.Spec.Cluster.CABundle = string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: ca.Raw}))
		return nb
	}
	other := func(edit func(*v1alpha1.NodeBootstrap)) func(context.Context, client.Client) error {
		return func(ctx context.Context, c client.Client) error {
			nb := &v1alpha1.NodeBootstrap{ObjectMeta: metav1.ObjectMeta{Name: "worker-2"}}
			edit(nb)
			return c.Create(ctx, nb)
		}
	}
	own := func(edit func(*v1alpha1.NodeBootstrap)) func(context.Context, client.Client) error {
		return func(ctx context.Context, c client.Client) error {
			var nb v1alpha1.NodeBootstrap
			if err := c.Get(ctx, client.ObjectKey{Name: name}, &nb); err != nil {
				return err
			}
			edit(&nb)
			return c.Update(ctx, &nb)
		}
	}
	replaced := func(uid types.UID) func(context.Context, client.Client) error {
		return func(ctx context.Context, c client.Client) error {
			nb := &v1alpha1.NodeBootstrap{ObjectMeta: metav1.ObjectMeta{Name: name}}
			if err := c.Delete(ctx, nb); err != nil || uid == "" {
				return err
			}
			return c.Create(ctx, wanted(uid))
		}
	}
	create := func(o client.Object) func(context.Context, client.Client) error {
		return func(ctx context.Context, c client.Client) error {
			return c.Create(ctx, o.DeepCopyObject().(client.Object))
		}
	}
	kubernetes := metav1.ObjectMeta{Namespace: metav1.NamespaceDefault, Name: "kubernetes"}
	var certificates *apiserver.Certificates
	for what, tt := range map[string]struct {
		meanwhile func(context.Context, client.Client) error
		approved  bool
	}{
		"the API server's certificate": {func(context.Context, client.Client) error {
			certificates.Observe([]*x509.Certificate{{Raw: []byte("a"), DNSNames: []string{"*.another.example", host}, NotAfter: time.Now().Add(time.Hour)}})
			return nil
		}, false},
		"nothing":                      {func(context.Context, client.Client) error { return nil }, true},
		"its server becomes that host": {own(func(nb *v1alpha1.NodeBootstrap) { nb.Spec.Cluster.Server = "https://LB.example.:6443" }), false},
		"its server was that host":     {own(func(nb *v1alpha1.NodeBootstrap) { nb.Status.APIServerHosts = []string{host} }), false},
		"its kubeconfig has that host": {own(func(nb *v1alpha1.NodeBootstrap) { nb.Status.Server = "https://" + host }), false},
		"it declares less":             {own(func(nb *v1alpha1.NodeBootstrap) { nb.Spec.ServingCertificate.Addresses = []string{name, host} }), false},
		"it declares more": {own(func(nb *v1alpha1.NodeBootstrap) {
			nb.Spec.ServingCertificate.Addresses = append(nb.Spec.ServingCertificate.Addresses, "x")
		}), true},
		"it is deleted":        {replaced(""), false},
		"it is created again":  {replaced("another-uid"), false},
		"and that is the same": {replaced("the-uid"), true},
		"an alarm": {own(func(nb *v1alpha1.NodeBootstrap) {
			meta.SetStatusCondition(&nb.Status.Conditions, metav1.Condition{Type: v1alpha1.ConditionTokenMisused, Status: metav1.ConditionTrue, Reason: "WrongSubject"})
		}), false},
		"another node reaches the API server there": {other(func(nb *v1alpha1.NodeBootstrap) { nb.Spec.Cluster.Server = "https://" + host + ":6443" }), false},
		"another node reached it there":             {other(func(nb *v1alpha1.NodeBootstrap) { nb.Status.APIServerHosts = []string{host} }), false},
		"another node has the kubeconfig":           {other(func(nb *v1alpha1.NodeBootstrap) { nb.Status.Server = "https://" + ip }), false},
		"another node declares it":                  {other(func(nb *v1alpha1.NodeBootstrap) { nb.Spec.ServingCertificate.Addresses = []string{host} }), false},
		"another node":                              {other(func(nb *v1alpha1.NodeBootstrap) { nb.Spec.Cluster.Server = "https://lb2.example" }), true},
		"cluster-info": {create(&corev1.ConfigMap{
			ObjectMeta: metav1.ObjectMeta{Namespace: metav1.NamespacePublic, Name: "cluster-info"},
			Data:       map[string]string{"kubeconfig": "clusters: [{name: a, cluster: {server: 'https://a.example'}}, {name: b, cluster: {server: 'https://lb.example'}}]"},
		}), false},
		"the Service":             {create(&corev1.Service{ObjectMeta: kubernetes, Spec: corev1.ServiceSpec{ExternalIPs: []string{ip}}}), false},
		"the Service's own IP":    {create(&corev1.Service{ObjectMeta: kubernetes, Spec: corev1.ServiceSpec{ClusterIP: ip}}), false},
		"the Service's balancer":  {create(&corev1.Service{ObjectMeta: kubernetes, Status: corev1.ServiceStatus{LoadBalancer: ingress(corev1.LoadBalancerIngress{IP: ip})}}), false},
		"the balancer's name":     {create(&corev1.Service{ObjectMeta: kubernetes, Status: corev1.ServiceStatus{LoadBalancer: ingress(corev1.LoadBalancerIngress{Hostname: host})}}), false},
		"the Service's CNAME":     {create(&corev1.Service{ObjectMeta: kubernetes, Spec: corev1.ServiceSpec{ExternalName: host}}), false},
		"the Service's endpoints": {create(&discoveryv1.EndpointSlice{ObjectMeta: kubernetes, Endpoints: []discoveryv1.Endpoint{{Addresses: []string{"192.0.2.9", ip}}}}), false},
	} {
		t.Run(what, func(t *testing.T) {
			certificates = apiserver.NewCertificates(clocktesting.NewFakePassiveClock(time.Now()))
			subject := &pkix.Name{Organization: []string{"system:nodes"}, CommonName: "system:node:" + name}
			text, err := certutil.MakeCSR(key, subject, []string{name, host}, []net.IP{net.ParseIP(ip)})
			if err != nil {
				t.Fatal(err)
			}
			request := &certificatesv1.CertificateSigningRequest{
				ObjectMeta: metav1.ObjectMeta{Name: "csr-a", UID: "csr-a"},
				Spec: certificatesv1.CertificateSigningRequestSpec{
					Request: text, SignerName: certificatesv1.KubeletServingSignerName,
					Username: "system:node:" + name, Groups: []string{"system:nodes", "system:authenticated"},
					Usages: []certificatesv1.KeyUsage{certificatesv1.UsageDigitalSignature, certificatesv1.UsageServerAuth},
				},
			}
			scheme, err := objects.NewScheme()
			if err != nil {
				t.Fatal(err)
			}
			approved := false
			builder := fake.NewClientBuilder().WithScheme(scheme).WithObjects(wanted("the-uid"), request).WithInterceptorFuncs(interceptor.Funcs{
				SubResourceUpdate: func(context.Context, client.Client, string, client.Object, ...client.SubResourceUpdateOption) error {
					approved = true
					return nil
				},
			})
			if err := objects.AddIndexes(t.Context(), indexed{builder}); err != nil {
				t.Fatal(err)
			}
			c := builder.Build()
			r := &Reconciler{Writes: &writes.Limits{}, Client: c, Uncached: c, Clock: clocktesting.NewFakePassiveClock(time.Now()), Recorder: noEvents{},
				Discovery: &Discovery{Reader: c, Namespace: "ns", Server: "https://api.example", Certificates: certificates}}
			r.Detector = bypass.NewDetector(c, r.Clock)
			f, err := r.gather(t.Context(), name)
			if err == nil {
				err = r.gatherCluster(t.Context(), f)
			}
			if err != nil {
				t.Fatal(err)
			}
			p := &lifecycle.Plan{Decisions: []lifecycle.Decision{{Request: f.ServingRequests[0], Result: csr.Result{Verdict: csr.Approve}}}}
			if err := tt.meanwhile(t.Context(), c); err != nil {
				t.Fatal(err)
			}
			if err := r.approve(t.Context(), f, p, &status.Outcome{}); err != nil {
				t.Fatal(err)
			}
			if approved != tt.approved {
				t.Errorf("approved: %t, want %t", approved, tt.approved)
			}
		})
	}
}

func ingress(i corev1.LoadBalancerIngress) corev1.LoadBalancerStatus {
	return corev1.LoadBalancerStatus{Ingress: []corev1.LoadBalancerIngress{i}}
}
