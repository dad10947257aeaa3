// SPDX-License-Identifier: Apache-2.0

package check

import (
	"crypto/x509"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/util/duration"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/internal/kubeconfig"
	"github.com/nodebootstrap/nodebootstrap/internal/problem"
)

// caWarning is how long before its end a CA deserves attention.
const caWarning = 90 * 24 * time.Hour

// Target is what the operator publishes for some NodeBootstraps.
type Target struct {
	kubeconfig.Cluster
	Problem *problem.Problem
	// Unknown is why the CA is not known here.
	Unknown string
	// For names a NodeBootstrap; empty if it is for all that do not say otherwise. OwnCA reports that its spec has the CA.
	For   string
	OwnCA bool
}

// Endpoint is what answers at a URL.
type Endpoint struct {
	// Addresses are those of its host, or Unresolved is why there are none.
	Addresses  []string
	Unresolved error
	// Chain are the certificates of the TLS server there, the leaf first, or Unreachable is why there are none.
	Chain       []*x509.Certificate
	Unreachable error
}

// maxTargets bounds how many servers are connected to: whoever can write NodeBootstraps chooses them.
const maxTargets = 10

// Targets are the first API servers and CAs that the operator publishes, each once.
func Targets(f *Facts) []Target {
	all := f.targets()
	return all[:min(len(all), maxTargets)]
}

func (f *Facts) targets() []Target {
	var out []Target
	add := func(t Target) {
		same := func(o Target) bool {
			return o.Server == t.Server && o.CAFingerprint == t.CAFingerprint && (o.Problem == nil) == (t.Problem == nil) && o.Unknown == t.Unknown
		}
		if !slices.ContainsFunc(out, same) {
			out = append(out, t)
		}
	}
	all := f.NodeBootstraps.Value
	if len(all) == 0 {
		add(f.target(v1alpha1.ClusterSpec{}, nil))
	}
	for i := range all {
		add(f.target(all[i].Spec.Cluster, &all[i]))
	}
	return out
}

// TargetFor is what the operator publishes for a NodeBootstrap.
func TargetFor(f *Facts, nb *v1alpha1.NodeBootstrap) Target { return f.target(nb.Spec.Cluster, nb) }

// target is what the operator publishes for a NodeBootstrap. Without a Deployment the manager's flags are not known, but what it has
// published.
func (f *Facts) target(spec v1alpha1.ClusterSpec, nb *v1alpha1.NodeBootstrap) Target {
	sources := kubeconfig.Sources{ClusterInfo: f.ClusterInfo.Value, RootCA: f.RootCA.Value, FlagServer: f.flag("cluster-server")}
	if len(f.Presented) > 0 {
		sources.Presented = [][]*x509.Certificate{f.Presented}
	}
	var t Target
	if nb != nil {
		if spec != (v1alpha1.ClusterSpec{}) {
			t.For, t.OwnCA = nb.Name, spec.CABundle != ""
		}
		if sources.FlagServer == "" && f.Deployment.Value == nil {
			sources.FlagServer = nb.Status.Server
		}
	}
	t.Cluster, t.Problem = kubeconfig.Resolve(spec, sources, f.ServerTime)
	if f.flag("cluster-ca-file") != "" && spec.CABundle == "" || nb != nil && nb.Status.CAFingerprint != "" && t.Problem == nil && t.CAFingerprint != nb.Status.CAFingerprint {
		t.Problem, t.Unknown = nil, "the CA comes from the manager's flag --cluster-ca-file, or has just changed"
		if t.Server == "" {
			t.Server = sources.FlagServer
		}
	}
	return t
}

// flag is the value of a flag in the operator's Deployment; empty if it has none.
func (f *Facts) flag(name string) string {
	if f.Deployment.Value == nil {
		return ""
	}
	for _, c := range f.Deployment.Value.Spec.Template.Spec.Containers {
		args := slices.Concat(c.Command, c.Args)
		for i, arg := range args {
			flag, value, found := strings.Cut(strings.TrimLeft(arg, "-"), "=")
			switch {
			case flag != name:
			case found:
				return value
			case i+1 < len(args):
				return args[i+1]
			}
		}
	}
	return ""
}

// setServer sets the URL of the API server for a target.
func (f *Facts) setServer(t *Target) string {
	const example = "https://api.example.com:6443"
	d := f.Deployment.Value
	switch {
	case t.For != "" || d == nil && len(f.NodeBootstraps.Value) > 0:
		name := t.For
		if name == "" {
			name = f.NodeBootstraps.Value[0].Name
		}
		return fmt.Sprintf(`kubectl patch nodebootstrap %s --type=merge -p '{"spec":{"cluster":{"server":"%s"}}}'`, name, example)
	case d != nil:
		return fmt.Sprintf(`kubectl patch deployment -n %s %s --type=json -p '[{"op":"add","path":"/spec/template/spec/containers/0/args/-","value":"--cluster-server=%s"}]'`,
			d.Namespace, d.Name, example)
	}
	return "set the manager's flag --cluster-server=" + example + " when you install it"
}

// perTarget is the result for each target that has what a check needs.
func perTarget(f *Facts, judge func(*Target) []Result) []Result {
	if err := first(f.NodeBootstraps.Err, f.ClusterInfo.Err); err != nil {
		return skipped("the API server's URL is not known, see server-known")
	}
	var out []Result
	for _, t := range Targets(f) {
		out = append(out, judge(&t)...)
	}
	return out
}

