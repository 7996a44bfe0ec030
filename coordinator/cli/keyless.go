package cli

import (
	"os"
	"strings"

	"github.com/spf13/pflag"

	"github.com/modelfleet/modelfleet/pkg/cas"
	"github.com/modelfleet/modelfleet/pkg/keyless"
)

// keylessFlags say with whose word to sign without a key.
type keylessFlags struct {
	token, fulcio, rekor string
}

func (k *keylessFlags) declare(f *pflag.FlagSet) {
	f.StringVar(&k.token, "identity-token-file", "", "`file` with the pipeline's identity token (JWT) of audience sigstore")
	f.StringVar(&k.fulcio, "fulcio-url", "", "`URL` of the Sigstore certificate authority; default: the public one")
	f.StringVar(&k.rekor, "rekor-url", "", "`URL` of the Sigstore transparency log; default: the public one")
}

// signing reads the token; without one nothing is signed so.
func (k *keylessFlags) signing() (keyless.Signing, error) {
	s := keyless.Signing{Fulcio: k.fulcio, Rekor: k.rekor}
	if k.token == "" {
		return s, nil
	}
	text, err := os.ReadFile(k.token)
	if err != nil {
		return s, cas.Classify("read identity token", k.token, err)
	}
	s.Token = strings.TrimSpace(string(text))
	return s, nil
}
