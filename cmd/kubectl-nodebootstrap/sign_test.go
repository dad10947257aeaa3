// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509/pkix"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
	certutil "k8s.io/client-go/util/cert"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/internal/csr"
	"github.com/nodebootstrap/nodebootstrap/internal/kubeconfig"
	"github.com/nodebootstrap/nodebootstrap/internal/token"
)

const certificateText = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"

func newKey(t *testing.T) crypto.Signer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// requestPEM returns a certificate request as a kubelet of a node makes it.
func requestPEM(t *testing.T, key crypto.Signer, node string, dnsNames ...string) []byte {
	t.Helper()
	request, err := certutil.MakeCSR(key, &pkix.Name{Organization: []string{"system:nodes"}, CommonName: "system:node:" + node}, dnsNames, nil)
	if err != nil {
		t.Fatal(err)
	}
	return request
}

// renderedSecret returns the Secret as the operator creates it.
func renderedSecret(t *testing.T) *corev1.Secret {
	t.Helper()
	nb := awaiting()
	made, err := kubeconfig.NewSecret(nb, namespace, kubeconfig.Cluster{Server: nb.Status.Server, CA: []byte("ca")},
		token.Token{ID: "abcdef", Secret: token.NewSecretPart(canary)})
	if err != nil {
		t.Fatal(err)
	}
	return made
}

// pins returns a change that pins a key.
func pins(fingerprint string) func(*v1alpha1.NodeBootstrap) {
	return func(nb *v1alpha1.NodeBootstrap) { nb.Spec.ClientCertificate.KeyFingerprint = fingerprint }
}

// signing is a command line that signs a request, and the cluster that answers it.
type signing struct {
	cluster cluster
	// request is given on standard input. By default it is a good one.
	request []byte
	// answer is what the operator and the signer do with the CSR when it is created; by default they issue the certificate.
	answer func(ctx context.Context, c client.Client, r *certificatesv1.CertificateSigningRequest) error
	// ctx is that of the command line; by default that of the test.
	ctx context.Context

	// patches, sent and tokens are what the command did.
	patches int
	sent    []certificatesv1.CertificateSigningRequest
	tokens  []string
	client  client.WithWatch
}

func (s *signing) execute(t *testing.T, args ...string) result {
	t.Helper()
	return s.command(t, append([]string{"sign", node, "--request", "-"}, args...)...)
}

// command runs a command line that signs a request.
func (s *signing) command(t *testing.T, args ...string) result {
	t.Helper()
	if s.request == nil {
		s.request = requestPEM(t, newKey(t), node)
	}
	if s.answer == nil {
		s.answer = issue
	}
	if s.ctx == nil {
		s.ctx = t.Context()
	}
	funcs := &s.cluster.funcs
	if patch := funcs.Patch; patch == nil {
		funcs.Patch = func(ctx context.Context, c client.WithWatch, o client.Object, patch client.Patch, opts ...client.PatchOption) error {
			s.patches++
			return c.Patch(ctx, o, patch, opts...)
		}
	}
	if funcs.Create == nil {
		funcs.Create = func(ctx context.Context, c client.WithWatch, o client.Object, opts ...client.CreateOption) error {
			if err := c.Create(ctx, o, opts...); err != nil {
				return err
			}
			r, ok := o.(*certificatesv1.CertificateSigningRequest)
			if !ok {
				return nil
			}
			s.sent = append(s.sent, *r.DeepCopy())
			return s.answer(ctx, c, r.DeepCopy())
		}
	}
	s.client = s.cluster.client(t)
	streams, in, out, errOut := genericiooptions.NewTestIOStreams()
	in.Write(s.request)
	cmd := newCommand(streams, func() (client.WithWatch, error) { return s.client, s.cluster.err },
		func(token string) (client.Client, error) {
			s.tokens = append(s.tokens, token)
			return s.client, nil
		})
	cmd.SetArgs(args)
	r := result{err: cmd.ExecuteContext(s.ctx)}
	r.out, r.errOut = out.String(), errOut.String()
	searchCanary(t, r, args)
	return r
}

