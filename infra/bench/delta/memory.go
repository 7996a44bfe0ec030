package delta

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// What a tool makes of given files does not change, and bsdiff takes minutes:
// its result is kept in the user's cache, under a digest of the program, of what
// it is told and of both files. Whoever doubts removes the folder.

// recalled is the path of a tool's result, and the result if it is there.
func (t tool) recalled(f files) (path string, c cost, ok bool, err error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", c, false, err
	}
	program, err := exec.LookPath(t.program)
	if err != nil {
		return "", c, false, err
	}
	h := sha256.New()
	fmt.Fprintf(h, "%s %d\n", t.name, f.width)
	read := []string{program, f.base, f.next}
	if filepath.IsAbs(t.program) {
		read = read[1:] // the program of this benchmark: built anew each time, for the same result
	}
	for _, p := range read {
		b, err := os.ReadFile(p)
		if err != nil {
			return "", c, false, err
		}
		fmt.Fprintf(h, "%x\n", sha256.Sum256(b))
	}
	path = filepath.Join(cache, "modelfleet", "delta-tools", fmt.Sprintf("%x.json", h.Sum(nil)[:12]))
	b, err := os.ReadFile(path)
	if err == nil {
		err = json.Unmarshal(b, &c)
	}
	return path, c, err == nil, nil
}

// remember keeps a result.
func remember(path string, c cost) error {
	b, err := json.Marshal(c)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return os.WriteFile(path, b, 0o644)
}
