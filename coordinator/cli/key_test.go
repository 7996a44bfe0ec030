package cli_test

import (
	"bytes"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/modelfleet/modelfleet/coordinator/cli"
	"github.com/modelfleet/modelfleet/coordinator/cli/console"
)

// person runs a command on a terminal at which somebody types the answers.
func person(t *testing.T, want int, answers string, args ...string) (said string) {
	t.Helper()
	var out bytes.Buffer
	code := cli.Run(t.Context(), cli.Options{
		Args: args, Env: func(string) string { return "" }, Version: "v1",
		Streams: console.Streams{In: strings.NewReader(answers), Out: &out, Err: &out, Person: true},
	})
	if code != want {
		t.Fatalf("modelfleet %s: exit %d, want %d\n%s", strings.Join(args, " "), code, want, &out)
	}
	return out.String()
}

func saysAll(t *testing.T, text string, parts ...string) {
	t.Helper()
	for _, p := range parts {
		if !strings.Contains(text, p) {
			t.Errorf("it does not say %q:\n%s", p, text)
		}
	}
}

// On a terminal init asks for what it needs, and a custodian is asked before
// anything is signed.
func TestCeremonyOnATerminal(t *testing.T) {
	t.Chdir(t.TempDir())
	if err := os.Mkdir("bucket", 0o755); err != nil {
		t.Fatal(err)
	}
	said := person(t, 0, "apples\napples\n", "key", "create", "root-ana.pem", "--encrypt")
	saysAll(t, said, "Passphrase of root-ana.pem:", "Once more:", "root-ana.pub")
	said = person(t, 2, "apples\npears\n", "key", "create", "x.pem", "--encrypt")
	saysAll(t, said, "differ")
	person(t, 2, "", "key", "create", "x.key")
	person(t, 0, "", "key", "create", "root-ben.pem")

	said = person(t, 0, "orchard\ndir:bucket\nvision\nroot-ana.pub root-ben.pub\n\n", "init", "--dir", "orchard")
	saysAll(t, said, "What is the fleet's name?", "How many of them must sign? [2]", "root itself: 2 of ana")
	const file = "orchard/orchard-root-1-policy-1.ceremony.json"
	said = person(t, 130, "no\n", "key", "sign", file, "--key", "root-ben.pem")
	saysAll(t, said, "Sign this?", "nothing was signed")
	said = person(t, 0, "yes\n", "key", "sign", file, "--key", "root-ben.pem")
	saysAll(t, said, "signed root and policy", "root needs 2 signatures")
	saysAll(t, person(t, 2, "yes\n", "key", "sign", file, "--key", "root-ana.pub"), "this is a public key", "root-ana.pem")
	// A signature that was changed on its way is named, and nothing goes on with it.
	whole, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	at := bytes.Index(whole, []byte(`"sig":"`)) + 30
	bad := bytes.Clone(whole)
	bad[at] = map[bool]byte{true: '1', false: '0'}[bad[at] == '0']
	if err := os.WriteFile("bad.json", bad, 0o644); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"show", "bad.json"}, {"sign", "bad.json", "--key", "root-ana.pem", "--yes"}, {"publish", "bad.json", "--dir", "orchard"}} {
		saysAll(t, person(t, 6, "", append([]string{"key"}, args...)...), "bad.json", "the signature of ben", "does not fit the root")
	}
	if err := os.WriteFile("unsigned.json", whole, 0o644); err != nil {
		t.Fatal(err)
	}
	said = person(t, 0, "yes\napples\n", "key", "sign", file, "--key", "root-ana.pem")
	saysAll(t, said, "Passphrase of root-ana.pem:", "enough have signed")
	said = person(t, 0, "", "key", "publish", "unsigned.json", "--dir", "orchard")
	saysAll(t, said, "used too, though in none of the files given: the signature of ana", "on root, from orchard/", "fleet orchard: root", "objects uploaded to dir:")
	said = person(t, 0, "orchard\ndir:bucket\nvision\nnone\n", "init", "--dir", "orchard")
	saysAll(t, said, "fleet orchard is there already, whole")
	saysAll(t, person(t, 0, "", "key", "publish", "unsigned.json", "--dir", "orchard"), "there already, whole")
	if err := os.Mkdir("bucket-2", 0o755); err != nil {
		t.Fatal(err)
	}
	person(t, 0, "", "init", "--dir", "other", "--name", "orchard", "--team", "vision", "--bucket", "dir:bucket-2", "--root-key", "root-ana.pub", "--root-key", "root-ben.pub", "--threshold", "1")
	saysAll(t, person(t, 4, "", "key", "publish", "other/orchard-root-1-policy-1.ceremony.json", "--dir", "orchard"), "did not begin with this")

	// The policy may ask for a pipeline's word.
	if err := os.WriteFile("trusted_root.json", []byte("{}\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	keyless := []string{"key", "keyless", "--dir", "orchard", "--team", "vision", "--issuer", "https://token.example", "--subject", "https://example/release.yml"}
	saysAll(t, person(t, 2, "", keyless...), "--trusted-root")
	said = person(t, 0, "", append(keyless, "--trusted-root", "trusted_root.json", "--out", "k.json")...)
	saysAll(t, said, "trust/keyless.json: {", "https://example/release.yml", "policy needs 2 signatures")
	person(t, 3, "", "key", "keyless", "--dir", "orchard", "--team", "vision", "--remove")
	// A rehearsal leaves nothing behind.
	person(t, 0, "", "key", "rotate", "audit", "--dir", "orchard", "--rehearse")
	if _, err := os.Stat("orchard/keys/audit-2.key"); err == nil {
		t.Error("a rehearsal left a key behind")
	}
	saysAll(t, person(t, 0, "", "key", "rotate", "audit", "--dir", "orchard", "--out", "a.json"), "audit-2.key", "trust/audit.vkey")
	saysAll(t, person(t, 0, "", "doctor", "--offline", "--dir", "orchard"), "key audit.key", "it signs the audit log", "not in use yet", "holds device CA ")
	if err := os.WriteFile("context.json", []byte(`{"fleet":"plums","url":"http://127.0.0.1:1","pin":"","token":"x"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	saysAll(t, person(t, 4, "", "doctor", "--context", "context.json", "--dir", "orchard"), "bad   fleets", "these are two fleets", "-> name the folder of fleet plums")
	saysAll(t, person(t, 6, "", "key", "publish", "a.json", "--dir", "orchard"), "a.json", "modelfleet key sign a.json")
	person(t, 0, "", "key", "sign", "a.json", "--key", "root-ben.pem", "--yes")
	person(t, 0, "apples\n", "key", "sign", "a.json", "--key", "root-ana.pem", "--yes")
	// Whoever writes to the bucket but cannot sign stops no ceremony.
	next := newestPolicy(t) + 1
	for _, junk := range []struct{ body, why string }{
		{`{"signed":{"_type":"root"},"signatures":[]}`, "bytes that are no metadata of targets"},
		{string(policyFile(t, next-1)), fmt.Sprintf("says version %d, not %d", next-1, next)},
		{string(bytes.Replace(policyFile(t, next-1), []byte(fmt.Sprintf(`"version":%d`, next-1)), []byte(fmt.Sprintf(`"version":%d`, next)), 1)), "signed by none of its keepers, and 2 of them are needed"},
	} {
		path := fmt.Sprintf("bucket/tuf/%d.targets.json", next)
		if err := os.WriteFile(path, []byte(junk.body), 0o644); err != nil {
			t.Fatal(err)
		}
		saysAll(t, person(t, 0, "", "key", "publish", "a.json", "--dir", "orchard"), fmt.Sprintf("tuf/%d.targets.json was junk", next), junk.why)
		saysAll(t, person(t, 0, "", "key", "publish", "a.json", "--dir", "orchard"), "published already, just so")
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
	}
	saysAll(t, person(t, 0, "", "key", "publish", "a.json", "--dir", "orchard"), "orchard/keys/audit-2.key must be in the keys folder", "takes it up within a minute")
	saysAll(t, person(t, 0, "", "key", "renew", "--dir", "orchard", "--rehearse"), "policy-3")
	root := "tuf/2.root.json"
	if err := os.WriteFile("bucket/"+root, []byte("junk"), 0o644); err != nil {
		t.Fatal(err)
	}
	person(t, 0, "", "key", "rotate", "timestamp", "--dir", "orchard", "--out", "t.json")
	person(t, 0, "", "key", "sign", "t.json", "--key", "root-ben.pem", "--yes")
	person(t, 0, "apples\n", "key", "sign", "t.json", "--key", "root-ana.pem", "--yes")
	saysAll(t, person(t, 0, "", "key", "publish", "t.json", "--dir", "orchard"), root+" was junk", "4 bytes that are no metadata of root")
	saysAll(t, person(t, 6, "yes\n", "key", "sign", "trusted_root.json", "--key", "root-ben.pem"), "hint: ")
	saysAll(t, person(t, 3, "", "key", "show", "none.json"), "hint: ")
}

// newestPolicy is the version of the newest policy in the bucket.
func newestPolicy(t *testing.T) int {
	t.Helper()
	for v := 1; ; v++ {
		if _, err := os.Stat(fmt.Sprintf("bucket/tuf/%d.targets.json", v)); err != nil {
			return v - 1
		}
	}
}

func policyFile(t *testing.T, version int) []byte {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("bucket/tuf/%d.targets.json", version))
	if err != nil {
		t.Fatal(err)
	}
	return b
}
