// SPDX-License-Identifier: Apache-2.0

package bootstrap

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
)

const (
	young = time.Hour      // a token that is not due
	due   = 21 * time.Hour // a token whose renewal is due: the latest moment is at 20 h
	old   = 25 * time.Hour // a token that has expired
)

func foreignKubeconfig() *corev1.Secret {
	return &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: testNamespace, Name: KubeconfigSecretName(testNode)}}
}

func noCluster(f *Facts) {
	f.Cluster, f.ClusterProblem = Cluster{}, &Problem{v1alpha1.ReasonServerUnknown, "no server"}
}

// addToken adds the nth token, made for what is asked for now.
func (f *Facts) addToken(n int, age time.Duration) {
	nb := f.NodeBootstrap
	if nb == nil {
		nb = nodeBootstrap()
	}
	f.TokenSecrets = append(f.TokenSecrets, tokenSecretOf(nb, n, age))
}

func deadlineAfter(d time.Duration) func(*Facts) {
	return func(f *Facts) { f.NodeBootstrap.Spec.Token.JoinDeadline = &metav1.Duration{Duration: d} }
}

func TestDecideWithoutNodeBootstrap(t *testing.T) {
	gone := func(f *Facts) { f.NodeBootstrap = nil }
	testPlans(t, map[string]planned{
		"nothing there":       {fresh(), gone, outline{phase: Gone}},
		"leftovers":           {awaited(1, young), gone, outline{phase: Gone, deleteToken: "#1", dropConfig: true}},
		"two tokens":          {awaited(1, due), func(f *Facts) { gone(f); f.addToken(2, young) }, outline{phase: Gone, deleteToken: "#1 #2", dropConfig: true}},
		"a token, malformed":  {awaited(1, young), func(f *Facts) { gone(f); f.TokenSecrets[0].Data = nil }, outline{phase: Gone, deleteToken: "#1", dropConfig: true}},
		"another's Secret":    {fresh(), func(f *Facts) { gone(f); f.Kubeconfig = foreignKubeconfig() }, outline{phase: Gone}},
		"a Node that is left": {fresh(), func(f *Facts) { gone(f); f.Node = nodeMade(young) }, outline{phase: Gone}},
	})
}

func TestDecideMintsATokenWhereThereIsNone(t *testing.T) {
	first := outline{phase: Awaited, mint: "#1"}
	testPlans(t, map[string]planned{
		"fresh":                      {fresh(), nil, first},
		"bindings are being made":    {fresh(), func(f *Facts) { f.BindingsProblem = &Problem{Reason: v1alpha1.ReasonBindingsPending} }, first},
		"before the deadline":        {fresh(), deadlineAfter(2 * time.Hour), first},
		"a Node made ahead":          {fresh(), func(f *Facts) { f.Node = nodeMade(young) }, first},
		"a reissue from the start":   {fresh(), askReissue, outline{phase: Awaited, reissue: true, mint: "#1"}},
		"no cluster":                 {fresh(), noCluster, outline{phase: Awaited, problem: v1alpha1.ReasonServerUnknown}},
		"another's binding":          {fresh(), func(f *Facts) { f.BindingsProblem = &Problem{Reason: v1alpha1.ReasonObjectNotOurs} }, outline{phase: Awaited, problem: v1alpha1.ReasonObjectNotOurs}},
		"another's Secret":           {fresh(), func(f *Facts) { f.Kubeconfig = foreignKubeconfig() }, outline{phase: Awaited, problem: v1alpha1.ReasonObjectNotOurs}},
		"a kubeconfig without token": {fresh(), func(f *Facts) { f.Kubeconfig = kubeconfigSecret(1) }, first},
		"the same and no cluster": {fresh(), func(f *Facts) { noCluster(f); f.Kubeconfig = kubeconfigSecret(1) },
			outline{phase: Awaited, problem: v1alpha1.ReasonServerUnknown, dropConfig: true}},
		"the token deleted by hand": {awaited(2, young), func(f *Facts) { f.TokenSecrets = nil }, outline{phase: Awaited, mint: "#3"}},
		"the token expired":         {awaited(2, old), nil, outline{phase: Awaited, mint: "#3", deleteToken: "#2"}},
		"expired and no cluster":    {awaited(2, old), noCluster, outline{phase: Awaited, problem: v1alpha1.ReasonServerUnknown, deleteToken: "#2", dropConfig: true}},
		"nobody knows of a token":   {awaited(2, young), func(f *Facts) { f.TokenSecrets, f.NodeBootstrap.Status.LastTokenID = nil, "" }, outline{phase: Awaited, mint: "#3"}},
		"there was one, long ago":   {fresh(), func(f *Facts) { f.NodeBootstrap.Status.LastTokenID = nthID(4) }, outline{phase: Awaited, mint: "#5"}},
		"the token malformed": {awaited(2, young), func(f *Facts) { f.TokenSecrets[0].Data["token-secret"] = []byte("x") },
			outline{phase: Awaited, mint: "#3", deleteToken: "#2"}},
		"the token being deleted": {awaited(2, young), func(f *Facts) { f.TokenSecrets[0].DeletionTimestamp = new(ago(0)) },
			outline{phase: Awaited, mint: "#3", deleteToken: "#2"}},
		"a token of a former NodeBootstrap": {awaited(1, young), func(f *Facts) {
			f.TokenSecrets[0].OwnerReferences[0].UID = formerUID
			f.NodeBootstrap.Status = v1alpha1.NodeBootstrapStatus{}
		}, outline{phase: Awaited, mint: "#1", deleteToken: "#1"}},
		"a token that was orphaned": {awaited(1, young), func(f *Facts) {
			f.TokenSecrets[0].OwnerReferences = nil
			f.NodeBootstrap.Status = v1alpha1.NodeBootstrapStatus{}
		}, outline{phase: Awaited, mint: "#1", deleteToken: "#1"}},
	})
}

