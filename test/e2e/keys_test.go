// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/util/keyutil"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/hack/localcluster"
	"github.com/nodebootstrap/nodebootstrap/internal/csr"
	"github.com/nodebootstrap/nodebootstrap/test/env"
)

// noRuntime is the configuration of a kubelet without a container runtime: it exits with an error soon after its start.
var noRuntime = map[string]any{"containerRuntimeEndpoint": "unix:///run/there-is-no-runtime.sock"}

// crashes starts a stock kubelet whose container runtime is down, as often as it takes until it has sent one more CSR and that is
// decided. It keeps its key in memory until it has its certificate. The tests that call this are not parallel: the busier the
// machine, the more often the kubelet exits before it has sent a CSR.
func crashes(t *testing.T, name, tokenID string, kubeconfig []byte) *certificatesv1.CertificateSigningRequest {
	t.Helper()
	before := map[string]bool{}
	for _, r := range sentWith(t, tokenID) {
		before[r.Name] = true
	}
	var sent *certificatesv1.CertificateSigningRequest
	for try := range 20 {
		kubelet, err := cluster.StartKubelet(t.Context(), localcluster.KubeletConfig{NodeName: name, BootstrapKubeconfig: kubeconfig, ExtraConfig: noRuntime})
		env.Must(t, err)
		select {
		case <-kubelet.Done():
			t.Logf("start %d: the kubelet has exited by itself", try+1)
		case <-time.After(env.Limit):
			t.Fatal("the kubelet still runs without a container runtime")
		}
		if err := kubelet.Stop(); err != nil {
			t.Log(err)
		}
		for _, r := range sentWith(t, tokenID) {
			if !before[r.Name] {
				sent = &r
			}
		}
		if sent != nil {
			break
		}
	}
	if sent == nil {
		t.Fatal("the kubelet never sent its CSR")
	}
	env.Eventually(t, "the verdict on "+sent.Name, func() error {
		cluster.Get(t, "", sent.Name, sent)
		if len(sent.Status.Conditions) == 0 {
			return errors.New("there is none")
		}
		return nil
	})
	return sent
}

// The most common mistake of an installation: the container runtime is down, and the kubelet exits after it has sent its CSR.
// Its next start has another key. There is no alarm; with the advice in the condition the machine joins.
func TestKubeletThatCrashesBeforeItHasItsCertificate(t *testing.T) {
	const name = "crash-looping"
	nb := cluster.NodeBootstrap(name)
	cluster.Create(t, nb)
	before, kubeconfig := cluster.WaitAwaited(t, name)
	first := crashes(t, name, before.Status.Token.ID, kubeconfig)
	if reason := approvedFor(first); reason != csr.ReasonKubeletClient {
		t.Errorf("the first request is %+v", first.Status.Conditions)
	}
	second := crashes(t, name, before.Status.Token.ID, kubeconfig)
	if !wasDenied(second, csr.ReasonKeyReplaced) {
		t.Errorf("the second request is %+v", second.Status.Conditions)
	}
	stuck := cluster.WaitReady(t, name, metav1.ConditionFalse, v1alpha1.ReasonKeyReplaced)
	for _, condition := range []string{v1alpha1.ConditionStalled, v1alpha1.ConditionKeyConflict} {
		if !meta.IsStatusConditionTrue(stuck.Status.Conditions, condition) {
			t.Errorf("%s is not True: %+v", condition, stuck.Status.Conditions)
		}
	}
	noAlarm(t, stuck)

	// The remedy of docs/troubleshooting.md, which the message names.
	if message := env.ReadyMessage(stuck); !strings.Contains(message, csr.ReissueCommand(name)) {
		t.Errorf("Ready says: %s", message)
	}
	value := time.Now().UTC().Format(time.RFC3339)
	env.Must(t, kubectl(t, "annotate", "nodebootstrap", name, "--overwrite", v1alpha1.ReissueRequestedAtAnnotation+"="+value))
	env.Eventually(t, "the reissue", func() error {
		cluster.Get(t, "", name, nb)
		if nb.Status.LastHandledReissueAt != value {
			return fmt.Errorf("%q is handled", nb.Status.LastHandledReissueAt)
		}
		return nil
	})
	_, fresh := cluster.WaitAwaited(t, name)
	startKubelet(t, name, fresh)
	joined := waitJoined(t, name)
	noAlarm(t, joined)
}