func (s *signing) succeeds(t *testing.T, args ...string) result {
	t.Helper()
	r := s.execute(t, args...)
	if r.err != nil {
		t.Fatalf("%q failed: %v\n%s", args, r.err, r.errOut)
	}
	return r
}

// fails runs a command line that must fail and print nothing to standard output.
func (s *signing) fails(t *testing.T, args ...string) result {
	t.Helper()
	r := s.execute(t, args...)
	if r.err == nil || r.out != "" {
		t.Fatalf("%q: got %q and the error %v, want only an error", args, r.out, r.err)
	}
	return r
}

func (s *signing) fingerprint() string { return csr.EvaluateContent(s.request, node).KeyFingerprint }

func (s *signing) pinned(t *testing.T) string {
	t.Helper()
	nb, err := get(t.Context(), s.client, node)
	if err != nil {
		t.Fatal(err)
	}
	return nb.Spec.ClientCertificate.KeyFingerprint
}

func issue(ctx context.Context, c client.Client, r *certificatesv1.CertificateSigningRequest) error {
	r.Status.Conditions = append(r.Status.Conditions, certificatesv1.CertificateSigningRequestCondition{Type: certificatesv1.CertificateApproved})
	r.Status.Certificate = []byte(certificateText)
	return c.Status().Update(ctx, r)
}

// ignore leaves a CSR pending.
func ignore(context.Context, client.Client, *certificatesv1.CertificateSigningRequest) error {
	return nil
}

// sets returns an answer with a condition.
func sets(kind certificatesv1.RequestConditionType, reason, message string) func(context.Context, client.Client, *certificatesv1.CertificateSigningRequest) error {
	return func(ctx context.Context, c client.Client, r *certificatesv1.CertificateSigningRequest) error {
		r.Status.Conditions = append(r.Status.Conditions, certificatesv1.CertificateSigningRequestCondition{Type: kind, Reason: reason, Message: message})
		return c.Status().Update(ctx, r)
	}
}

func TestSign(t *testing.T) {
	s := signing{cluster: cluster{objects: []client.Object{awaiting(), renderedSecret(t)}}}
	r := s.succeeds(t)
	if r.out != certificateText {
		t.Errorf("got %q, want the certificate", r.out)
	}
	if got := s.pinned(t); got != s.fingerprint() || s.patches != 1 {
		t.Errorf("%s is pinned with %d patches, want %s with one", got, s.patches, s.fingerprint())
	}
	mention(t, "the error output", r.errOut, "Pinned the key "+s.fingerprint(), "Sent the request "+s.sent[0].Name)
	if want := []string{"abcdef." + canary}; !slices.Equal(s.tokens, want) {
		t.Errorf("the CSR was not sent with the node's token")
	}
	spec := s.sent[0].Spec
	if len(s.sent) != 1 || !strings.HasPrefix(s.sent[0].Name, "sign-") || spec.SignerName != certificatesv1.KubeAPIServerClientKubeletSignerName ||
		!bytes.Equal(spec.Request, s.request) || !slices.Equal(spec.Usages, []certificatesv1.KeyUsage{"client auth", "digital signature"}) {
		t.Errorf("these CSRs were sent: %+v", s.sent)
	}
}