func serverKnown(f *Facts) []Result {
	if err := first(f.NodeBootstraps.Err, f.ClusterInfo.Err, f.RootCA.Err); err != nil {
		return unread(err)
	}
	var rest []Result
	if n := len(f.targets()) - maxTargets; n > 0 {
		rest = skipped("%d more servers and CAs of NodeBootstraps are not checked", n)
	}
	return append(perTarget(f, func(t *Target) []Result {
		switch {
		case t.Problem != nil && t.Problem.Reason == v1alpha1.ReasonCAExpired: // ca-lifetime reports it
			return passed("%s", t.Server)
		case t.Problem != nil && f.Before && t.Problem.Reason == v1alpha1.ReasonServerUnknown:
			return warning(f.setServer(t), "%s", t.Problem.Message)
		case t.Problem != nil:
			return failed(f.setServer(t), "%s%s", forName(t), t.Problem.Message)
		case t.Unknown != "":
			return passed("%s; %s", t.Server, t.Unknown)
		}
		return passed("%s, with the CA %.19s...", t.Server, t.CAFingerprint)
	}), rest...)
}

func forName(t *Target) string {
	if t.For == "" {
		return ""
	}
	return t.For + ": "
}

func serverReachable(f *Facts) []Result {
	return perTarget(f, func(t *Target) []Result {
		e, asked := f.Endpoints[t.Server]
		switch {
		case !asked:
			return skipped("the API server's URL is not known, see server-known")
		case e.Unresolved != nil:
			return failed(f.setServer(t), "%s: its name does not resolve from here: %v", t.Server, e.Unresolved)
		case e.Unreachable != nil:
			return failed(f.setServer(t), "%s cannot be reached from here: %v. If machines can reach it, leave this check out: --skip server-reachable", t.Server, e.Unreachable)
		}
		return passed("%s answers from here, at %s", t.Server, strings.Join(e.Addresses, ", "))
	})
}

func serverCertificate(f *Facts) []Result {
	return perTarget(f, func(t *Target) []Result {
		e := f.Endpoints[t.Server]
		switch {
		case len(e.Chain) == 0:
			return skipped("no certificate is known, see server-reachable")
		case t.Unknown != "":
			return warning("", "not checked against the CA: %s", t.Unknown)
		case t.Problem != nil:
			return skipped("the CA is not known, see server-known")
		}
		leaf := e.Chain[0]
		if err := f.verify(t, e.Chain); err != nil {
			fix := fmt.Sprintf("kubectl get configmap -n kube-public cluster-info -o yaml   # and compare its CA with that of %s", t.Server)
			return failed(t.fixCA(fix),
				"the certificate at %s does not chain to the CA that nodes get: %v", t.Server, err)
		}
		if err := leaf.VerifyHostname(host(t.Server)); err != nil {
			return failed(f.setServer(t), "%v. Set a URL with a host that the certificate has, or add this one to it (kubeadm: apiServer.certSANs)", err)
		}
		return passed("that of %s chains to the published CA, names the host, and is valid until %s", t.Server, leaf.NotAfter.UTC().Format(time.DateOnly))
	})
}

// fixCA is what to do about a CA: one in a spec is replaced by that of the cluster.
func (t *Target) fixCA(otherwise string) string {
	if t.OwnCA {
		return fmt.Sprintf(`kubectl patch nodebootstrap %s --type=merge -p '{"spec":{"cluster":{"caBundle":null}}}'   # or to the right CA`, t.For)
	}
	return otherwise
}

// verify checks a chain against the CA of a target, with the time of the API server: the clock has a check of its own.
func (f *Facts) verify(t *Target, chain []*x509.Certificate) error {
	roots, intermediates := x509.NewCertPool(), x509.NewCertPool()
	roots.AppendCertsFromPEM(t.CA)
	for _, c := range chain[1:] {
		intermediates.AddCert(c)
	}
	_, err := chain[0].Verify(x509.VerifyOptions{Roots: roots, Intermediates: intermediates, CurrentTime: f.ServerTime})
	return err
}

func host(server string) string {
	u, err := url.Parse(server)
	if err != nil {
		return ""
	}
	return u.Hostname()
}

func caLifetime(f *Facts) []Result {
	const fix = "kubeadm certs check-expiration   # on a control-plane machine; how to rotate a CA: https://kubernetes.io/docs/tasks/tls/manual-rotation-of-ca-certificates/"
	return perTarget(f, func(t *Target) []Result {
		left := t.CAExpires.Sub(f.ServerTime)
		switch {
		case t.Problem != nil && t.Problem.Reason == v1alpha1.ReasonCAExpired:
			return failed(t.fixCA(fix), "%s", t.Problem.Message)
		case t.CAExpires.IsZero():
			return skipped("the CA is not known, see server-known")
		case left <= 0:
			return failed(t.fixCA(fix), "the published CA expired %s ago", duration.HumanDuration(-left))
		case left < caWarning:
			return warning(t.fixCA(fix), "the published CA expires in %s", duration.HumanDuration(left))
		}
		return passed("the published CA is valid for %s, until %s", duration.HumanDuration(left), t.CAExpires.UTC().Format(time.DateOnly))
	})
}
