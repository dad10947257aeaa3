// SPDX-License-Identifier: Apache-2.0

// Package nodescript renders the shell script with which a machine joins: it checks the machine, writes what the kubelet needs, starts it
// and undoes everything if that fails. It is for POSIX sh: dash, bash and busybox.
package nodescript

import (
	"cmp"
	"embed"
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/util/validation"
	"sigs.k8s.io/yaml"
)

// Method is what lets the kubelet join.
type Method string

// The methods.
const (
	// Detect is Kubeadm where kubeadm is installed, else Kubelet.
	Detect Method = ""
	// Kubelet restarts the kubelet with a bootstrap kubeconfig.
	Kubelet Method = "kubelet"
	// Kubeadm runs kubeadm join.
	Kubeadm Method = "kubeadm"
)

// Lines of the script's standard output and input in a join without a token. The script prints RequestLine with the method, a CSR in PEM,
// and EndLine. It reads a kubeconfig and EndLine. Nothing may be sent before the script has printed EndLine, since some shells read ahead.
const (
	RequestLine = "NODEBOOTSTRAP-REQUEST"
	MemberLine  = "NODEBOOTSTRAP-MEMBER"
	EndLine     = "NODEBOOTSTRAP-END"
)

// Paths are those of the machine. Default has kubeadm's.
type Paths struct {
	// BootstrapKubeconfig and Kubeconfig are kubelet's --bootstrap-kubeconfig and --kubeconfig.
	BootstrapKubeconfig, Kubeconfig string
	// CA is the file for the cluster's CA, to which clientCAFile of the kubelet configuration refers.
	CA string
	// KubeletConfig is kubelet's --config.
	KubeletConfig string
	// Key is the node's first private key, until the node has joined.
	Key string
	// Unit is the systemd unit of the kubelet.
	Unit string
	// RuntimeSocket is the container runtime's, with or without unix://. If it is empty, the script looks for it as kubelet and kubeadm do.
	RuntimeSocket string
}

// Default are the paths of kubeadm and its packages.
var Default = Paths{
	BootstrapKubeconfig: "/etc/kubernetes/bootstrap-kubelet.conf",
	Kubeconfig:          "/etc/kubernetes/kubelet.conf",
	CA:                  "/etc/kubernetes/pki/ca.crt",
	KubeletConfig:       "/var/lib/kubelet/config.yaml",
	Key:                 "/var/lib/kubelet/pki/node.key",
	Unit:                "kubelet",
}

// DefaultLimit is how long the script waits for the node's certificate.
const DefaultLimit = 2 * time.Minute

// Options are what the script needs to know.
type Options struct {
	// Node is the name of the Node. It is required, like Server and CA.
	Node string
	// Server is the https URL of the API server.
	Server string
	// CA is the CA of the API server, in PEM.
	CA []byte
	// With is the method.
	With Method
	// Paths are required, except for RuntimeSocket: see Default.
	Paths Paths
	// KubeletConfiguration is for a machine that has none. kubeadm brings its own.
	KubeletConfiguration []byte
	// IgnorePreflightErrors are for kubeadm join.
	IgnorePreflightErrors []string
	// Rendered is now. A machine's clock that is more than five minutes behind it is wrong.
	Rendered time.Time
	// Expires is when the bootstrap token expires. Zero: that is not checked.
	Expires time.Time
	// Limit is how long to wait for the certificate: DefaultLimit if zero.
	Limit time.Duration
	// Kubeconfig is a bootstrap kubeconfig with a token, which makes the script a secret. If it is empty, the script creates a key and
	// exchanges a CSR for a kubeconfig on its standard output and input.
	Kubeconfig []byte
	// OnlyMember ends the script with MemberLine if the machine is this node already, else with ExitNotMember or ExitOtherNode. Server and CA
	// are not required.
	OnlyMember bool
	// CheckOnly ends the script after the checks, before anything is written.
	CheckOnly bool
}

//go:embed checks.sh steps.sh
var functions embed.FS

var (
	safePath = regexp.MustCompile(`^/[A-Za-z0-9_./@:-]*[A-Za-z0-9_@-]$`)
	safeWord = regexp.MustCompile(`^[A-Za-z0-9_.@:\\-]+$`)
)

// Render returns the script. Its error names the invalid option, and contains no secret.
func Render(o Options) ([]byte, error) {
	if err := o.validate(); err != nil {
		return nil, err
	}
	join, err := o.joinConfiguration()
	if err != nil {
		return nil, err
	}
	var out strings.Builder
	fmt.Fprintf(&out, "#!/bin/sh\n# Lets this machine join the cluster at %s as the node %s. Run it as root.\n", o.Server, o.Node)
	if len(o.Kubeconfig) > 0 {
		out.WriteString("# It contains a bootstrap token: keep it secret until the node has joined.\n")
	}
	out.WriteString("# Exit codes:\n")
	for _, e := range ExitCodes {
		fmt.Fprintf(&out, "#  %2d  %s\n", e.Code, e.What)
	}
	out.WriteString("#\n# The shell runs nothing before it has read the closing brace: an incomplete script does nothing.\n{\n")
	for _, e := range ExitCodes {
		if e.name != "" {
			fmt.Fprintf(&out, "%s=%d\n", e.name, e.Code)
		}
	}
	for _, v := range o.variables(join) {
		fmt.Fprintf(&out, "%s=%s\n", v.name, quote(v.value))
	}
	for _, file := range []string{"checks.sh", "steps.sh"} {
		text, err := functions.ReadFile(file)
		if err != nil {
			return nil, err
		}
		out.WriteByte('\n')
		out.Write(text)
	}
	out.WriteString("\nmain\n}\n")
	return []byte(out.String()), nil
}

