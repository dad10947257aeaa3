// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"k8s.io/client-go/tools/clientcmd"

	"github.com/nodebootstrap/nodebootstrap/hack/localcluster"
	"github.com/nodebootstrap/nodebootstrap/internal/userdata"
	"github.com/nodebootstrap/nodebootstrap/test/env"
)

// cloudInit runs the parts of cloud-init that user data for it uses, in the order of a boot, and deletes what cloud-init keeps.
const cloudInit = `set -e
for module in cc_write_files cc_runcmd; do
	cloud-init --file /root/user-data single --name $module --frequency always
done
sh /var/lib/cloud/instances/*/scripts/runcmd
rm -rf /root/user-data /var/lib/cloud /run/cloud-init`

// startWithUserData starts a machine with user data for a node, and returns after cloud-init has run. Its unit tries again faster.
func startWithUserData(t *testing.T, hostName, node, before string) *localcluster.Machine {
	t.Helper()
	m, err := cluster.StartMachine(t.Context(), localcluster.MachineConfig{HostName: hostName, Files: map[string][]byte{
		"/root/user-data": userDataFor(t, node, "--format", "cloud-init"),
		"/etc/systemd/system/" + userdata.Unit + ".d/faster.conf": []byte("[Service]\nRestartSec=0.2s\n"),
	}})
	env.Must(t, err)
	t.Cleanup(func() {
		env.Check(t, m.Stop())
		env.Check(t, forget(context.Background(), node))
	})
	mustRun(t, m, before+"\n"+cloudInit)
	return m
}

func userDataFor(t *testing.T, name string, args ...string) []byte {
	t.Helper()
	root, err := localcluster.ProjectRoot()
	env.Must(t, err)
	admin, err := cluster.WriteAdminKubeconfig()
	env.Must(t, err)
	plugin := exec.CommandContext(t.Context(), filepath.Join(root, "bin", "kubectl-nodebootstrap"),
		append([]string{"userdata", name, "--kubeconfig", admin, "--wait", "1m"}, args...)...)
	var stderr strings.Builder
	plugin.Stderr = &stderr
	out, err := plugin.Output()
	if err != nil {
		t.Fatalf("%v: %s", err, &stderr)
	}
	return out
}

func mustRun(t *testing.T, m *localcluster.Machine, command string) string {
	t.Helper()
	out, err := m.Run(t.Context(), command)
	env.Must(t, err)
	return out
}

// waitLogged waits for a line in the log of the unit that lets the machine join.
func waitLogged(t *testing.T, m *localcluster.Machine, text string) {
	t.Helper()
	env.Eventually(t, "the line "+text, func() error {
		if log := mustRun(t, m, "journalctl -u nodebootstrap-join --no-pager"); !strings.Contains(log, text) {
			return errors.New(log[max(0, len(log)-2000):])
		}
		return nil
	})
}

// wantNoToken checks that the machine has the token in no file.
func wantNoToken(t *testing.T, m *localcluster.Machine, kubeconfig []byte) {
	t.Helper()
	config, err := clientcmd.RESTConfigFromKubeConfig(kubeconfig)
	env.Must(t, err)
	_, secret, _ := strings.Cut(config.BearerToken, ".")
	env.Eventually(t, "no token on the machine", func() error {
		found, err := m.FindInFiles(secret)
		if err == nil && len(found) > 0 {
			err = fmt.Errorf("it is in %q", found)
		}
		return err
	})
}

// A machine joins with its user data although its container runtime starts late, and does not keep the token.
func TestUserDataOnMachineThatIsStarting(t *testing.T) {
	t.Parallel()
	const name = "cloud-1"
	nb, kubeconfig := cluster.CreateAwaited(t, name)
	m := startWithUserData(t, name, name, "systemctl stop containerd")
	waitLogged(t, m, "status=14")

	mustRun(t, m, "systemctl start containerd")
	waitJoined(t, name)
	waitNodeReady(t, name)
	waitLogged(t, m, "[done]")
	wantNoToken(t, m, kubeconfig)
	mustRun(t, m, "! [ -e "+userdata.ScriptPath+" ]")
	noAlarm(t, nb)
}

// A machine with another name sends nothing, and joins when a person has given it the right one.
func TestUserDataOnMachineOfAnotherName(t *testing.T) {
	t.Parallel()
	const name = "cloud-2"
	nb, kubeconfig := cluster.CreateAwaited(t, name)
	m := startWithUserData(t, "cloud-3", name, "")
	waitLogged(t, m, "status=13")
	env.Eventually(t, "the end of the unit", func() error { // it has failed a moment after its program has
		if state, _ := m.Run(t.Context(), "systemctl is-active nodebootstrap-join"); strings.TrimSpace(state) != "failed" {
			return fmt.Errorf("the unit is %s", state)
		}
		return nil
	})
	if sent := sentWith(t, nb.Status.Token.ID); len(sent) > 0 {
		t.Errorf("it sent %d CSRs", len(sent))
	}

	mustRun(t, m, "hostname "+name+" && systemctl restart nodebootstrap-join")
	waitJoined(t, name)
	waitNodeReady(t, name)
	wantNoToken(t, m, kubeconfig)
	noAlarm(t, nb)
}

// The script does the same over ssh. It does nothing when it runs again.
func TestUserDataScriptOverSSH(t *testing.T) {
	t.Parallel()
	const name = "cloud-4"
	_, kubeconfig := cluster.CreateAwaited(t, name)
	m, err := cluster.StartMachine(t.Context(), localcluster.MachineConfig{HostName: name})
	env.Must(t, err)
	t.Cleanup(func() {
		env.Check(t, m.Stop())
		env.Check(t, forget(context.Background(), name))
	})
	script := userDataFor(t, name)
	for _, last := range []string{"[done] the kubelet has its certificate as cloud-4", "[done] this machine is the node cloud-4 already. Nothing was changed."} {
		ssh := m.SSH(t.Context(), "root", "sh")
		ssh.Stdin = bytes.NewReader(script)
		out, err := ssh.CombinedOutput()
		if err != nil || !strings.HasSuffix(strings.TrimSpace(string(out)), last) {
			t.Fatalf("%v\n%s", err, out)
		}
		waitJoined(t, name)
		waitNodeReady(t, name)
	}
	wantNoToken(t, m, kubeconfig)
}
