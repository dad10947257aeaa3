// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

const accepted = "token-of-the-user"

// The plugin authenticates its user in the ways that kubectl does, with the user's kubeconfig.
func TestUsersOfKubeconfigs(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("the credential plugin is a shell command")
	}
	provider := identityProvider(t)
	oidc := func(idToken string) *clientcmdapi.AuthInfo {
		return authProvider("oidc", map[string]string{
			"idp-issuer-url": provider.URL, "idp-certificate-authority-data": base64.StdEncoding.EncodeToString(certificateOf(provider)),
			"client-id": "kubernetes", "id-token": idToken, "refresh-token": "refresh",
		})
	}
	for name, tc := range map[string]struct {
		user    *clientcmdapi.AuthInfo
		token   string   // that the API server accepts
		want    []string // in the error
		renewed bool
	}{
		"exec":                     {user: execUser(`echo "$KUBERNETES_EXEC_INFO" | grep -q '"interactive":false' && echo '` + execCredential + `'`), token: accepted},
		"exec that fails":          {user: execUser("echo please log in first >&2; exit 3"), want: []string{"getting credentials: exec", "exit code 3"}},
		"exec that is missing":     {user: &clientcmdapi.AuthInfo{Exec: &clientcmdapi.ExecConfig{APIVersion: execVersion, Command: "kubelogin-of-nobody", InteractiveMode: "Never"}}, want: []string{"kubelogin-of-nobody", "not found"}},
		"oidc":                     {user: oidc(idToken(time.Hour)), token: idToken(time.Hour)},
		"oidc, with a new token":   {user: oidc(idToken(-time.Hour)), token: idToken(2 * time.Hour), renewed: true},
		"gcp, which is superseded": {user: authProvider("gcp", nil), want: []string{"gke-gcloud-auth-plugin"}},
		"azure, the same":          {user: authProvider("azure", nil), want: []string{"kubelogin"}},
	} {
		t.Run(name, func(t *testing.T) {
			server := apiServer(t, tc.token)
			file := writeKubeconfig(t, server, tc.user)
			flags := connectionFlags()
			*flags.KubeConfig = file
			streams, _, _, _ := genericiooptions.NewTestIOStreams()
			c, err := connect(flags, streams)
			if err == nil {
				_, err = get(t.Context(), c, node)
			}
			switch {
			case tc.want != nil && err == nil:
				t.Fatal("no error")
			case tc.want != nil:
				mention(t, "the error", err.Error(), tc.want...)
			case err != nil:
				t.Fatal(err)
			}
			content, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if stored := strings.Contains(string(content), idToken(2*time.Hour)); stored != tc.renewed {
				t.Errorf("a new token was stored: %v, want %v", stored, tc.renewed)
			}
		})
	}
}

const (
	execVersion    = "client.authentication.k8s.io/v1"
	execCredential = `{"apiVersion": "` + execVersion + `", "kind": "ExecCredential", "status": {"token": "` + accepted + `"}}`
)

func execUser(script string) *clientcmdapi.AuthInfo {
	return &clientcmdapi.AuthInfo{Exec: &clientcmdapi.ExecConfig{
		APIVersion: execVersion, Command: "sh", Args: []string{"-c", script}, InteractiveMode: "Never", ProvideClusterInfo: true,
	}}
}

func authProvider(name string, config map[string]string) *clientcmdapi.AuthInfo {
	return &clientcmdapi.AuthInfo{AuthProvider: &clientcmdapi.AuthProviderConfig{Name: name, Config: config}}
}

// idToken returns a token of an identity provider that is valid for a while. Its signature is for the API server to check.
func idToken(valid time.Duration) string {
	claims := fmt.Sprintf(`{"sub": "alice", "exp": %d}`, testStart.Add(valid).Unix())
	return "e30." + base64.RawURLEncoding.EncodeToString([]byte(claims)) + ".c2ln"
}

var testStart = time.Now()

// identityProvider has a new token for whoever has the refresh token.
func identityProvider(t *testing.T) *httptest.Server {
	t.Helper()
	mux := http.NewServeMux()
	server := httptest.NewTLSServer(mux)
	t.Cleanup(server.Close)
	mux.HandleFunc("GET /.well-known/openid-configuration", func(w http.ResponseWriter, _ *http.Request) {
		answerJSON(w, map[string]any{"issuer": server.URL, "token_endpoint": server.URL + "/token"})
	})
	mux.HandleFunc("POST /token", func(w http.ResponseWriter, r *http.Request) {
		if r.FormValue("grant_type") != "refresh_token" || r.FormValue("refresh_token") != "refresh" {
			http.Error(w, "invalid_grant", http.StatusBadRequest)
			return
		}
		answerJSON(w, map[string]any{"access_token": "unused", "token_type": "bearer", "refresh_token": "refresh", "id_token": idToken(2 * time.Hour)})
	})
	return server
}

// apiServer has one NodeBootstrap, for whoever has the token.
func apiServer(t *testing.T, token string) *httptest.Server {
	t.Helper()
	mux := http.NewServeMux()
	mux.HandleFunc("GET /api", func(w http.ResponseWriter, _ *http.Request) { answerJSON(w, metav1.APIVersions{}) })
	mux.HandleFunc("GET /apis", func(w http.ResponseWriter, _ *http.Request) {
		version := metav1.GroupVersionForDiscovery{GroupVersion: "nodebootstrap.io/v1alpha1", Version: "v1alpha1"}
		answerJSON(w, metav1.APIGroupList{Groups: []metav1.APIGroup{
			{Name: "nodebootstrap.io", Versions: []metav1.GroupVersionForDiscovery{version}, PreferredVersion: version},
		}})
	})
	mux.HandleFunc("GET /apis/nodebootstrap.io/v1alpha1", func(w http.ResponseWriter, _ *http.Request) {
		answerJSON(w, metav1.APIResourceList{GroupVersion: "nodebootstrap.io/v1alpha1", APIResources: []metav1.APIResource{{Name: "nodebootstraps", Kind: "NodeBootstrap"}}})
	})
	mux.HandleFunc("GET /apis/nodebootstrap.io/v1alpha1/nodebootstraps/"+node, func(w http.ResponseWriter, _ *http.Request) {
		nb := awaiting()
		nb.APIVersion, nb.Kind = "nodebootstrap.io/v1alpha1", "NodeBootstrap"
		answerJSON(w, nb)
	})
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer "+token {
			http.Error(w, "Unauthorized", http.StatusUnauthorized)
			return
		}
		mux.ServeHTTP(w, r)
	}))
	t.Cleanup(server.Close)
	return server
}

func answerJSON(w http.ResponseWriter, value any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(value)
}

func certificateOf(server *httptest.Server) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
}

func writeKubeconfig(t *testing.T, server *httptest.Server, user *clientcmdapi.AuthInfo) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "kubeconfig")
	err := clientcmd.WriteToFile(clientcmdapi.Config{
		Clusters:       map[string]*clientcmdapi.Cluster{"c": {Server: server.URL, CertificateAuthorityData: certificateOf(server)}},
		AuthInfos:      map[string]*clientcmdapi.AuthInfo{"u": user},
		Contexts:       map[string]*clientcmdapi.Context{"x": {Cluster: "c", AuthInfo: "u"}},
		CurrentContext: "x",
	}, file)
	if err != nil {
		t.Fatal(err)
	}
	return file
}
