// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/duration"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	"k8s.io/cli-runtime/pkg/printers"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
)

const none = "none"

func newStatusCommand(streams genericiooptions.IOStreams, connect connector) *cobra.Command {
	return &cobra.Command{
		Use:   "status NAME",
		Short: "Show what a node is waiting for",
		Long: `Show what a node is waiting for: the state of its NodeBootstrap, its credential, and the decisions on its certificates.

To list all NodeBootstraps, or to wait in a script, use kubectl: see the examples.

Requires permission to get the NodeBootstrap.`,
		Example: `  kubectl nodebootstrap status worker-1

  # All of them, one per line
  kubectl get nodebootstraps -o wide

  # Wait until the node has joined
  kubectl wait --for=condition=Joined nodebootstrap/worker-1 --timeout=10m`,
		Args:              oneName,
		ValidArgsFunction: completeNames(connect, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := connect()
			if err != nil {
				return err
			}
			nb, err := get(cmd.Context(), c, args[0])
			if err != nil {
				return err
			}
			return printers.WriteEscaped(streams.Out, describe(nb, time.Now()))
		},
	}
}

// describe returns a description of a NodeBootstrap at a time, for people.
func describe(nb *v1alpha1.NodeBootstrap, now time.Time) string {
	var out strings.Builder
	describeState(&out, nb, now)
	describeConditions(&out, nb.Status.Conditions, now)
	describeCertificates(&out, nb.Status.Certificates, now)
	return out.String()
}

// warnings are the conditions, except the alarm, that a user should see in addition to Ready.
var warnings = []struct {
	condition string
	status    metav1.ConditionStatus
}{
	{v1alpha1.ConditionKeyConflict, metav1.ConditionTrue},
	{v1alpha1.ConditionCertificateNotRevoked, metav1.ConditionTrue},
	{v1alpha1.ConditionApprovalEnforced, metav1.ConditionFalse},
}

func describeState(out io.Writer, nb *v1alpha1.NodeBootstrap, now time.Time) {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	defer w.Flush()
	ready, reason, message := readyCondition(nb)
	row := func(label, value string) { fmt.Fprintf(w, "%s:\t%s\n", label, value) }
	row("Name", nb.Name)
	row("Ready", strings.Join(strings.Fields(ready+" "+reason), ", "))
	row("Message", message)
	if alarm := meta.FindStatusCondition(nb.Status.Conditions, v1alpha1.ConditionTokenMisused); alarm != nil {
		row("Alarm", alarm.Reason+": "+alarm.Message)
	}
	for _, w := range warnings {
		if c := meta.FindStatusCondition(nb.Status.Conditions, w.condition); c != nil && c.Status == w.status {
			row("Warning", c.Reason+": "+c.Message)
		}
	}
	row("Server", cmp.Or(nb.Status.Server, none))
	row("Token", tokenText(nb.Status.Token, now))
	row("Kubeconfig", secretText(nb.Status.KubeconfigSecretRef))
	if since := nb.Status.AwaitingSince; since != nil {
		row("Awaited since", stamp(*since, now))
	}
	if text := reissueText(nb); text != "" {
		row("Reissue", text)
	}
}

func describeConditions(out io.Writer, conditions []metav1.Condition, now time.Time) {
	if len(conditions) == 0 {
		fmt.Fprintln(out, "Conditions:  "+none)
		return
	}
	fmt.Fprintln(out, "Conditions:")
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	defer w.Flush()
	fmt.Fprint(w, "  Type\tStatus\tReason\tFor\tMessage\n")
	for _, c := range conditions {
		fmt.Fprintf(w, "  %s\t%s\t%s\t%s\t%s\n", c.Type, c.Status, c.Reason, duration.HumanDuration(now.Sub(c.LastTransitionTime.Time)), c.Message)
	}
}

func describeCertificates(out io.Writer, decisions []v1alpha1.CertificateDecision, now time.Time) {
	if len(decisions) == 0 {
		fmt.Fprintln(out, "Certificate requests:  "+none)
		return
	}
	fmt.Fprintln(out, "Certificate requests:")
	for _, d := range decisions {
		describeDecision(out, d, now)
	}
}

func describeDecision(out io.Writer, d v1alpha1.CertificateDecision, now time.Time) {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	defer w.Flush()
	fmt.Fprintf(w, "  %s\n", d.Name)
	fmt.Fprintf(w, "    Decision:\t%s, %s, %s\n", d.Verdict, d.Reason, stamp(d.Time, now))
	if d.Message != "" {
		fmt.Fprintf(w, "    Message:\t%s\n", d.Message)
	}
	fmt.Fprintf(w, "    Signer:\t%s\n", d.SignerName)
	fmt.Fprintf(w, "    Token:\t%s\n", cmp.Or(d.TokenID, none))
	fmt.Fprintf(w, "    Key:\t%s\n", cmp.Or(d.KeyFingerprint, none))
	if d.IssuedTime != nil {
		fmt.Fprintf(w, "    Issued:\t%s\n", stamp(*d.IssuedTime, now))
	}
}

func tokenText(t *v1alpha1.TokenStatus, now time.Time) string {
	if t == nil {
		return none
	}
	return t.ID + ", expires " + stamp(t.ExpirationTime, now)
}

func secretText(ref *v1alpha1.SecretReference) string {
	if ref == nil {
		return none
	}
	return "Secret " + ref.Namespace + "/" + ref.Name
}

func reissueText(nb *v1alpha1.NodeBootstrap) string {
	if pending := reissuePending(nb); pending != "" {
		return "requested at " + pending + ", not handled yet"
	}
	if handled := nb.Status.LastHandledReissueAt; handled != "" {
		return "requested at " + handled + ", handled"
	}
	return ""
}

// stamp returns a time and its distance from now.
func stamp(t metav1.Time, now time.Time) string {
	text := t.UTC().Format(time.RFC3339)
	if d := t.Sub(now); d > 0 {
		return text + " (in " + duration.HumanDuration(d) + ")"
	}
	return text + " (" + duration.HumanDuration(now.Sub(t.Time)) + " ago)"
}
