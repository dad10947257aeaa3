// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/hack/localcluster"
	"github.com/nodebootstrap/nodebootstrap/hack/localcluster/operator"
	"github.com/nodebootstrap/nodebootstrap/internal/csr"
	"github.com/nodebootstrap/nodebootstrap/test/docs"
	"github.com/nodebootstrap/nodebootstrap/test/env"
)

const (
	discoveryFile = "/run/discovery.conf"
	// ignored is the only check of kubeadm that fails on a test machine: it refuses cgroups v1.
	ignored = "--ignore-preflight-errors=SystemVerification"
	joins   = "kubeadm join --discovery-file " + discoveryFile + " " + ignored
	leaves  = "kubeadm reset --force"
	// joinsByFile is the same with a JoinConfiguration.
	joinFile    = "/run/join.yaml"
	joinsByFile = "kubeadm join --config " + joinFile
	// bootstrapFile is written by kubeadm, with the user of the discovery file.
	bootstrapFile = "/etc/kubernetes/bootstrap-kubelet.conf"
)

// kubeadmCluster is a cluster of kubeadm with the hardened operator, which finds the API server by itself.
type kubeadmCluster struct{ *env.Env }

func newKubeadmCluster(t *testing.T) kubeadmCluster {
	t.Helper()
	c, err := env.Start(t.Context(), localcluster.Config{})
	env.Must(t, err)
	t.Cleanup(func() { env.Check(t, c.Stop()) })
	env.Must(t, c.InitKubeadm(t.Context(), nil))
	env.Must(t, operator.InstallPolicies(t.Context(), c.Cluster, map[string]string{"exemptGroups": "", "allowReissueOfMembers": "true"}))
	_, err = operator.Start(t.Context(), c.Cluster)
	env.Must(t, err)
	return kubeadmCluster{c}
}

// installComponent lets kubeadm read with the operator's tokens.
func (c kubeadmCluster) installComponent(t *testing.T) {
	t.Helper()
	root, err := localcluster.ProjectRoot()
	env.Must(t, err)
	_, err = operator.Kubectl(t.Context(), c.Cluster, "apply", "-k", filepath.Join(root, "config", "components", "kubeadm"))
	env.Must(t, err)
}

// plugin runs the kubectl plugin as an administrator.
func (c kubeadmCluster) plugin(t *testing.T, stdin string, args ...string) (out, errOut string) {
	t.Helper()
	root, err := localcluster.ProjectRoot()
	env.Must(t, err)
	admin, err := c.WriteAdminKubeconfig()
	env.Must(t, err)
	cmd := exec.CommandContext(t.Context(), filepath.Join(root, "bin", "kubectl-nodebootstrap"), append(args, "--kubeconfig", admin)...)
	cmd.Stdin = strings.NewReader(stdin)
	var stdout, stderr strings.Builder
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		t.Fatalf("kubectl nodebootstrap %v: %v: %s", args, err, &stderr)
	}
	return stdout.String(), stderr.String()
}

// await creates a NodeBootstrap of four lines and returns what the plugin prints for the machine.
func (c kubeadmCluster) await(t *testing.T, name string) (kubeconfig, errOut string) {
	t.Helper()
	c.Create(t, &v1alpha1.NodeBootstrap{ObjectMeta: metav1.ObjectMeta{Name: name}})
	return c.plugin(t, "", "kubeconfig", name, "--wait", "1m")
}

// joined waits until a node is Ready, its NodeBootstrap Joined, and its credential deleted.
func (c kubeadmCluster) joined(t *testing.T, name string) *v1alpha1.NodeBootstrap {
	t.Helper()
	env.Eventually(t, "node "+name, func() error {
		var node corev1.Node
		if err := c.Client.Get(t.Context(), client.ObjectKey{Name: name}, &node); err != nil {
			return err
		}
		return nodeIsReady(&node)
	})
	nb := c.WaitReady(t, name, metav1.ConditionTrue, v1alpha1.ReasonJoined)
	noAlarm(t, nb)
	env.Eventually(t, "nothing left of the credential", func() error { return c.NothingLeft(t.Context(), name) })
	return nb
}

// kubeadmMachine is a machine with the packages of kubeadm and kubelet.
type kubeadmMachine struct{ *localcluster.Machine }

func (c kubeadmCluster) machine(t *testing.T, hostName string) kubeadmMachine {
	t.Helper()
	m, err := c.StartMachine(t.Context(), localcluster.MachineConfig{HostName: hostName, Kubeadm: true})
	env.Must(t, err)
	t.Cleanup(func() {
		if log, err := os.ReadFile(m.LogFile("kubelet")); err == nil && t.Failed() {
			t.Logf("the log of the kubelet on %s ends with:\n%s", hostName, log[max(0, len(log)-4000):])
		}
		env.Check(t, m.Stop())
	})
	return kubeadmMachine{m}
}

