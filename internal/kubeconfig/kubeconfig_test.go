// SPDX-License-Identifier: Apache-2.0

package kubeconfig_test

import (
	"bytes"
	"flag"
	"os"
	"path/filepath"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/tools/clientcmd"
	"pgregory.net/rapid"

	"github.com/nodebootstrap/nodebootstrap/api/v1alpha1"
	"github.com/nodebootstrap/nodebootstrap/internal/kubeconfig"
	"github.com/nodebootstrap/nodebootstrap/internal/nodetest"
	"github.com/nodebootstrap/nodebootstrap/internal/owned"
	"github.com/nodebootstrap/nodebootstrap/internal/token"
)

var update = flag.Bool("update", false, "write the golden files again")

func TestKubeconfigIsAsItAlwaysWas(t *testing.T) {
	cluster := kubeconfig.Cluster{Server: nodetest.Server, CA: []byte("-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n")}
	got := nodetest.Must(kubeconfig.Render(cluster, token.Token{ID: "abc123", Secret: token.NewSecretPart("0123456789abcdef")}))
	golden := filepath.Join("testdata", "kubeconfig.golden")
	if *update {
		if err := os.WriteFile(golden, got, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if want := nodetest.Must(os.ReadFile(golden)); !bytes.Equal(got, want) {
		t.Errorf("nodes would get another file than before; if that is intended, run go test -update. Got\n%swant\n%s", got, want)
	}
}

// A kubelet reads from the file what the operator put in.
func TestKubeconfigLoads(t *testing.T) {
	cluster := kubeconfig.Cluster{Server: nodetest.Server, CA: goodCA()}
	config, err := clientcmd.RESTConfigFromKubeConfig(nodetest.Must(kubeconfig.Render(cluster, nodetest.Token(1, 0))))
	if err != nil {
		t.Fatal(err)
	}
	if config.Host != nodetest.Server || !bytes.Equal(config.CAData, cluster.CA) || config.BearerToken != nodetest.NthID(1)+"."+nodetest.Canary {
		t.Errorf("got host %s, token %s and CA\n%s", config.Host, config.BearerToken, config.CAData)
	}
	if config.Insecure || config.Username != "" || config.CertData != nil || config.Impersonate.UserName != "" {
		t.Error("the file contains more than endpoint, CA and token")
	}
}

func TestKubeconfigSecret(t *testing.T) {
	cluster := kubeconfig.Cluster{Server: nodetest.Server, CA: goodCA()}
	s := nodetest.Must(kubeconfig.NewSecret(nodetest.NodeBootstrap(), nodetest.Namespace, cluster, nodetest.Token(1, 0)))
	if s.Namespace != nodetest.Namespace || s.Name != "bootstrap-kubeconfig-worker-1" || s.Type != corev1.SecretTypeOpaque {
		t.Errorf("it is %s/%s of type %s", s.Namespace, s.Name, s.Type)
	}
	if len(s.Data) != 2 || !bytes.Equal(s.Data["ca.crt"], cluster.CA) || !bytes.Equal(s.Data["kubeconfig"], nodetest.Must(kubeconfig.Render(cluster, nodetest.Token(1, 0)))) {
		t.Error("its data is not exactly the kubeconfig and the CA")
	}
	if !owned.Ours(s, nodetest.NodeName) || !owned.By(s, nodetest.NodeBootstrap()) {
		t.Errorf("its owner is %v", s.OwnerReferences)
	}
	if owner := s.OwnerReferences[0]; owner.BlockOwnerDeletion != nil || owner.APIVersion != "nodebootstrap.io/v1alpha1" {
		t.Errorf("its owner is %v", owner)
	}
}

// A kubeconfig from the template is, byte for byte, the output of clientcmd; also if the token is a number in YAML, or the server has the
// name of the token in the template.
func TestKubeconfigIsWhatClientcmdWrites(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		letters := rapid.SampledFrom([]string{"[0-9]", "[0-9e]", "[a-z0-9]"}).Draw(t, "letters")
		id, part := rapid.StringMatching(letters+"{6}").Draw(t, "id"), rapid.StringMatching(letters+"{16}").Draw(t, "part")
		host := rapid.SampledFrom([]string{"api.example.com", "aaaaaa.aaaaaaaaaaaaaaaa", id + "." + part + ".example"}).Draw(t, "host")
		cluster, problem := kubeconfig.Resolve(v1alpha1.ClusterSpec{Server: "https://" + host, CABundle: string(goodCA())}, kubeconfig.Sources{}, nodetest.Now)
		if problem != nil || cluster.Template() == nil {
			t.Fatalf("no template: %v", problem)
		}
		got := nodetest.Must(kubeconfig.Render(cluster, token.Token{ID: id, Secret: token.NewSecretPart(part)}))
		if want := nodetest.Must(kubeconfig.Marshal(cluster, id+"."+part)); !bytes.Equal(got, want) {
			t.Fatalf("got\n%s\nwant\n%s", got, want)
		}
		if loaded := nodetest.Must(clientcmd.RESTConfigFromKubeConfig(got)); loaded.BearerToken != id+"."+part || loaded.Host != "https://"+host {
			t.Fatalf("a kubelet reads the token %s and the server %s", loaded.BearerToken, loaded.Host)
		}
	})
}

func BenchmarkKubeconfigSecret(b *testing.B) {
	spec := v1alpha1.ClusterSpec{Server: nodetest.Server, CABundle: string(goodCA())}
	resolved, _ := kubeconfig.Resolve(spec, kubeconfig.Sources{}, nodetest.Now)
	for name, cluster := range map[string]kubeconfig.Cluster{"rendered": {Server: nodetest.Server, CA: goodCA()}, "from the template": resolved} {
		b.Run(name, func(b *testing.B) {
			nb, t := nodetest.NodeBootstrap(), nodetest.Token(1, 0)
			b.ReportAllocs()
			for b.Loop() {
				if _, err := kubeconfig.NewSecret(nb, nodetest.Namespace, cluster, t); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
