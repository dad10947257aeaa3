// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/internal/check"
	"github.com/nodebootstrap/nodebootstrap/internal/csr"
	"github.com/nodebootstrap/nodebootstrap/internal/nodescript"
	"github.com/nodebootstrap/nodebootstrap/internal/steps"
	"github.com/nodebootstrap/nodebootstrap/internal/token"
)

// maxPending bounds how many pending CSRs of a node are explained.
const maxPending = 5

// machineLimit bounds the time of the checks on a machine.
const machineLimit = time.Minute

// readNode reads the facts about one node. The CSRs are those that the facts have.
func (g *gatherer) readNode(ctx context.Context, f *check.Facts, name string) *check.NodeFacts {
	n := &check.NodeFacts{
		Name:          name,
		NodeBootstrap: find(ctx, g.client, "", name, &v1alpha1.NodeBootstrap{}),
		Lease:         find(ctx, g.client, corev1.NamespaceNodeLease, name, &coordinationv1.Lease{}),
	}
	n.Pending.Err = f.Requests.Err
	for i := range f.Requests.Value {
		r := &f.Requests.Value[i]
		if n.NodeBootstrap.Value == nil || !csr.Undecided(r) || !isOf(n.NodeBootstrap.Value, r) {
			continue
		}
		if len(n.Pending.Value) < maxPending {
			n.Pending.Value = append(n.Pending.Value, check.Pending{Request: r, Why: g.whyPending(ctx, r, f.ServerTime)})
		} else {
			n.MorePending++
		}
	}
	return n
}

// isOf reports whether a CSR was sent with a token of a node, or by the node.
func isOf(nb *v1alpha1.NodeBootstrap, r *certificatesv1.CertificateSigningRequest) bool {
	id := token.IDOfUser(r.Spec.Username)
	for _, t := range nb.Status.Tokens {
		if id != "" && t.ID == id {
			return true
		}
	}
	return id != "" && nb.Status.Token != nil && nb.Status.Token.ID == id || r.Spec.Username == "system:node:"+nb.Name
}

// whyPending is why the operator has not decided a CSR, as the command explain says it.
func (g *gatherer) whyPending(ctx context.Context, r *certificatesv1.CertificateSigningRequest, now time.Time) string {
	s := newSituation(r, now)
	if err := s.gather(ctx, g.client); err != nil {
		return "why is not known: " + err.Error()
	}
	e := s.explain()
	if e.Verdict.Reason == "" {
		return e.Whose + ". " + e.ToDo
	}
	return e.Verdict.Reason + ", " + e.Verdict.Message
}

// checkMachine runs the checks of kubectl nodebootstrap join on a machine, and no more.
func (o *checkOptions) checkMachine(ctx context.Context, c client.Client, f *check.Facts) []check.Result {
	result := func(status check.Status, message string) []check.Result {
		return []check.Result{{Name: check.Machine, Status: status, Message: message}}
	}
	nb := f.Node.NodeBootstrap.Value
	if nb == nil {
		return result(check.Skipped, "its NodeBootstrap is not known, see nodebootstrap")
	}
	target := check.TargetFor(f, nb)
	if target.Problem != nil || target.Unknown != "" {
		return result(check.Skipped, "the server or its CA is not known, see server-known")
	}
	options, err := o.script.options(ctx, c, nb.Name, clusterOnly(target.Server, target.CA))
	if err != nil {
		return result(check.Warning, "not checked: "+err.Error())
	}
	options.CheckOnly, options.OnlyMember = true, steps.IsMember(nb)
	script, err := nodescript.Render(options)
	if err != nil {
		return result(check.Warning, "not checked: "+err.Error())
	}
	ctx, cancel := context.WithTimeout(ctx, machineLimit)
	defer cancel()
	var results []check.Result
	s, err := o.machine.start(ctx, script, func(line string) {
		if text, isCheck := strings.CutPrefix(line, "[check] "); isCheck {
			results = append(results, result(check.Passed, text)...)
		} else if text, isDone := strings.CutPrefix(line, "[done] "); isDone {
			results = append(results, result(check.Passed, text)...)
		} else {
			fmt.Fprintln(o.ErrOut, line)
		}
	})
	if err != nil {
		return result(check.Failed, err.Error())
	}
	_, answerErr := s.answer()
	code := s.wait()
	switch {
	case code != 0:
		what, todo := splitAdvice(s.explain(code))
		results = append(results, check.Result{Name: check.Machine, Status: check.Failed, Message: what, Fix: todo})
	case answerErr != nil:
		results = append(results, result(check.Failed, answerErr.Error())...)
	}
	return results
}

// splitAdvice returns what an error of the machine's side says, and what to do.
func splitAdvice(err error) (what, todo string) {
	if e, ok := errors.AsType[*joinError](err); ok && e.todo != "" {
		return printable(e.what), printable(e.todo)
	}
	what, todo, _ = strings.Cut(printable(err.Error()), ". ")
	return what, todo
}

// clusterOnly is a kubeconfig with a server and its CA, and without credentials.
func clusterOnly(server string, ca []byte) *clientcmdapi.Config {
	const name = "cluster"
	config := clientcmdapi.NewConfig()
	config.Clusters[name] = &clientcmdapi.Cluster{Server: server, CertificateAuthorityData: ca}
	config.Contexts[name] = &clientcmdapi.Context{Cluster: name}
	config.CurrentContext = name
	return config
}
