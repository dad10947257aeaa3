// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	certificatesv1 "k8s.io/api/certificates/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/internal/csr"
)

func newExplainCommand(streams genericiooptions.IOStreams, connect connector) *cobra.Command {
	var file string
	cmd := &cobra.Command{
		Use:   "explain CSR",
		Short: "Explain why a CSR was approved, denied or ignored",
		Long: `Explain why a CertificateSigningRequest (CSR) was approved, denied or ignored: each check of the operator in its order,
the verdict, who gave it, and what to do. The checks are the operator's own code. For a CSR that the operator does not
decide it says whose it looks to be.

  ✔ the CSR has what the check requires    ✗ the check that decided    ! not known here    - not reached

With --filename it needs no cluster. The file has the CSR, and if possible its NodeBootstrap, other CSRs and other
NodeBootstraps, as YAML or JSON. What only the cluster knows is then marked with !.

Requires permission to get and list CertificateSigningRequests and NodeBootstraps. With permission to get nodes, Leases in
kube-node-lease and Secrets in kube-system (of which only the metadata is read) it knows more; otherwise it says so.

docs/verdicts.md has all checks and reasons.`,
		Example: `  # Why is this request denied, or still pending?
  kubectl get csr
  kubectl nodebootstrap explain csr-7kx2m

  # What would the operator decide on this request of the NodeBootstrap worker-1? Without a cluster
  (kubectl get csr csr-7kx2m -o yaml; echo ---; kubectl get nodebootstrap worker-1 -o yaml) > request.yaml
  kubectl nodebootstrap explain --filename request.yaml

  # The check that decided, for scripts
  kubectl nodebootstrap explain csr-7kx2m -o json | jq -r '.checks[] | select(.state == "Failed").check'`,
		ValidArgsFunction: completeRequests(connect),
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) > 1 || len(args) == 0 && file == "" {
				return usageError(cmd, fmt.Errorf("%s takes the name of one CertificateSigningRequest, or --filename, and %d were given", cmd.CommandPath(), len(args)))
			}
			return nil
		},
	}
	cmd.Flags().StringVarP(&file, "filename", "f", "", `Read the CSR from a file instead of the cluster; "-" is stdin.`)
	output := addOutput(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		s, err := situationOf(cmd.Context(), connect, streams, file, nameOf(args))
		if err != nil {
			return err
		}
		e := s.explain()
		if output.isStructured() {
			return output.print(streams.Out, e)
		}
		return e.write(streams.Out, s.now)
	}
	return cmd
}

// nameOf is the name in the arguments, which can be the output of kubectl get csr -o name.
func nameOf(args []string) string {
	name := strings.Join(args, "")
	return name[strings.LastIndex(name, "/")+1:]
}

// situationOf reads a CSR and its facts from a file or from a cluster.
func situationOf(ctx context.Context, connect connector, streams genericiooptions.IOStreams, file, name string) (*situation, error) {
	if file != "" {
		return readSituation(streams, file, name)
	}
	c, err := connect()
	if err != nil {
		return nil, err
	}
	var r certificatesv1.CertificateSigningRequest
	switch err := c.Get(ctx, client.ObjectKey{Name: name}, &r); {
	case apierrors.IsNotFound(err):
		return nil, noSuchRequest(ctx, c, name)
	case apierrors.IsForbidden(err):
		return nil, fmt.Errorf("this requires permission to get certificatesigningrequests.certificates.k8s.io: %w", err)
	case err != nil:
		return nil, fmt.Errorf("cannot get the CSR %s: %w", name, err)
	}
	s := newSituation(&r, time.Now())
	return s, s.gather(ctx, c)
}