// The pin is applied with a field manager of its own, for nothing else, to no other object of the name, and without force.
func TestSignAppliesOnlyThePin(t *testing.T) {
	s := signing{cluster: cluster{objects: []client.Object{awaiting(func(nb *v1alpha1.NodeBootstrap) { nb.UID = "a-uid" }), renderedSecret(t)}}}
	s.cluster.funcs.Patch = func(ctx context.Context, c client.WithWatch, o client.Object, patch client.Patch, opts ...client.PatchOption) error {
		data, err := patch.Data(o)
		want := `{"apiVersion":"nodebootstrap.io/v1alpha1","kind":"NodeBootstrap","metadata":{"name":"worker-1","uid":"a-uid"},` +
			`"spec":{"clientCertificate":{"keyFingerprint":"` + s.fingerprint() + `"}}}`
		if err != nil || string(data) != want || patch.Type() != types.ApplyPatchType {
			t.Errorf("got the patch %s of the type %s, want %s", data, patch.Type(), want)
		}
		options := (&client.PatchOptions{}).ApplyOptions(opts)
		if options.FieldManager != "kubectl-nodebootstrap-sign" || options.Force != nil {
			t.Errorf("got the options %+v", options)
		}
		return c.Patch(ctx, o, patch, opts...)
	}
	s.succeeds(t)
}

func TestSignWithRSA(t *testing.T) {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	s := signing{cluster: cluster{objects: []client.Object{awaiting(), renderedSecret(t)}}, request: requestPEM(t, key, node)}
	s.succeeds(t)
	if !slices.Contains(s.sent[0].Spec.Usages, certificatesv1.UsageKeyEncipherment) {
		t.Errorf("the usages are %v", s.sent[0].Spec.Usages)
	}
}

func TestSignWithFiles(t *testing.T) {
	dir := t.TempDir()
	request, certificate := filepath.Join(dir, "node.csr"), filepath.Join(dir, "node.crt")
	s := signing{cluster: cluster{objects: []client.Object{awaiting(), renderedSecret(t)}}}
	if err := os.WriteFile(request, requestPEM(t, newKey(t), node), 0o600); err != nil {
		t.Fatal(err)
	}
	r := s.succeeds(t, "--request", request, "--output-file", certificate)
	wantContent(t, certificate, certificateText)
	mention(t, "the error output", r.errOut, "Wrote the certificate to "+certificate)
	if r.out != "" {
		t.Errorf("printed %q to standard output too", r.out)
	}

	again := signing{cluster: cluster{funcs: failing(errors.New("asked the cluster first"))}}
	r = again.fails(t, "--request", request, "--output-file", certificate)
	mention(t, "the error", r.err.Error(), "already exists", "--overwrite")
}

// The kubeconfig has the certificate, the key's path and the published cluster, and no token.
func TestSignKubeconfig(t *testing.T) {
	published := renderedSecret(t)
	config, err := clientcmd.Load(published.Data[kubeconfig.Key])
	if err != nil {
		t.Fatal(err)
	}
	config.Clusters["kubernetes"].TLSServerName = "api.internal"
	config.AuthInfos["another"] = &clientcmdapi.AuthInfo{Token: "abcdef." + canary} // whoever adds it, it is not printed
	if published.Data[kubeconfig.Key], err = clientcmd.Write(*config); err != nil {
		t.Fatal(err)
	}
	for path, args := range map[string][]string{
		"/var/lib/kubelet/pki/node.key": {"--output", "kubeconfig"},
		"/etc/node.key":                 {"-o", "kubeconfig", "--key-path", "/etc/node.key"},
	} {
		s := signing{cluster: cluster{objects: []client.Object{awaiting(), published}}}
		got, err := clientcmd.Load([]byte(s.succeeds(t, args...).out))
		if err != nil {
			t.Fatal(err)
		}
		if len(got.AuthInfos) != 1 || len(got.Clusters) != 1 || len(got.Contexts) != 1 {
			t.Fatalf("got %+v", got)
		}
		of := got.Contexts[got.CurrentContext]
		user, server := got.AuthInfos[of.AuthInfo], got.Clusters[of.Cluster]
		if string(user.ClientCertificateData) != certificateText || user.ClientKey != path || user.Token != "" || user.ClientKeyData != nil {
			t.Errorf("the user is %+v", user)
		}
		if server.Server != "https://api.example.com:6443" || string(server.CertificateAuthorityData) != "ca" || server.TLSServerName != "api.internal" {
			t.Errorf("the cluster is %+v", server)
		}
	}
}

