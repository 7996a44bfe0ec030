package e2e_test

import (
	"strings"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/modelfleet/modelfleet/pkg/signer/awskms/kmstest"
)

// keysInKMS is "kms make|disable|enable|forbid|allow ALIAS": a key of the script's
// AWS KMS, which every program that is started from then on finds by its
// environment, with the credentials it asks for.
func keysInKMS(ts *testscript.TestScript, _ bool, args []string) {
	s := on(ts)
	if len(args) != 2 {
		ts.Fatalf("usage: kms make|disable|enable|forbid|allow ALIAS")
	}
	if s.kms == nil {
		s.kms = kmstest.Start()
		for _, v := range s.kms.Env() {
			name, value, _ := strings.Cut(v, "=")
			ts.Setenv(name, value)
			s.names = append(s.names, name)
		}
	}
	switch verb, id := args[0], args[1]; verb {
	case "make":
		s.kms.Key(id)
	case "disable":
		s.kms.Change(id, func(k *kmstest.Key) { k.State = "Disabled" })
	case "enable":
		s.kms.Change(id, func(k *kmstest.Key) { k.State = "Enabled" })
	case "forbid":
		s.kms.Change(id, func(k *kmstest.Key) { k.Denied = true })
	case "allow":
		s.kms.Change(id, func(k *kmstest.Key) { k.Denied = false })
	default:
		ts.Fatalf("kms cannot %s a key", verb)
	}
}