// With a replacement key the next start joins with the kubeconfig that the machine has, without help.
func TestKubeletThatCrashedJoinsWithAReplacementKey(t *testing.T) {
	const name = "crashed-once"
	nb := cluster.NodeBootstrap(name)
	nb.Spec.ClientCertificate.ReplacementKeys = 1
	cluster.Create(t, nb)
	before, kubeconfig := cluster.WaitAwaited(t, name)
	first := crashes(t, name, before.Status.Token.ID, kubeconfig)
	startKubelet(t, name, kubeconfig)
	joined := waitJoined(t, name)
	noAlarm(t, joined)
	if !meta.IsStatusConditionTrue(joined.Status.Conditions, v1alpha1.ConditionKeyConflict) || len(joined.Status.Keys) != 2 {
		t.Errorf("the keys are %+v", joined.Status.Keys)
	}
	c := meta.FindStatusCondition(joined.Status.Conditions, v1alpha1.ConditionCertificateNotRevoked)
	if c == nil || c.Reason != v1alpha1.ReasonIssuedBeforeReplacement {
		t.Errorf("the certificate of %s is not reported: %+v", first.Name, joined.Status.Conditions)
	}
}

// A thief's CSR comes first and is approved, and the machine's is denied. When the thief joins, two machines are known to have
// the kubeconfig: that raises the alarm, although the denial itself does not.
func TestThiefWhoAskedFirstJoins(t *testing.T) {
	const name = "second-in-line"
	before, kubeconfig := cluster.CreateAwaited(t, name)
	// Without rotateCertificates a kubelet stores its certificate before it looks for its container runtime.
	config := localcluster.KubeletConfig{NodeName: name, BootstrapKubeconfig: kubeconfig, ExtraConfig: map[string]any{"rotateCertificates": false}}
	for field, value := range noRuntime {
		config.ExtraConfig[field] = value
	}
	thief, err := cluster.StartKubelet(t.Context(), config)
	env.Must(t, err)
	select {
	case <-thief.Done():
	case <-time.After(env.Limit):
		t.Fatal("the thief's kubelet still runs without a container runtime")
	}
	if err := thief.Stop(); err != nil {
		t.Log(err)
	}
	if n := len(sentWith(t, before.Status.Token.ID)); n != 1 {
		t.Fatalf("%d requests were sent with the token", n)
	}

	machine := crashes(t, name, before.Status.Token.ID, kubeconfig)
	if !wasDenied(machine, csr.ReasonKeyReplaced) {
		t.Errorf("the machine's request is %+v", machine.Status.Conditions)
	}
	stuck := cluster.WaitReady(t, name, metav1.ConditionFalse, v1alpha1.ReasonKeyReplaced)
	noAlarm(t, stuck)

	startKubeletWith(t, localcluster.KubeletConfig{NodeName: name, Dir: thief.Dir(), ExtraConfig: map[string]any{"rotateCertificates": false}})
	joined := waitJoined(t, name)
	c := meta.FindStatusCondition(joined.Status.Conditions, v1alpha1.ConditionTokenMisused)
	if c == nil || c.Status != metav1.ConditionTrue || c.Reason != csr.ReasonSecondKey || !strings.Contains(c.Message, machine.Name) {
		t.Errorf("the alarm is %+v", c)
	}
	if !meta.IsStatusConditionTrue(joined.Status.Conditions, v1alpha1.ConditionKeyConflict) {
		t.Errorf("the conditions are %+v", joined.Status.Conditions)
	}
}

