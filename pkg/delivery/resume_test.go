package delivery_test

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"

	"github.com/modelfleet/modelfleet/pkg/cas"
	"github.com/modelfleet/modelfleet/pkg/delivery"
	"github.com/modelfleet/modelfleet/pkg/fleet"
	"github.com/modelfleet/modelfleet/pkg/oms"
	"github.com/modelfleet/modelfleet/pkg/registry/dir"
)

const installerArg = "installer"

// TestMain lets the test program be an installer that can be killed.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == installerArg {
		if err := installer(os.Args[2], os.Args[3], os.Args[4]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// installer installs slowly and prints how many bytes are verified.
func installer(bucket, storeDir, folder string) error {
	ctx := context.Background()
	reg, err := dir.Open(bucket)
	if err != nil {
		return err
	}
	store, err := cas.Open(storeDir)
	if err != nil {
		return err
	}
	man, err := oms.Hash(ctx, folder, oms.Options{Method: oms.Shards, ShardSize: shard})
	if err != nil {
		return err
	}
	f, err := delivery.New(delivery.Options{Store: store, Source: reg, Rate: 16 << 20})
	if err != nil {
		return err
	}
	_, err = f.Install(ctx, delivery.Want{Key: key(man), Manifest: man, Size: man.Size()}, func(p delivery.Progress) { fmt.Println(p.Done) })
	return err
}

func key(m oms.Manifest) fleet.Digest {
	return fleet.DigestOf(append([]byte(m.Name), m.Root[:]...))
}

// Killed in the middle again and again, an install still ends, and nearly every
// byte that was verified is used again.
func TestKilledInTheMiddleItGoesOn(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	m := model{"model.bin": noise(256*shard+5, 11), "config.json": []byte("{}")}
	want := w.publish(m, oms.Shards)
	var reached int64
	for _, percent := range []int64{25, 50, 75} {
		cmd := exec.CommandContext(t.Context(), os.Args[0], installerArg, w.bucket, w.store.Dir(), w.folder)
		cmd.Stderr = os.Stderr
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		before := reached
		resumed := before == 0
		for sc := bufio.NewScanner(out); sc.Scan(); {
			done, err := strconv.ParseInt(strings.TrimSpace(sc.Text()), 10, 64)
			if err != nil {
				t.Fatalf("the installer said %q", sc.Text())
			}
			// Resuming reports what it finds before anything is fetched, and the rate
			// cap keeps the fetching slow: the first jump is what was used again.
			if done >= before*95/100 {
				resumed = true
			}
			if reached = done; done > want.Size*percent/100 {
				break
			}
		}
		if err := cmd.Process.Kill(); err != nil { // SIGKILL: nothing is told, nothing is closed
			t.Fatal(err)
		}
		if err := cmd.Wait(); err == nil {
			t.Fatal("the installer finished before it was killed")
		}
		if w.store.HasRelease(want.Key) || !resumed {
			t.Fatal("half a release is visible, or nothing was resumed")
		}
	}
	res, err := w.fetcher(nil).Install(t.Context(), want, nil)
	if err != nil {
		t.Fatal(err)
	}
	w.holds(res.Dir, m)
	if again := res.Progress.Resume + res.Progress.From[delivery.Copy]; again < reached*95/100 {
		t.Errorf("%d of %d verified bytes were used again, less than 95 %%", again, reached)
	}
}