func (m kubeadmMachine) write(t *testing.T, path, content string) {
	t.Helper()
	env.Must(t, os.WriteFile(m.Path(path), []byte(content), 0o600))
}

// run runs a command that must succeed.
func (m kubeadmMachine) run(t *testing.T, command string) string {
	t.Helper()
	out, err := m.Run(t.Context(), command)
	env.Must(t, err)
	return out
}

// fails runs a command that must fail and print some texts.
func (m kubeadmMachine) fails(t *testing.T, command string, texts ...string) {
	t.Helper()
	out, err := m.Run(t.Context(), command)
	if err == nil {
		t.Fatalf("%q succeeds:\n%s", command, out)
	}
	for _, text := range texts {
		if !strings.Contains(out, text) {
			t.Errorf("%q does not print %q:\n%s", command, text, out)
		}
	}
}

// has reports whether the machine has a file.
func (m kubeadmMachine) has(t *testing.T, path string) bool {
	t.Helper()
	_, err := os.Stat(m.Path(path))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	return err == nil
}

// secretPart is that of the token in a kubeconfig.
func secretPart(t *testing.T, kubeconfig string) string {
	t.Helper()
	config, err := clientcmd.RESTConfigFromKubeConfig([]byte(kubeconfig))
	env.Must(t, err)
	_, secret, found := strings.Cut(config.BearerToken, ".")
	if !found {
		t.Fatal("there is no token in the kubeconfig")
	}
	return secret
}

// joinConfiguration is one for a name, with timeouts for what kubeadm reads and for the certificate, which are minutes by default.
func joinConfiguration(name, reads, certificate string) string {
	return fmt.Sprintf(`apiVersion: kubeadm.k8s.io/v1beta4
kind: JoinConfiguration
discovery: {file: {kubeConfigPath: %s}}
nodeRegistration: {name: %q, ignorePreflightErrors: [SystemVerification]}
timeouts: {discovery: %[3]s, kubernetesAPICall: %[3]s, tlsBootstrap: %s}
`, discoveryFile, name, reads, certificate)
}

// Machines join with kubeadm join, whose discovery file is the published kubeconfig or a signed one.
func TestKubeadm(t *testing.T) {
	t.Parallel()
	c := newKubeadmCluster(t)

	// The component is missing: the plugin says so at once, kubeadm after a minute.
	const first = "kubeadm-1"
	kubeconfig, warning := c.await(t, first)
	if !strings.Contains(warning, "config/components/kubeadm") {
		t.Errorf("without the component the plugin prints %q", warning)
	}
	t.Run("component is missing", func(t *testing.T) {
		m := c.machine(t, first)
		m.write(t, discoveryFile, kubeconfig)
		m.write(t, joinFile, joinConfiguration(first, "2s", "1m"))
		m.fails(t, joinsByFile, `unable to fetch the kubeadm-config ConfigMap`, `configmaps "kubeadm-config" is forbidden: User "system:bootstrap:`)
		if m.has(t, bootstrapFile) {
			t.Errorf("kubeadm has written %s", bootstrapFile)
		}
	})
	t.Run("component is missing, and the key is pinned", func(t *testing.T) { joinsPinned(t, c, "kubeadm-pinned") })

	c.installComponent(t)
	t.Run("joins", func(t *testing.T) {
		m := c.machine(t, first)
		m.write(t, discoveryFile, kubeconfig)
		env.Eventually(t, "the component", func() error { // it was applied just now
			if _, warning := c.plugin(t, "", "kubeconfig", first); warning != "" {
				return errors.New(warning)
			}
			return nil
		})
		m.run(t, joins)
		c.joined(t, first)
		m.run(t, "rm "+discoveryFile)
		found, err := m.FindInFiles(secretPart(t, kubeconfig))
		if err != nil || len(found) > 0 {
			t.Errorf("after the join the token is in %q (%v)", found, err)
		}

		m.run(t, "echo '# by hand' >> /var/lib/kubelet/config.yaml")
		m.run(t, "kubeadm upgrade node "+ignored)
		if config := m.run(t, "cat /var/lib/kubelet/config.yaml"); strings.Contains(config, "by hand") {
			t.Error("kubeadm upgrade node has not fetched the kubelet's configuration again")
		}
	})
	t.Run("parallel", func(t *testing.T) {
		for name, test := range map[string]func(*testing.T, kubeadmCluster, string){
			"kubeadm-flag":    joinsUnderAnotherHostName,
			"kubeadm-config":  joinsWithAConfiguration,
			"kubeadm-wrong":   failsUnderAWrongName,
			"kubeadm-again":   joinsAgainAfterAReset,
			"kubeadm-token":   failsWithABadFile,
			"kubeadm-pinned2": failsUnderAWrongNameWithAPinnedKey,
		} {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				test(t, c, name)
			})
		}
	})
}

