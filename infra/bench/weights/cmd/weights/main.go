// Command weights writes the trained models of the benchmarks to files:
// weights [-quick] FOLDER gives CASE.DTYPE.EXT in the folder, the base as
// v1.DTYPE.EXT.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"path/filepath"

	"github.com/modelfleet/modelfleet/infra/bench/weights"
)

func main() {
	quick := flag.Bool("quick", false, "smaller models")
	flag.Parse()
	s := weights.Standard()
	if *quick {
		s = weights.Quick()
	}
	if flag.NArg() != 1 {
		fmt.Fprintln(os.Stderr, "usage: weights [-quick] FOLDER")
		os.Exit(2)
	}
	if err := run(context.Background(), s, flag.Arg(0)); err != nil {
		fmt.Fprintln(os.Stderr, "weights:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, s weights.Settings, dir string) error {
	set, err := weights.Load(ctx, s, func(format string, args ...any) { fmt.Fprintf(os.Stderr, format+"\n", args...) })
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	for _, name := range append(weights.Cases(), weights.Base) {
		for _, d := range weights.DTypes() {
			data, err := d.Encode(set.Model(name))
			if err != nil {
				return err
			}
			if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("%s.%s.%s", name, d, d.Ext())), data, 0o644); err != nil {
				return err
			}
		}
	}
	return nil
}
