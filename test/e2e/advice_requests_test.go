// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	bootstrapapi "k8s.io/cluster-bootstrap/token/api"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/hack/localcluster"
	"github.com/nodebootstrap/nodebootstrap/internal/csr"
	"github.com/nodebootstrap/nodebootstrap/internal/token"
	"github.com/nodebootstrap/nodebootstrap/test/env"
)

// A kubelet with a valid certificate at --kubeconfig sends no CSR, whatever its bootstrap kubeconfig is. Without that file and
// --cert-dir it sends one.
func TestValidCertificateOfAnEarlierLife(t *testing.T) {
	t.Parallel()
	const name = "earlier-life"
	nb := cluster.NodeBootstrap(name)
	cluster.Create(t, nb)
	_, kubeconfig := cluster.WaitAwaited(t, name)
	kubelet := startKubelet(t, name, kubeconfig)
	waitJoined(t, name)
	env.Must(t, kubelet.Stop())
	env.Change(t, cluster, nb, func(nb *v1alpha1.NodeBootstrap) {
		nb.Annotations = map[string]string{v1alpha1.ReissueRequestedAtAnnotation: "reinstalled"}
	})
	reissued, fresh := cluster.WaitAwaited(t, name)
	again := localcluster.KubeletConfig{NodeName: name, Dir: kubelet.Dir(), BootstrapKubeconfig: fresh}
	kubelet = startKubeletWith(t, again)
	logMatches(t, kubelet, "Successfully registered node")
	env.Must(t, kubelet.Stop())
	if sent := sentWith(t, reissued.Status.Token.ID); len(sent) > 0 {
		t.Fatalf("it has sent %s", sent[0].Name)
	}
	env.Must(t, errors.Join(os.Remove(kubelet.Kubeconfig()), os.RemoveAll(filepath.Join(kubelet.Dir(), "pki"))))
	startKubeletWith(t, again)
	env.Eventually(t, "the kubelet's request being approved", func() error {
		for _, r := range sentWith(t, reissued.Status.Token.ID) {
			if approvedFor(&r) != "" {
				return nil
			}
		}
		return errors.New("it is not")
	})
}

// After a denial the kubeconfig is still valid: a kubelet that is restarted sends another CSR. A kubelet that does not rotate
// its certificates would send the same one again, so the denied CSR must be deleted first.
func TestRestartAfterADenial(t *testing.T) {
	t.Parallel()
	for name, rotates := range map[string]bool{"denied-rotating": true, "denied-not-rotating": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			nb := cluster.NodeBootstrap(name)
			nb.Spec.ClientCertificate.Approval = v1alpha1.ApprovalManual
			cluster.Create(t, nb)
			awaited, kubeconfig := cluster.WaitAwaited(t, name)
			config := localcluster.KubeletConfig{NodeName: name, BootstrapKubeconfig: kubeconfig, ExtraConfig: map[string]any{"rotateCertificates": rotates}}
			kubelet := startKubeletWith(t, config)
			first := pendingRequest(t, awaited.Status.Token.ID)
			env.Must(t, kubectl(t, "certificate", "deny", first.Name))
			env.Eventually(t, "Ready reporting the denial", func() error {
				var nb v1alpha1.NodeBootstrap
				cluster.Get(t, "", name, &nb)
				if got := env.ReadyMessage(&nb); !strings.Contains(got, "last CSR "+first.Name+" was denied: DeniedElsewhere") {
					return fmt.Errorf("it says %q", got)
				}
				return nil
			})
			logHas(t, kubelet, "certificate signing request is denied")
			env.Must(t, kubelet.Stop())
			config.Dir, config.BootstrapKubeconfig = kubelet.Dir(), nil
			if !rotates {
				findsItsDeniedRequest(t, config, first)
				cluster.Delete(t, first)
			}
			startKubeletWith(t, config)
			second := pendingRequest(t, awaited.Status.Token.ID)
			if second.UID == first.UID {
				t.Fatal("the kubelet has sent nothing new")
			}
			env.Must(t, kubectl(t, "certificate", "approve", second.Name))
			waitJoined(t, name)
		})
	}
}

// findsItsDeniedRequest starts a kubelet that exits, because its CSR is already denied.
func findsItsDeniedRequest(t *testing.T, config localcluster.KubeletConfig, denied *certificatesv1.CertificateSigningRequest) {
	t.Helper()
	kubelet := startKubeletWith(t, config)
	select {
	case <-kubelet.Done():
	case <-time.After(env.Limit):
		t.Error("the kubelet does not exit")
	}
	env.Must(t, kubelet.Stop())
	for _, r := range sentWith(t, token.IDOfUser(denied.Spec.Username)) {
		if r.UID != denied.UID {
			t.Errorf("it has sent another request, %s", r.Name)
		}
	}
}

// pendingRequest waits for a CSR that was sent with a token and has no verdict.
func pendingRequest(t *testing.T, tokenID string) *certificatesv1.CertificateSigningRequest {
	t.Helper()
	var found *certificatesv1.CertificateSigningRequest
	env.Eventually(t, "a pending request", func() error {
		for _, r := range sentWith(t, tokenID) {
			if len(r.Status.Conditions) == 0 {
				found = &r
				return nil
			}
		}
		return errors.New("there is none")
	})
	return found
}