// A bad request is refused with the operator's message, before the command connects.
func TestSignBadRequest(t *testing.T) {
	good := requestPEM(t, newKey(t), node)
	small, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	utf8, err := os.ReadFile(filepath.Join("..", "..", "internal", "csr", "testdata", "openssl", "utf8.csr"))
	if err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		request []byte
		want    string
	}{
		"nothing":            {[]byte{}, csr.ReasonMalformed},
		"another node":       {requestPEM(t, newKey(t), "worker-2"), csr.ReasonWrongSubject},
		"names":              {requestPEM(t, newKey(t), node, "worker-1.example.com"), csr.ReasonUnexpectedAttributes},
		"small key":          {requestPEM(t, small, node), csr.ReasonWrongKey},
		"text before it":     {append([]byte("Certificate Request:\n"), good...), csr.ReasonMalformed},
		"two":                {slices.Concat(good, good), csr.ReasonMalformed},
		"too large":          {slices.Concat(good, make([]byte, 1<<20)), csr.ReasonTooLarge},
		"openssl's defaults": {utf8, csr.ReasonUnexpectedAttributes},
	} {
		t.Run(name, func(t *testing.T) {
			s := signing{request: tc.request, cluster: cluster{funcs: failing(errors.New("asked the cluster first"))}}
			operators := csr.EvaluateContent(tc.request, node)
			if operators.Reason != tc.want {
				t.Fatalf("the reason is %s, want %s", operators.Reason, tc.want)
			}
			mention(t, "the error", s.fails(t).err.Error(), "nothing was sent", operators.Reason+": "+operators.Message)
		})
	}
}

func TestSignWhatCannotBeSigned(t *testing.T) {
	for name, tc := range map[string]struct {
		cluster cluster
		want    []string
	}{
		"joined": {
			cluster{objects: []client.Object{awaiting(hasJoined)}},
			[]string{"worker-1 has joined already", "kubectl nodebootstrap reissue worker-1"},
		},
		"ClusterWide": {
			cluster{objects: []client.Object{awaiting(func(nb *v1alpha1.NodeBootstrap) {
				nb.Spec.ClientCertificate.Approval = v1alpha1.ApprovalClusterWide
			}), renderedSecret(t)}},
			[]string{"ClusterWide", "no key can be pinned"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := signing{cluster: tc.cluster}
			mention(t, "the error", s.fails(t).err.Error(), tc.want...)
			if s.patches != 0 || len(s.sent) != 0 {
				t.Errorf("%d patches and the CSRs %+v were sent", s.patches, s.sent)
			}
		})
	}
}

// A reissue that is pending is waited for.
func TestSignAfterReissue(t *testing.T) {
	s := signing{cluster: cluster{objects: []client.Object{awaiting(hasJoined, awaitsReissue), renderedSecret(t)}}}
	s.cluster.funcs.Watch = onWatch(func(ctx context.Context, c client.WithWatch) error {
		return put(ctx, c, awaiting(func(nb *v1alpha1.NodeBootstrap) { nb.Status.LastHandledReissueAt = "again" }))
	})
	if r := s.succeeds(t); r.out != certificateText {
		t.Errorf("got %q", r.out)
	}
}

// onWatch changes the cluster after the start of a watch.
func onWatch(change func(ctx context.Context, c client.WithWatch) error) func(context.Context, client.WithWatch, client.ObjectList, ...client.ListOption) (watch.Interface, error) {
	return func(ctx context.Context, c client.WithWatch, list client.ObjectList, opts ...client.ListOption) (watch.Interface, error) {
		w, err := c.Watch(ctx, list, opts...)
		if err != nil {
			return nil, err
		}
		return w, change(ctx, c)
	}
}

func TestSignPinnedKey(t *testing.T) {
	request := requestPEM(t, newKey(t), node)
	fingerprint := csr.EvaluateContent(request, node).KeyFingerprint
	// A thief's CSR raised the alarm. It is no reason to refuse the machine with the pinned key.
	s := signing{request: request, cluster: cluster{objects: []client.Object{awaiting(pins(fingerprint), isMisused), renderedSecret(t)}}}
	if r := s.succeeds(t); r.out != certificateText || s.patches != 0 {
		t.Errorf("got %q with %d patches, want the certificate and none", r.out, s.patches)
	}
}

