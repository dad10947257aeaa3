// SPDX-License-Identifier: Apache-2.0

package localcluster

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/nodebootstrap/nodebootstrap/hack/project"
)

// assetsVariable names the environment variable that envtest also reads.
const assetsVariable = "KUBEBUILDER_ASSETS"

// builtBinaries is where the build puts the programs, next to the module's go.mod.
const builtBinaries = "bin/k8s"

// Config configures Start. The zero value is a whole control plane with
// bootstrap tokens enabled.
type Config struct {
	// AssetsDir contains etcd and kube-apiserver. Programs that it lacks come
	// from bin/k8s next to the module's go.mod, which is searched for from the
	// working directory upwards. Default: $KUBEBUILDER_ASSETS, else that
	// bin/k8s.
	AssetsDir string

	// LogDir receives one log file per process, appended to. It is created if
	// necessary and never removed. Default: a directory that Stop removes and
	// that only a failed Start leaves behind.
	LogDir string

	// APIServerArgs are flags of kube-apiserver, without dashes, that replace
	// those that Start sets: {"enable-bootstrap-token-auth": "false"} gives a
	// cluster without bootstrap tokens.
	APIServerArgs map[string]string

	// NoControllerManager leaves kube-controller-manager out: then nothing signs
	// certificates, publishes kube-root-ca.crt or creates ServiceAccounts.
	NoControllerManager bool

	// ControllerManagerArgs are flags of kube-controller-manager, without dashes,
	// that replace those that Start sets. An empty value undoes a default:
	// {"cluster-signing-cert-file": "", "cluster-signing-key-file": ""} gives a
	// cluster that signs nothing.
	ControllerManagerArgs map[string]string

	// FSync makes etcd sync its writes to disk, for measurements and for tests that
	// crash it. Default: it does not, which is several times faster.
	FSync bool
}

// binaries looks programs up by name, in the order of its directories.
type binaries []string

func newBinaries(assetsDir string) binaries {
	if assetsDir == "" {
		assetsDir = os.Getenv(assetsVariable)
	}
	var dirs binaries
	if assetsDir != "" {
		dirs = append(dirs, assetsDir)
	}
	if dir, err := findBuiltBinaries(); err == nil {
		dirs = append(dirs, dir)
	}
	return dirs
}

// find returns the absolute path of a program, or an error that names the
// directories searched.
func (b binaries) find(name string) (string, error) {
	for _, dir := range b {
		path, err := filepath.Abs(filepath.Join(dir, name))
		if err != nil {
			return "", fmt.Errorf("looking for %s: %w", name, err)
		}
		if info, err := os.Stat(path); err == nil && !info.IsDir() {
			return path, nil
		}
	}
	return "", fmt.Errorf("%s is in none of %q; build it into %s or set %s", name, []string(b), builtBinaries, assetsVariable)
}

// findBuiltBinaries is where make controlplane builds to.
func findBuiltBinaries() (string, error) {
	root, err := ProjectRoot()
	if err != nil {
		return "", err
	}
	return filepath.Join(root, builtBinaries), nil
}

// ProjectRoot is the project's directory.
func ProjectRoot() (string, error) { return project.Root() }

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}
