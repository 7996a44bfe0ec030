//go:build keyless

package e2e_test

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/modelfleet/modelfleet/pkg/keyless/sigstoretest"
)

// TestKeylessScripts runs testdata/keyless: the fleet's programs with the tag
// keyless, the coordinator also without it as $PLAIN, and a Sigstore at $SIGSTORE
// that vouches for whom a script says.
func TestKeylessScripts(t *testing.T) {
	t.Parallel()
	sigstore := sigstoretest.Start(t)
	plain := filepath.Join(t.TempDir(), "modelfleet-coordinator")
	if out, err := exec.Command("go", "build", "-o", plain, "../../coordinator/cmd/modelfleet-coordinator").CombinedOutput(); err != nil {
		t.Fatalf("build the coordinator without the tag: %v\n%s", err, out)
	}
	p := scripts("testdata/keyless")
	p.Cmds["token"], p.Cmds["misquote"] = token, misquote
	p.Setup = func(env *testscript.Env) error {
		env.Setenv("PLAIN", plain)
		env.Setenv("SIGSTORE", sigstore.URL)
		if err := setUp(env); err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(env.WorkDir, "trusted_root.json"), sigstore.Root, 0o644)
	}
	testscript.Run(t, p)
}

// token is "token FILE ISSUER SUBJECT": the identity token that a pipeline gets.
func token(ts *testscript.TestScript, _ bool, args []string) {
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), []byte(sigstoretest.Token(args[1], args[2])), 0o600))
}

// misquote is "misquote BUNDLE WORD": somebody writes another release's name into
// what a bundle says.
func misquote(ts *testscript.TestScript, _ bool, args []string) {
	path := ts.MkAbs(args[0])
	raw, err := os.ReadFile(path)
	ts.Check(err)
	var bundle, statement map[string]any
	ts.Check(json.Unmarshal(raw, &bundle))
	envelope := bundle["dsseEnvelope"].(map[string]any)
	var payload []byte
	text, err := json.Marshal(envelope["payload"])
	ts.Check(err)
	ts.Check(json.Unmarshal(text, &payload)) // base64
	ts.Check(json.Unmarshal(payload, &statement))
	statement["subject"].([]any)[0].(map[string]any)["name"] = args[1]
	payload, err = json.Marshal(statement)
	ts.Check(err)
	envelope["payload"] = payload
	raw, err = json.Marshal(bundle)
	ts.Check(err)
	ts.Check(os.Chmod(path, 0o644))
	ts.Check(os.WriteFile(path, raw, 0o644))
}