func TestSignDoesNotReplaceAKey(t *testing.T) {
	other := "SHA256:" + strings.Repeat("0", 64)
	ownedByGit := func(context.Context, client.WithWatch, client.Object, client.Patch, ...client.PatchOption) error {
		return apierrors.NewConflict(nodeBootstraps, node, errors.New(`conflict with "flux": .spec.clientCertificate.keyFingerprint`))
	}
	lines := func(fingerprint string) string {
		return "\nspec:\n  clientCertificate:\n    keyFingerprint: " + fingerprint + "\n\n"
	}
	for name, tc := range map[string]struct {
		cluster cluster
		pinned  string
		want    string
	}{
		"another key is pinned": {cluster{objects: []client.Object{awaiting(pins(other)), renderedSecret(t)}}, other, "pins another key, " + other},
		"Git owns the field": {cluster{objects: []client.Object{awaiting(), renderedSecret(t)}, funcs: interceptor.Funcs{Patch: ownedByGit}}, "",
			`conflict with "flux"`},
	} {
		t.Run(name, func(t *testing.T) {
			s := signing{cluster: tc.cluster}
			r := s.fails(t)
			mention(t, "the error", r.err.Error(), tc.want, "--wait 10m")
			mention(t, "the error output", r.errOut, lines(s.fingerprint()), "kubectl patch nodebootstrap worker-1")
			if got := s.pinned(t); got != tc.pinned || len(s.sent) != 0 {
				t.Errorf("%q is pinned, and the CSRs %+v were sent", got, s.sent)
			}
		})
		t.Run(name+", and a commit follows", func(t *testing.T) {
			s := signing{cluster: tc.cluster, request: requestPEM(t, newKey(t), node)}
			s.cluster.funcs.Watch = onWatch(func(ctx context.Context, c client.WithWatch) error {
				nb, err := get(ctx, c, node)
				if err != nil {
					return err
				}
				pins(s.fingerprint())(nb)
				return c.Update(ctx, nb)
			})
			r := s.succeeds(t, "--wait", "1m")
			if r.out != certificateText || s.patches != 0 {
				t.Errorf("got %q with %d patches, want the certificate and none", r.out, s.patches)
			}
			mention(t, "the error output", r.errOut, lines(s.fingerprint()))
		})
		t.Run(name+", and no commit follows", func(t *testing.T) {
			s := signing{cluster: tc.cluster}
			mention(t, "the error", s.fails(t, "--wait", "20ms").err.Error(), "gave up after 20ms", "is not pinned yet")
			if len(s.sent) != 0 {
				t.Errorf("the CSRs %+v were sent", s.sent)
			}
		})
	}
}

// The key may be pinned before the operator has published the kubeconfig.
func TestSignWaitsForTheKubeconfig(t *testing.T) {
	s := signing{cluster: cluster{objects: []client.Object{awaiting(isReconciling), renderedSecret(t)}}}
	s.cluster.funcs.Watch = onWatch(func(ctx context.Context, c client.WithWatch) error { return put(ctx, c, awaiting()) })
	if r := s.succeeds(t); r.out != certificateText {
		t.Errorf("got %q", r.out)
	}

	never := signing{cluster: cluster{objects: []client.Object{awaiting(isReconciling)}}}
	mention(t, "the error", never.fails(t, "--wait", "20ms").err.Error(), "gave up after 20ms", "Verifying")
}