// A kubelet whose CSR for a serving certificate was denied sends another one by itself.
func TestServingRequestDeniedByAPerson(t *testing.T) {
	t.Parallel()
	const name = "serving-denied"
	ip, subnet := machineAddress(t)
	nb := cluster.NodeBootstrap(name)
	nb.Spec.ServingCertificate.Addresses = []string{name}
	cluster.Create(t, nb)
	_, kubeconfig := cluster.WaitAwaited(t, name)
	startServing(t, name, ip, kubeconfig)
	waitJoined(t, name)
	waitServing(t, name, metav1.ConditionFalse, csr.ReasonAddressNotDeclared)
	first := soleServingRequest(t, name)
	env.Must(t, kubectl(t, "certificate", "deny", first.Name))
	env.Change(t, cluster, nb, func(nb *v1alpha1.NodeBootstrap) { nb.Spec.ServingCertificate.Addresses = []string{name, subnet} })
	waitServing(t, name, metav1.ConditionTrue, csr.ReasonKubeletServing)
	if sent := servingRequests(t, name); len(sent) != 2 {
		t.Errorf("it has sent %d requests, want 2", len(sent))
	}
}

// A token's Secret is edited while the operator is stopped, and a CSR is sent with the groups of that time. The CSR is denied,
// the Secret is restored, and the next CSR of a kubelet is approved.
func TestTokenWithOtherGroupsIsRestored(t *testing.T) {
	const name = "other-groups"
	if policies {
		t.Skip("the guard lets tokens of no other groups send requests")
	}
	nb, kubeconfig := cluster.CreateAwaited(t, name)
	secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: token.Namespace, Name: token.SecretName(nb.Status.Token.ID)}}
	env.Must(t, killManager())
	env.Change(t, cluster, secret, func(s *corev1.Secret) {
		s.Data[bootstrapapi.BootstrapTokenExtraGroupsKey] = append(s.Data[bootstrapapi.BootstrapTokenExtraGroupsKey], ",system:bootstrappers:other"...)
	})
	waitInGroup(t, kubeconfig, "system:bootstrappers:other", true)
	edited := send(t, kubeconfig, name)
	env.Must(t, startManager(t.Context()))
	env.Eventually(t, "the denial", func() error {
		cluster.Get(t, "", edited.Name, edited)
		if !wasDenied(edited, csr.ReasonWrongRequester, "restart the kubelet") {
			return fmt.Errorf("its status is %+v", edited.Status)
		}
		return nil
	})
	waitInGroup(t, kubeconfig, "system:bootstrappers:other", false)
	send(t, kubeconfig, name)
	env.Eventually(t, "an approval", func() error {
		for _, r := range sentWith(t, nb.Status.Token.ID) {
			if approvedFor(&r) == csr.ReasonKubeletClient {
				return nil
			}
		}
		return errors.New("there is none")
	})
}

// waitInGroup waits until the API server places the user of a kubeconfig in a group, or no longer does: it caches authentications
// for ten seconds.
func waitInGroup(t *testing.T, kubeconfig []byte, group string, want bool) {
	t.Helper()
	holder := env.Clientset(t, kubeconfig)
	env.Eventually(t, "the groups of the token", func() error {
		who, err := holder.AuthenticationV1().SelfSubjectReviews().Create(t.Context(), &authenticationv1.SelfSubjectReview{}, metav1.CreateOptions{})
		if err == nil && slices.Contains(who.Status.UserInfo.Groups, group) != want {
			err = fmt.Errorf("they are %q", who.Status.UserInfo.Groups)
		}
		return err
	})
}

// While the operator is stopped, a CSR for another node's name is sent with the token, and another client denies it. The token is
// revoked although no certificate was issued, because the sender of the CSR still has it.
func TestDenialOfEvidenceWhileTheOperatorIsStopped(t *testing.T) {
	const name = "denied-evidence"
	before, kubeconfig := cluster.CreateAwaited(t, name)
	env.Must(t, killManager())
	request := send(t, kubeconfig, "another-node")
	env.Must(t, errors.Join(kubectl(t, "certificate", "deny", request.Name), startManager(t.Context())))
	nb := cluster.WaitReady(t, name, metav1.ConditionFalse, v1alpha1.ReasonTokenMisused)
	alarm := meta.FindStatusCondition(nb.Status.Conditions, v1alpha1.ConditionTokenMisused)
	if alarm == nil || alarm.Reason != csr.ReasonWrongSubject || !strings.Contains(alarm.Message, request.Name) || !strings.Contains(alarm.Message, "someone else denied it first") {
		t.Errorf("the alarm is %+v", alarm)
	}
	if len(nb.Status.Certificates) != 1 || nb.Status.Certificates[0].UID != request.UID || nb.Status.Certificates[0].Verdict != v1alpha1.VerdictDenied {
		t.Errorf("the record is %+v", nb.Status.Certificates)
	}
	env.Check(t, cluster.NothingLeft(t.Context(), name))

	// The command that the denial suggests works without changes.
	command := regexp.MustCompile(`kubectl annotate nodebootstrap \S+ --overwrite \S+="\$\(date [^)]*\)"`).FindString(alarm.Message)
	if out, err := shell(t, command); command == "" || err != nil {
		t.Fatalf("%q, of the message %q: %v: %s", command, alarm.Message, err, out)
	}
	again, _ := cluster.WaitAwaited(t, name)
	if again.Status.Token.ID == before.Status.Token.ID || meta.FindStatusCondition(again.Status.Conditions, v1alpha1.ConditionTokenMisused) != nil {
		t.Errorf("after the reissue the status is %+v", again.Status)
	}
}

// shell runs a command line as an administrator would.
func shell(t *testing.T, command string) (string, error) {
	t.Helper()
	path, err := cluster.Binary("kubectl")
	env.Must(t, err)
	kubeconfig, err := cluster.WriteAdminKubeconfig()
	env.Must(t, err)
	cmd := exec.CommandContext(t.Context(), "sh", "-c", command)
	cmd.Env = append(os.Environ(), "PATH="+filepath.Dir(path)+":"+os.Getenv("PATH"), "KUBECONFIG="+kubeconfig)
	out, err := cmd.CombinedOutput()
	return string(out), err
}