func TestDecideKeepsTheLiveToken(t *testing.T) {
	second := outline{phase: Awaited, token: "#2"}
	ttl := func(d time.Duration) func(*Facts) {
		return func(f *Facts) { f.NodeBootstrap.Spec.Token.TTL = &metav1.Duration{Duration: d} }
	}
	repaired := outline{phase: Awaited, token: "#2", repair: "#2"}
	data := func(k, v string) func(*Facts) {
		return func(f *Facts) { f.TokenSecrets[0].Data[k] = []byte(v) }
	}
	testPlans(t, map[string]planned{
		"live":                          {awaited(2, young), nil, second},
		"live, the status was not told": {awaited(2, young), func(f *Facts) { f.NodeBootstrap.Status = v1alpha1.NodeBootstrapStatus{} }, second},
		"live, no kubeconfig yet":       {awaited(2, young), func(f *Facts) { f.Kubeconfig = nil }, second},
		"live and no cluster":           {awaited(2, young), noCluster, outline{phase: Awaited, token: "#2", problem: v1alpha1.ReasonServerUnknown}},
		"groups edited":                 {awaited(2, young), data("auth-extra-groups", "system:bootstrappers:x"), repaired},
		"put off":                       {awaited(2, young), data("expiration", "2046-03-04T05:06:07Z"), repaired},
		"expired by an edit":            {awaited(2, young), data("expiration", "2006-03-04T05:06:07Z"), repaired},
		"no end":                        {awaited(2, young), func(f *Facts) { delete(f.TokenSecrets[0].Data, "expiration") }, repaired},
		"may sign":                      {awaited(2, young), data("usage-bootstrap-signing", "true"), repaired},
		"may not authenticate":          {awaited(2, young), data("usage-bootstrap-authentication", "false"), repaired},
		"edited and no cluster": {awaited(2, young), func(f *Facts) { noCluster(f); data("auth-extra-groups", "")(f) },
			outline{phase: Awaited, token: "#2", repair: "#2", problem: v1alpha1.ReasonServerUnknown}},
		"a longer ttl asked":    {awaited(2, young), ttl(48 * time.Hour), second},
		"a shorter ttl asked":   {awaited(2, young), ttl(2 * time.Hour), repaired},
		"a ttl that has passed": {awaited(2, young), ttl(30 * time.Minute), repaired},
		"after the deadline":    {awaited(2, young), deadlineAfter(30 * time.Minute), second},
		"put off and expired": {awaited(2, old), data("expiration", "2046-03-04T05:06:07Z"),
			outline{phase: Awaited, mint: "#3", deleteToken: "#2"}},
	})
}

func TestDecideRenews(t *testing.T) {
	renewed := func(n int, age, before time.Duration) *Facts {
		f := awaited(n, age)
		f.addToken(n-1, before)
		return f
	}
	testPlans(t, map[string]planned{
		"due":                     {awaited(2, due), nil, outline{phase: Awaited, token: "#2", mint: "#3"}},
		"due and no cluster":      {awaited(2, due), noCluster, outline{phase: Awaited, token: "#2", problem: v1alpha1.ReasonServerUnknown}},
		"due after the deadline":  {awaited(2, due), deadlineAfter(30 * time.Minute), outline{phase: Awaited, token: "#2"}},
		"due at the deadline":     {awaited(2, due), deadlineAfter(time.Hour), outline{phase: Awaited, token: "#2"}},
		"due before the deadline": {awaited(2, due), deadlineAfter(time.Hour + time.Second), outline{phase: Awaited, token: "#2", mint: "#3"}},
		"renewed":                 {renewed(3, young, due), nil, outline{phase: Awaited, token: "#3"}},
		"renewed in the same second": {renewed(3, young, young), func(f *Facts) { f.TokenSecrets[0], f.TokenSecrets[1] = f.TokenSecrets[1], f.TokenSecrets[0] },
			outline{phase: Awaited, token: "#3"}},
		"renewed, a crash before the status": {renewed(3, young, due), func(f *Facts) { f.NodeBootstrap.Status = statusOf(2, due) }, outline{phase: Awaited, token: "#3"}},
		"renewed, the old one expired":       {renewed(3, young, old), nil, outline{phase: Awaited, token: "#3", deleteToken: "#2"}},
		"renewed, then deleted by hand": {awaited(2, due), func(f *Facts) { f.NodeBootstrap.Status = statusOf(3, young) },
			outline{phase: Awaited, token: "#2", mint: "#4"}},
		"three live": {renewed(3, young, 2*time.Hour), func(f *Facts) { f.addToken(1, 3*time.Hour) }, outline{phase: Awaited, token: "#3", deleteToken: "#1"}},
		"three live in another order": {awaited(1, 3*time.Hour), func(f *Facts) { f.addToken(3, young); f.addToken(2, 2*time.Hour) },
			outline{phase: Awaited, token: "#3", deleteToken: "#1"}},
		"both edited": {renewed(3, young, due), func(f *Facts) {
			for _, s := range f.TokenSecrets {
				delete(s.Data, "auth-extra-groups")
			}
		}, outline{phase: Awaited, token: "#3", repair: "#3 #2"}},
	})
}