type variable struct{ name, value string }

// variables are those of the script. Their names keep the shell from exporting them because the environment has the same ones.
func (o *Options) variables(join []byte) []variable {
	expires := "0"
	if !o.Expires.IsZero() {
		expires = strconv.FormatInt(o.Expires.Unix(), 10)
	}
	return []variable{
		{"nb_node", o.Node}, {"nb_server", o.Server}, {"nb_ca_certificates", string(o.CA)}, {"nb_method", string(o.With)},
		{"nb_bootstrap", o.Paths.BootstrapKubeconfig}, {"nb_kubeconfig", o.Paths.Kubeconfig}, {"nb_ca", o.Paths.CA},
		{"nb_config", o.Paths.KubeletConfig}, {"nb_key", o.Paths.Key}, {"nb_unit", o.Paths.Unit}, {"nb_runtime", o.Paths.RuntimeSocket},
		{"nb_kubelet_configuration", string(o.KubeletConfiguration)}, {"nb_join_configuration", string(join)},
		{"nb_rendered", strconv.FormatInt(o.Rendered.Unix(), 10)}, {"nb_expires", expires},
		{"nb_limit", strconv.Itoa(int(o.limit().Seconds()))}, {"nb_check_only", truth(o.CheckOnly)},
		{"nb_only_member", truth(o.OnlyMember)},
		{"nb_token_kubeconfig", string(o.Kubeconfig)},
	}
}

func (o *Options) limit() time.Duration { return cmp.Or(o.Limit, DefaultLimit) }

// truth is a truth value as the script has it: empty if false.
func truth(b bool) string {
	if b {
		return "true"
	}
	return ""
}

// quote returns a word of the shell.
func quote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }

func (o *Options) validate() error {
	if problems := validation.IsDNS1123Subdomain(o.Node); len(problems) > 0 {
		return fmt.Errorf("%q is not a valid name of a node: %s", o.Node, strings.Join(problems, "; "))
	}
	if server, err := url.Parse(o.Server); !o.OnlyMember && (err != nil || server.Scheme != "https" || server.Host == "") {
		return fmt.Errorf("the API server %q is not an https URL", o.Server)
	}
	if len(o.CA) == 0 && !o.OnlyMember {
		return errors.New("the CA of the API server is missing")
	}
	if err := o.With.Validate(); err != nil {
		return err
	}
	return o.Paths.Validate()
}

// Validate returns why a method is none.
func (m Method) Validate() error {
	switch m {
	case Detect, Kubelet, Kubeadm:
		return nil
	}
	return fmt.Errorf("a machine joins with kubelet or kubeadm, not with %q", m)
}

// Validate returns what of the paths the script cannot use.
func (p *Paths) Validate() error {
	for _, path := range []struct{ of, value string }{
		{"bootstrap kubeconfig", p.BootstrapKubeconfig}, {"kubeconfig", p.Kubeconfig}, {"CA", p.CA},
		{"kubelet configuration", p.KubeletConfig}, {"key", p.Key}, {"runtime socket", strings.TrimPrefix(p.RuntimeSocket, "unix://")},
	} {
		isDefault := path.of == "runtime socket" && p.RuntimeSocket == ""
		if !isDefault && !safePath.MatchString(path.value) {
			return fmt.Errorf("the path of the %s, %q, is not an absolute path of letters, digits and any of _./@:-", path.of, path.value)
		}
	}
	if !safeWord.MatchString(p.Unit) || strings.HasPrefix(p.Unit, "-") {
		return fmt.Errorf("%q is not the name of a systemd unit", p.Unit)
	}
	return nil
}

// discoveryFile is replaced by the script, which chooses the path.
const discoveryFile = "DISCOVERY_FILE"

// joinConfiguration is kubeadm's (kubeadm.k8s.io/v1beta4, from kubeadm 1.31 on).
func (o *Options) joinConfiguration() ([]byte, error) {
	registration := map[string]any{"name": o.Node}
	if o.Paths.RuntimeSocket != "" {
		registration["criSocket"] = "unix://" + strings.TrimPrefix(o.Paths.RuntimeSocket, "unix://")
	}
	if len(o.IgnorePreflightErrors) > 0 {
		registration["ignorePreflightErrors"] = o.IgnorePreflightErrors
	}
	return yaml.Marshal(map[string]any{
		"apiVersion":       "kubeadm.k8s.io/v1beta4",
		"kind":             "JoinConfiguration",
		"discovery":        map[string]any{"file": map[string]any{"kubeConfigPath": discoveryFile}},
		"nodeRegistration": registration,
		"timeouts":         map[string]any{"discovery": "1m0s", "tlsBootstrap": o.limit().String()},
	})
}