// The host name is another one, and --node-name says so.
func joinsUnderAnotherHostName(t *testing.T, c kubeadmCluster, name string) {
	kubeconfig, _ := c.await(t, name)
	m := c.machine(t, "rack-3-slot-7.example.com")
	m.write(t, discoveryFile, kubeconfig)
	m.run(t, joins+" --node-name "+name)
	c.joined(t, name)
	if flags := m.run(t, "cat /var/lib/kubelet/kubeadm-flags.env"); !strings.Contains(flags, "--hostname-override="+name) {
		t.Errorf("the kubelet's flags are %s", flags)
	}
}

// The JoinConfiguration is that of docs/kubeadm.md.
func joinsWithAConfiguration(t *testing.T, c kubeadmCluster, name string) {
	blocks, err := docs.Blocks("docs/kubeadm.md")
	env.Must(t, err)
	i := slices.IndexFunc(blocks, func(b docs.Block) bool { return strings.Contains(b.Text, "kind: JoinConfiguration") })
	if i < 0 {
		t.Fatal("docs/kubeadm.md has none")
	}
	kubeconfig, _ := c.await(t, name)
	m := c.machine(t, "rack-3-slot-8")
	m.write(t, discoveryFile, kubeconfig)
	m.write(t, joinFile, strings.ReplaceAll(blocks[i].Text, "worker-1", name))
	m.run(t, joinsByFile+" "+ignored)
	c.joined(t, name)
}

// Without a name kubeadm takes the host's: the alarm is raised, and kubeadm says only that time is over. The remedy works.
func failsUnderAWrongName(t *testing.T, c kubeadmCluster, name string) {
	kubeconfig, _ := c.await(t, name)
	m := c.machine(t, "rack-3-slot-9")
	m.write(t, discoveryFile, kubeconfig)
	m.write(t, joinFile, joinConfiguration("", "1m", "5s"))
	m.fails(t, joinsByFile, "failed while waiting for TLS bootstrap: context deadline exceeded")
	alarmed := c.WaitReady(t, name, metav1.ConditionFalse, v1alpha1.ReasonTokenMisused)
	if alarm := meta.FindStatusCondition(alarmed.Status.Conditions, v1alpha1.ConditionTokenMisused); alarm == nil || alarm.Reason != csr.ReasonWrongSubject {
		t.Errorf("the alarm is %+v", alarm)
	}
	m.fails(t, joinsByFile, "[ERROR FileAvailable--etc-kubernetes-pki-ca.crt]")

	m.run(t, leaves)
	c.plugin(t, "", "reissue", name)
	kubeconfig, _ = c.plugin(t, "", "kubeconfig", name, "--wait", "1m")
	m.write(t, discoveryFile, kubeconfig)
	m.run(t, joins+" --node-name "+name)
	c.joined(t, name)
}

// kubeadm refuses to join while the Node is Ready, and leaves the token on the machine, until the next reset.
func joinsAgainAfterAReset(t *testing.T, c kubeadmCluster, name string) {
	kubeconfig, _ := c.await(t, name)
	m := c.machine(t, name)
	m.write(t, discoveryFile, kubeconfig)
	m.run(t, joins)
	c.joined(t, name)

	m.run(t, leaves)
	c.plugin(t, "", "reissue", name)
	kubeconfig, _ = c.plugin(t, "", "kubeconfig", name, "--wait", "1m")
	m.write(t, discoveryFile, kubeconfig)
	m.fails(t, joins, fmt.Sprintf("a Node with name %q and status \"Ready\" already exists in the cluster", name))
	if info, err := os.Stat(m.Path(bootstrapFile)); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%s: %v, %v; the documents say that kubeadm leaves it, with mode 0600", bootstrapFile, info, err)
	}
	m.fails(t, joins, "[ERROR FileAvailable--etc-kubernetes-bootstrap-kubelet.conf]", "[ERROR FileAvailable--etc-kubernetes-pki-ca.crt]")

	m.run(t, leaves)
	if m.has(t, bootstrapFile) {
		t.Errorf("kubeadm reset leaves %s", bootstrapFile)
	}
	env.Must(t, c.Client.Delete(t.Context(), &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}}))
	m.run(t, joins)
	c.joined(t, name)
}

