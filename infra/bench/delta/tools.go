package delta

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
)

// files is what a tool works on: paths, all in one folder of its own.
type files struct {
	base, next  string // given
	patch, back string // made: the update, and the file that came out of it
	dir         string
	baseSize    int64
	width       int // bytes of an element
}

// tool is a way to ship an update.
type tool struct {
	name    string
	program string // to be found on the path
	peer    bool   // one that ours is compared with; the others are shown
	encode  func(f files) []string
	decode  func(f files) []string
	prepare func(f files) []string       // what is there before the update; not measured
	size    func(f files) (int64, error) // of the update; default: of the file patch
}

// tools lists the anchors; codec is the program of this benchmark.
func tools(codec string) []tool {
	patchFrom := func(level string) tool {
		return tool{name: "zstd " + level + " --patch-from", program: "zstd", peer: level == "-19",
			encode: func(f files) []string {
				return []string{"-q", "-f", level, "--patch-from=" + f.base, f.next, "-o", f.patch}
			},
			decode: func(f files) []string {
				return []string{"-q", "-f", "-d", "--patch-from=" + f.base, f.patch, "-o", f.back}
			}}
	}
	window := func(f files) string { return strconv.FormatInt(max(f.baseSize, 1<<19), 10) }
	return []tool{
		{name: "zstd -3 full", program: "zstd",
			encode: func(f files) []string { return []string{"-q", "-f", "-3", f.next, "-o", f.patch} },
			decode: func(f files) []string { return []string{"-q", "-f", "-d", f.patch, "-o", f.back} }},
		casync(),
		patchFrom("-3"),
		patchFrom("-19"),
		{name: "xdelta3 -9", program: "xdelta3", peer: true,
			encode: func(f files) []string {
				return []string{"-f", "-9", "-e", "-B", window(f), "-s", f.base, f.next, f.patch}
			},
			decode: func(f files) []string {
				return []string{"-f", "-d", "-B", window(f), "-s", f.base, f.patch, f.back}
			}},
		{name: "bsdiff", program: "bsdiff", peer: true,
			encode: func(f files) []string { return []string{f.base, f.next, f.patch} },
			decode: func(f files) []string { return []string{"bspatch", f.base, f.back, f.patch} }},
		{name: "XOR+planes+zstd best", program: codec, peer: true,
			encode: func(f files) []string {
				return []string{"planes", "-width", strconv.Itoa(f.width), f.next, f.base, f.patch}
			},
			decode: func(f files) []string {
				return []string{"unplanes", "-width", strconv.Itoa(f.width), f.patch, f.base, f.back}
			}},
	}
}

// casync is content-defined chunking, as casync, desync and Xet ship files: what
// counts is the chunks that the base does not have, and the list of them.
func casync() tool {
	store := func(f files, name string) string { return filepath.Join(f.dir, name+".castr") }
	make := func(f files, name, in string) []string {
		return []string{"make", "--store=" + store(f, name), "--chunk-size=16384:65536:262144", filepath.Join(f.dir, name+".caibx"), in}
	}
	return tool{name: "casync 16:64:256 KiB", program: "casync",
		prepare: func(f files) []string { return make(f, "base", f.base) },
		encode:  func(f files) []string { return make(f, "next", f.next) },
		decode: func(f files) []string {
			return []string{"extract", "--store=" + store(f, "next"), filepath.Join(f.dir, "next.caibx"), f.back}
		},
		size: func(f files) (int64, error) {
			list, err := os.Stat(filepath.Join(f.dir, "next.caibx"))
			if err != nil {
				return 0, err
			}
			sum := list.Size()
			err = filepath.WalkDir(store(f, "next"), func(path string, d fs.DirEntry, err error) error {
				if err != nil || d.IsDir() {
					return err
				}
				rel, err := filepath.Rel(store(f, "next"), path)
				if err != nil {
					return err
				}
				if _, err := os.Stat(filepath.Join(store(f, "base"), rel)); err == nil {
					return nil
				}
				info, err := d.Info()
				if err == nil {
					sum += info.Size()
				}
				return err
			})
			return sum, err
		}}
}

// available leaves out, aloud, the tools that are not installed.
func available(all []tool, logf func(string, ...any)) []tool {
	var found []tool
	for _, t := range all {
		if _, err := exec.LookPath(t.program); err != nil {
			logf("SKIPPED: %s: %v (apt-get install %s)", t.name, err, t.program)
			continue
		}
		found = append(found, t)
	}
	return found
}

// cost is what an update by one tool takes.
type cost struct {
	Size           int64
	Encode, Decode speed
}

// speed of a step for a second of processor time, and the memory it took at its
// peak.
type speed struct{ MBps, MiB float64 }

// cost is that of an update from a tool's run, now or before.
func (t tool) cost(ctx context.Context, f files) (cost, error) {
	path, c, ok, err := t.recalled(f)
	if ok || err != nil {
		return c, err
	}
	if c, err = t.run(ctx, f); err != nil {
		return c, err
	}
	return c, remember(path, c)
}

// run makes an update, applies it and compares.
func (t tool) run(ctx context.Context, f files) (c cost, err error) {
	if err := os.MkdirAll(f.dir, 0o755); err != nil {
		return c, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(f.dir)) }()
	f.patch, f.back = filepath.Join(f.dir, "patch"), filepath.Join(f.dir, "back")
	next, err := os.ReadFile(f.next)
	if err != nil {
		return c, err
	}
	if t.prepare != nil {
		if _, err := step(ctx, t.program, t.prepare(f), len(next)); err != nil {
			return c, err
		}
	}
	if c.Encode, err = step(ctx, t.program, t.encode(f), len(next)); err != nil {
		return c, err
	}
	program, args := t.program, t.decode(f)
	if args[0] == "bspatch" {
		program, args = args[0], args[1:]
	}
	if c.Decode, err = step(ctx, program, args, len(next)); err != nil {
		return c, err
	}
	if back, err := os.ReadFile(f.back); err != nil || string(back) != string(next) {
		return c, errors.Join(err, fmt.Errorf("%s: what it unpacked is not what it packed", t.name))
	}
	if t.size != nil {
		c.Size, err = t.size(f)
		return c, err
	}
	info, err := os.Stat(f.patch)
	if err == nil {
		c.Size = info.Size()
	}
	return c, err
}