func TestSignErrors(t *testing.T) {
	unauthorized := apierrors.NewUnauthorized("Unauthorized")
	objects := []client.Object{awaiting(), renderedSecret(t)}
	failingRequest := failingGet[*certificatesv1.CertificateSigningRequest]
	for name, tc := range map[string]struct {
		s    signing
		want []string
	}{
		"denied": {
			signing{cluster: cluster{objects: objects}, answer: sets(certificatesv1.CertificateDenied, "KeyOfAnotherNode", "the operator's message")},
			[]string{"was denied: KeyOfAnotherNode: the operator's message"},
		},
		"failed": {
			signing{cluster: cluster{objects: objects}, answer: sets(certificatesv1.CertificateFailed, "SignerValidationFailure", "the signer's message")},
			[]string{"signing it failed: SignerValidationFailure: the signer's message"},
		},
		"deleted": {
			signing{cluster: cluster{objects: objects}, answer: func(ctx context.Context, c client.Client, r *certificatesv1.CertificateSigningRequest) error {
				return c.Delete(ctx, r)
			}},
			[]string{"was deleted", "run the command again"},
		},
		"token renewed before the request": {
			signing{cluster: cluster{objects: objects, funcs: interceptor.Funcs{
				Create: func(context.Context, client.WithWatch, client.Object, ...client.CreateOption) error {
					return unauthorized
				},
			}}},
			[]string{"does not accept the token", "Run the command again"},
		},
		"token renewed after the request": {
			signing{cluster: cluster{objects: objects, funcs: failingRequest(unauthorized)}, answer: ignore},
			[]string{"does not accept the token", "Run the command again"},
		},
		"not decided": {
			signing{cluster: cluster{objects: objects}, answer: ignore},
			[]string{"gave up after 500ms", "is not approved yet"},
		},
		"not signed": {
			signing{cluster: cluster{objects: objects}, answer: sets(certificatesv1.CertificateApproved, "", "")},
			[]string{"gave up after 500ms", "is approved and not signed"},
		},
		"server in trouble": {
			signing{cluster: cluster{objects: objects, funcs: failingRequest(errors.New("connection refused"))}, answer: ignore},
			[]string{"gave up after 500ms", "connection refused"},
		},
		"no kubeconfig in the Secret": {
			signing{cluster: cluster{objects: []client.Object{awaiting(), secret(map[string][]byte{kubeconfig.Key: []byte("users: " + canary)})}}},
			[]string{"has no token", "try again"},
		},
		"no token in the kubeconfig": {
			signing{cluster: cluster{objects: []client.Object{awaiting(), secret(map[string][]byte{kubeconfig.Key: []byte("kind: Config")})}}},
			[]string{"has no token", "try again"},
		},
		"patching forbidden": {
			signing{cluster: cluster{objects: objects, funcs: interceptor.Funcs{
				Patch: func(context.Context, client.WithWatch, client.Object, client.Patch, ...client.PatchOption) error {
					return forbidden(nodeBootstraps, node)
				},
			}}},
			[]string{"permission to patch nodebootstraps"},
		},
		"stalled": {
			signing{cluster: cluster{objects: []client.Object{awaiting(isStalled)}}},
			[]string{"is stalled, and waiting does not help", "ServerUnknown"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			mention(t, "the error", tc.s.fails(t, "--wait", "500ms").err.Error(), tc.want...)
		})
	}
}

func TestSignManual(t *testing.T) {
	manual := func(nb *v1alpha1.NodeBootstrap) { nb.Spec.ClientCertificate.Approval = v1alpha1.ApprovalManual }
	s := signing{cluster: cluster{objects: []client.Object{awaiting(manual), renderedSecret(t)}}, answer: ignore}
	approved := false
	s.cluster.funcs.Get = func(ctx context.Context, c client.WithWatch, key client.ObjectKey, o client.Object, opts ...client.GetOption) error {
		r, ok := o.(*certificatesv1.CertificateSigningRequest)
		if err := c.Get(ctx, key, o, opts...); err != nil || !ok || approved {
			return err
		}
		approved = true // by a person, after the command has seen the pending CSR
		return issue(ctx, c, r.DeepCopy())
	}
	r := s.succeeds(t)
	if r.out != certificateText {
		t.Errorf("got %q", r.out)
	}
	mention(t, "the error output", r.errOut, "kubectl certificate approve "+s.sent[0].Name+"\n")
}