// The other rows of docs/troubleshooting.md.
func failsWithABadFile(t *testing.T, c kubeadmCluster, name string) {
	revoked, _ := c.await(t, name)
	m := c.machine(t, name)
	m.write(t, joinFile, joinConfiguration(name, "2s", "1m"))
	m.fails(t, joinsByFile, `discovery.file.kubeConfigPath: Invalid value: "/run/discovery.conf": not a valid HTTPS URL or a file on disk`)
	m.write(t, discoveryFile, "")
	m.fails(t, joinsByFile, "must have at least one Cluster defined")

	c.plugin(t, "", "reissue", name)
	good, _ := c.plugin(t, "", "kubeconfig", name, "--wait", "1m")
	waitUnknown(t, []byte(revoked)) // or kubeadm would start a kubelet with it
	ca := func(pem []byte) string { return base64.StdEncoding.EncodeToString(pem) }
	for content, text := range map[string]string{
		revoked: "Abort reading the cluster-info ConfigMap after timeout of 2s: Unauthorized",
		strings.ReplaceAll(good, c.Server(), "https://127.0.0.1:1"):  "Abort reading the cluster-info ConfigMap after timeout of 2s: Get \"https://127.0.0.1:1/",
		strings.ReplaceAll(good, ca(c.ServerCA()), ca(c.ClientCA())): "x509: certificate signed by unknown authority",
	} {
		m.write(t, discoveryFile, content)
		m.fails(t, joinsByFile, text)
	}
	for _, file := range []string{bootstrapFile, "/etc/kubernetes/kubelet.conf", "/etc/kubernetes/pki/ca.crt"} {
		if m.has(t, file) {
			t.Errorf("kubeadm has written %s", file)
		}
	}

	m.write(t, bootstrapFile, good)
	m.write(t, discoveryFile, good)
	m.fails(t, joins, "[ERROR FileAvailable--etc-kubernetes-bootstrap-kubelet.conf]: "+bootstrapFile+" already exists")
	m.run(t, "rm "+bootstrapFile)
	m.run(t, joins)
	c.joined(t, name)
}

const machineKey = "/var/lib/kubelet/pki/node.key"

// sign lets a machine make a key, and writes the kubeconfig that the plugin prints for it to the discovery file.
func (c kubeadmCluster) sign(t *testing.T, m kubeadmMachine, name string) {
	t.Helper()
	c.Create(t, &v1alpha1.NodeBootstrap{ObjectMeta: metav1.ObjectMeta{Name: name}})
	request := m.run(t, fmt.Sprintf("mkdir -p %s; exec 2>/dev/null; KEY=%s NODE=%s; %s", filepath.Dir(machineKey), machineKey, name, opensslRequest))
	kubeconfig, _ := c.plugin(t, request, "sign", name, "--request", "-", "--output", "kubeconfig", "--key-path", machineKey)
	m.write(t, discoveryFile, kubeconfig)
}

// With a signed kubeconfig kubeadm reads as the node, and there is no token on the machine.
func joinsPinned(t *testing.T, c kubeadmCluster, name string) {
	m := c.machine(t, "rack-3-slot-11")
	c.sign(t, m, name)
	m.run(t, joins+" --node-name "+name)
	m.run(t, "rm "+discoveryFile)
	nb := c.joined(t, name)
	if nb.Spec.PinnedKey() == "" {
		t.Error("no key is pinned")
	}
	key, err := os.ReadFile(m.Path(machineKey))
	env.Must(t, err)
	for text, files := range map[string][]string{string(key): {machineKey}, base64.StdEncoding.EncodeToString(key): nil} {
		if found, err := m.FindInFiles(text); err != nil || !slices.Equal(found, files) {
			t.Errorf("the key is in %q (%v), want %q", found, err, files)
		}
	}
}

// With a signed kubeconfig a wrong name fails at once, without an alarm. kubeadm leaves the key in another file.
func failsUnderAWrongNameWithAPinnedKey(t *testing.T, c kubeadmCluster, name string) {
	m := c.machine(t, "rack-3-slot-12")
	c.sign(t, m, name)
	m.fails(t, joins, fmt.Sprintf("node '%s' cannot read 'rack-3-slot-12', only its own Node object", name))
	m.fails(t, joins, "[ERROR FileAvailable--etc-kubernetes-bootstrap-kubelet.conf]", "[ERROR FileAvailable--etc-kubernetes-pki-ca.crt]")
	m.run(t, "rm "+bootstrapFile+" /etc/kubernetes/pki/ca.crt") // kubeadm reset would delete the key too
	m.run(t, joins+" --node-name "+name)
	c.joined(t, name)
}