// noSuchRequest returns what is still recorded about a CSR that does not exist.
func noSuchRequest(ctx context.Context, c client.Reader, name string) error {
	var all v1alpha1.NodeBootstrapList
	if err := c.List(ctx, &all); err != nil {
		all.Items = nil // the CSR does not exist in any case
	}
	for _, nb := range all.Items {
		i := slices.IndexFunc(nb.Status.Certificates, func(d v1alpha1.CertificateDecision) bool { return d.Name == name })
		if i < 0 {
			continue
		}
		d := nb.Status.Certificates[i]
		return fmt.Errorf("the CSR %s was deleted. The status of the NodeBootstrap %s says: %s, %s, at %s. %s", name, nb.Name,
			d.Verdict, clean(d.Reason), d.Time.UTC().Format(time.RFC3339), strings.TrimSpace(clean(d.Message)+" "+advice(d.Reason, nb.Name, name)))
	}
	return fmt.Errorf("the CSR %s does not exist, and no NodeBootstrap has a record of it: kubectl get csr lists those that exist. "+
		"Kubernetes deletes a decided CSR after an hour, and the operator deletes pending ones whose token it revokes", name)
}

// explain runs the operator's code on the facts.
func (s *situation) explain() *explanation {
	e := s.describe()
	recorded := s.recorded(e)
	if s.facts == nil {
		e.Whose, e.ToDo = s.foreign()
		if recorded == nil {
			e.Verdict = explainedVerdict{State: pending}
		}
		return e
	}
	e.NodeBootstrap = s.facts.Name
	e.Whose = s.whose()
	result, evaluated := s.decide(e, recorded)
	if recorded != nil && recorded.Reason != result.Reason && csr.CheckOf(recorded.Reason) != "" {
		result.Check, result.Reason, result.Message, evaluated = csr.CheckOf(recorded.Reason), recorded.Reason, recorded.Message, true
	}
	if evaluated {
		// What the operator decided, it decided with all facts.
		certain := recorded != nil && e.Verdict.By == byOperator && recorded.Reason == result.Reason
		e.Checks = s.findings(result, certain)
		e.Verdict.Unknown = slices.ContainsFunc(e.Checks, func(c csr.Finding) bool { return c.State == unknownState })
	}
	e.ToDo = advice(e.Verdict.Reason, s.facts.Name, s.request.Name)
	if late := s.overdue(e.Verdict); late != "" {
		e.ToDo = late
	}
	if result.Reason != "" && e.Verdict.By != "" && e.Verdict.By != byOperator {
		e.Verdict.Operators = result.Reason
	}
	return e
}

// completeRequests offers the names of CSRs, pending ones first.
func completeRequests(connect connector) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, prefix string) ([]cobra.Completion, cobra.ShellCompDirective) {
		if len(args) > 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		requests, err := listRequests(cmd.Context(), connect)
		if err != nil {
			cobra.CompErrorln(err.Error())
			return nil, cobra.ShellCompDirectiveError | cobra.ShellCompDirectiveNoFileComp
		}
		var waiting, decided []cobra.Completion
		for i := range requests {
			r := &requests[i]
			switch {
			case !strings.HasPrefix(r.Name, prefix):
			case csr.Undecided(r):
				waiting = append(waiting, cobra.CompletionWithDesc(r.Name, pending+", "+clean(r.Spec.Username)))
			default:
				decided = append(decided, cobra.CompletionWithDesc(r.Name, stateOf(r)+", "+clean(r.Spec.Username)))
			}
		}
		return append(waiting, decided...), cobra.ShellCompDirectiveNoFileComp | cobra.ShellCompDirectiveKeepOrder
	}
}

func listRequests(ctx context.Context, connect connector) ([]certificatesv1.CertificateSigningRequest, error) {
	ctx, cancel := context.WithTimeout(ctx, completionLimit)
	defer cancel()
	c, err := connect()
	if err != nil {
		return nil, err
	}
	var out certificatesv1.CertificateSigningRequestList
	if err := c.List(ctx, &out); err != nil {
		return nil, err
	}
	if len(out.Items) == 0 {
		return nil, errors.New("there are no CertificateSigningRequests")
	}
	return out.Items, nil
}