// A CSR that was approved for an earlier run is used, and another one with the key is not.
func TestSignUsesAnEarlierRequest(t *testing.T) {
	request := requestPEM(t, newKey(t), node)
	fingerprint := csr.EvaluateContent(request, node).KeyFingerprint
	earlier := &certificatesv1.CertificateSigningRequest{ObjectMeta: metav1.ObjectMeta{Name: "earlier"}}
	earlier.Spec.Request, earlier.Status.Certificate = request, []byte("the earlier certificate")
	decision := v1alpha1.CertificateDecision{Name: "earlier", Verdict: v1alpha1.VerdictApproved, KeyFingerprint: fingerprint, TokenID: "abcdef"}
	for name, tc := range map[string]struct {
		change func(*v1alpha1.CertificateDecision)
		want   string
	}{
		"approved":              {func(*v1alpha1.CertificateDecision) {}, "the earlier certificate"},
		"denied":                {func(d *v1alpha1.CertificateDecision) { d.Verdict = v1alpha1.VerdictDenied }, certificateText},
		"with another token":    {func(d *v1alpha1.CertificateDecision) { d.TokenID = "fedcba" }, certificateText},
		"with another key":      {func(d *v1alpha1.CertificateDecision) { d.KeyFingerprint = "SHA256:0" }, certificateText},
		"approved, and deleted": {func(d *v1alpha1.CertificateDecision) { d.Name = "deleted" }, certificateText},
	} {
		t.Run(name, func(t *testing.T) {
			d := decision
			tc.change(&d)
			s := signing{request: request, cluster: cluster{objects: []client.Object{renderedSecret(t), earlier.DeepCopy(),
				awaiting(pins(fingerprint), func(nb *v1alpha1.NodeBootstrap) { nb.Status.Certificates = []v1alpha1.CertificateDecision{d} })}}}
			if r := s.succeeds(t); r.out != tc.want || (len(s.sent) == 0) != (tc.want != certificateText) {
				t.Errorf("got %q and sent %+v", r.out, s.sent)
			}
		})
	}
}

func TestSignInterrupted(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	s := signing{ctx: ctx, cluster: cluster{objects: []client.Object{awaiting(), renderedSecret(t)}},
		answer: func(context.Context, client.Client, *certificatesv1.CertificateSigningRequest) error {
			cancel()
			return nil
		}}
	if r := s.fails(t); r.err.Error() != "interrupted" {
		t.Errorf("got %v", r.err)
	}
	// The next run sends the request again: the key is pinned, so that any number of CSRs with it is approved.
	again := signing{request: s.request, cluster: cluster{objects: []client.Object{awaiting(pins(s.fingerprint())), renderedSecret(t), &s.sent[0]}}}
	again.cluster.objects[2].SetResourceVersion("")
	if r := again.succeeds(t); r.out != certificateText || again.sent[0].Name == s.sent[0].Name {
		t.Errorf("got %q for %s", r.out, again.sent[0].Name)
	}
}

func TestSignUsage(t *testing.T) {
	for name, tc := range map[string]struct {
		args []string
		want string
	}{
		"no request":             {[]string{"--request", ""}, "--request"},
		"no such file":           {[]string{"--request", "missing.csr"}, "missing.csr"},
		"unknown output":         {[]string{"--output", "yaml"}, `not "yaml"`},
		"no path of the key":     {[]string{"--output", "kubeconfig", "--key-path", ""}, "--key-path"},
		"overwrite without file": {[]string{"--overwrite"}, "--output-file"},
		"no time to wait":        {[]string{"--wait", "0"}, "--wait"},
	} {
		t.Run(name, func(t *testing.T) {
			s := signing{cluster: cluster{err: errors.New("connected for a command line that is wrong")}}
			mention(t, "the error", s.fails(t, tc.args...).err.Error(), tc.want)
		})
	}
}