func TestDecideAfterTheDeadline(t *testing.T) {
	after := deadlineAfter(30 * time.Minute)
	testPlans(t, map[string]planned{
		"no token":              {fresh(), after, outline{phase: DeadlineExceeded}},
		"at the deadline":       {fresh(), deadlineAfter(time.Hour), outline{phase: DeadlineExceeded}},
		"the token expired":     {awaited(1, old), after, outline{phase: DeadlineExceeded, deleteToken: "#1", dropConfig: true}},
		"no token, no cluster":  {fresh(), func(f *Facts) { after(f); noCluster(f) }, outline{phase: DeadlineExceeded, problem: v1alpha1.ReasonServerUnknown}},
		"another's Secret":      {fresh(), func(f *Facts) { after(f); f.Kubeconfig = foreignKubeconfig() }, outline{phase: DeadlineExceeded, problem: v1alpha1.ReasonObjectNotOurs}},
		"reissued since":        {awaited(1, old), func(f *Facts) { after(f); askReissue(f) }, outline{phase: Awaited, reissue: true, mint: "#2", deleteToken: "#1"}},
		"waited for since late": {awaited(1, old), func(f *Facts) { after(f); f.NodeBootstrap.Status.AwaitingSince = new(ago(time.Minute)) }, outline{phase: Awaited, mint: "#2", deleteToken: "#1"}},
	})
}

func TestDecideReissues(t *testing.T) {
	handled := func(f *Facts) { askReissue(f); f.NodeBootstrap.Status.LastHandledReissueAt = reissueAt }
	testPlans(t, map[string]planned{
		"due":                  {awaited(1, young), askReissue, outline{phase: Awaited, reissue: true, mint: "#2", deleteToken: "#1"}},
		"due and no cluster":   {awaited(1, young), func(f *Facts) { askReissue(f); noCluster(f) }, outline{phase: Awaited, reissue: true, problem: v1alpha1.ReasonServerUnknown, deleteToken: "#1", dropConfig: true}},
		"another one due":      {awaited(1, young), func(f *Facts) { askReissue(f); f.NodeBootstrap.Status.LastHandledReissueAt = "before" }, outline{phase: Awaited, reissue: true, mint: "#2", deleteToken: "#1"}},
		"handled":              {awaited(1, young), handled, outline{phase: Awaited, token: "#1"}},
		"of a joined node":     {joinedBefore(), askReissue, outline{phase: Awaited, reissue: true, mint: "#2"}},
		"crashed after mint":   {awaited(1, young), func(f *Facts) { askReissue(f); f.TokenSecrets = nil; f.addToken(2, 0) }, outline{phase: Awaited, reissue: true, token: "#2"}},
		"crashed in between":   {awaited(1, young), func(f *Facts) { askReissue(f); f.TokenSecrets = nil }, outline{phase: Awaited, reissue: true, mint: "#2"}},
		"deleted by a stale":   {awaited(1, young), func(f *Facts) { askReissue(f); f.addToken(2, 0) }, outline{phase: Awaited, reissue: true, token: "#2", deleteToken: "#1"}},
		"joined, then crashed": {joinedBefore(), func(f *Facts) { askReissue(f); f.addToken(2, 0) }, outline{phase: Awaited, reissue: true, token: "#2"}},
		"annotation taken out": {awaited(1, young), func(f *Facts) { handled(f); f.NodeBootstrap.Annotations = nil }, outline{phase: Awaited, token: "#1"}},
	})
}

const reissueAt = "2026-03-04T05:00:00Z"

func askReissue(f *Facts) {
	f.NodeBootstrap.Annotations = map[string]string{v1alpha1.ReissueRequestedAtAnnotation: reissueAt}
}
