// Command verify checks a model against its OMS bundle and does nothing else:
// the smallest program that can, measured by the oms benchmark.
//
//	verify -key key.pub model.sig ./model
//	verify -root ca.pem model.sig ./model
package main

import (
	"context"
	"flag"
	"fmt"
	"os"

	"github.com/modelfleet/modelfleet/pkg/oms"
)

func main() {
	key := flag.String("key", "", "public key `file` in PEM")
	root := flag.String("root", "", "trusted certificate `file` in PEM")
	workers := flag.Int("workers", 0, "files or shards hashed at once; 0: one for each core")
	flag.Parse()
	if err := run(*key, *root, flag.Arg(0), flag.Arg(1), *workers); err != nil {
		fmt.Fprintln(os.Stderr, "verify:", err)
		os.Exit(1)
	}
}

func run(key, root, bundle, model string, workers int) error {
	raw, err := os.ReadFile(bundle)
	if err != nil {
		return err
	}
	b, err := oms.Parse(raw)
	if err != nil {
		return err
	}
	var m oms.Manifest
	if root != "" {
		m, err = byCertificate(b, root)
	} else {
		m, err = byKey(b, key)
	}
	if err != nil {
		return err
	}
	return m.Check(context.Background(), model, oms.CheckOptions{Workers: workers})
}