// Two machines with one disk image, whose kubelets do not rotate their certificates, send CSRs with one key. The second CSR is
// denied, and the denial names both nodes. The advice in it works: without the files in pki, the kubelet creates a key of its own
// and joins.
func TestClonedMachine(t *testing.T) {
	t.Parallel()
	const name, clone = "cloned", "clone"
	key := env.Key(t)
	keyPEM, err := keyutil.MarshalPrivateKeyToPEM(key)
	env.Must(t, err)
	start := func(node string, dir string, kubeconfig []byte) *localcluster.Kubelet {
		config := localcluster.KubeletConfig{NodeName: node, BootstrapKubeconfig: kubeconfig, Dir: dir,
			ExtraConfig: map[string]any{"rotateCertificates": false}}
		if dir == "" {
			config.Files = map[string][]byte{"pki/kubelet-client.key.tmp": keyPEM}
		}
		return startKubeletWith(t, config)
	}
	cluster.Create(t, cluster.NodeBootstrap(name))
	cluster.Create(t, cluster.NodeBootstrap(clone))
	_, kubeconfig := cluster.WaitAwaited(t, name)
	start(name, "", kubeconfig)
	waitJoined(t, name)

	nb, kubeconfig := cluster.WaitAwaited(t, clone)
	kubelet := start(clone, "", kubeconfig)
	env.Eventually(t, "the denial", func() error { return deniedAsKeyOf(t, nb.Status.Token.ID, name, clone) })
	env.Must(t, kubelet.Stop())
	env.Check(t, cluster.Absent(t.Context(), "", clone, &corev1.Node{}))
	env.Must(t, os.RemoveAll(filepath.Join(kubelet.Dir(), "pki")))
	start(clone, kubelet.Dir(), nil)
	waitJoined(t, clone)
}

// A renamed node sends a CSR with its existing key. Once the old NodeBootstrap and the denied CSR are deleted it gets its
// certificate: a kubelet names its CSR by key and subject, and would find the denied one again.
func TestRenamedNode(t *testing.T) {
	t.Parallel()
	const name, renamed = "old-name", "new-name"
	nb := cluster.NodeBootstrap(name)
	cluster.Create(t, nb)
	cluster.Create(t, cluster.NodeBootstrap(renamed))
	rotatesNothing := map[string]any{"rotateCertificates": false}
	_, kubeconfig := cluster.WaitAwaited(t, name)
	kubelet := startKubeletWith(t, localcluster.KubeletConfig{NodeName: name, BootstrapKubeconfig: kubeconfig, ExtraConfig: rotatesNothing})
	waitJoined(t, name)
	env.Must(t, errors.Join(kubelet.Stop(), os.Remove(kubelet.Kubeconfig())))

	fresh, kubeconfig := cluster.WaitAwaited(t, renamed)
	again := localcluster.KubeletConfig{NodeName: renamed, BootstrapKubeconfig: kubeconfig, Dir: kubelet.Dir(), ExtraConfig: rotatesNothing}
	kubelet = startKubeletWith(t, again)
	env.Eventually(t, "the denial", func() error { return deniedAsKeyOf(t, fresh.Status.Token.ID, name, renamed) })
	env.Must(t, kubelet.Stop())
	cluster.Delete(t, nb)
	for _, r := range sentWith(t, fresh.Status.Token.ID) {
		cluster.Delete(t, &r)
	}
	startKubeletWith(t, again)
	waitJoined(t, renamed)
}

// deniedAsKeyOf is nil if a CSR of a token is denied because another node has its key, and the denial names both.
func deniedAsKeyOf(t *testing.T, tokenID, other, node string) error {
	t.Helper()
	return oneDenied(t, tokenID, csr.ReasonKeyOfAnotherNode, "the node "+other+",", "the node "+node+":")
}
