package e2e_test

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// Each section of the runbook ends with what rehearses it: scripts of testdata, and
// tests with the folder they are in. All of them exist, and where there is a script,
// the commands that the section prints are in it.
func TestTheRunbookIsRehearsed(t *testing.T) {
	t.Parallel()
	guide, err := os.ReadFile("../../docs/guides/runbook.md")
	if err != nil {
		t.Fatal(err)
	}
	sections := regexp.MustCompile(`(?m)^## `).Split(string(guide), -1)[1:]
	if len(sections) < 20 {
		t.Errorf("the runbook has %d sections", len(sections))
	}
	for _, text := range sections {
		title, body, _ := strings.Cut(text, "\n")
		_, by, found := strings.Cut(body, "\nRehearsed by ")
		if !found {
			t.Errorf("%q does not say what rehearses it", title)
			continue
		}
		lines := rehearsals(t, title, by)
		if lines == "" {
			continue // tests speak to the coordinator as the commands do
		}
		for _, command := range regexp.MustCompile(`(?m)^    (modelfleet.*?)(?: {2,}#.*)?$`).FindAllStringSubmatch(body, -1) {
			if missing := unrehearsed(command[1], lines); missing != "" {
				t.Errorf("%q prints a command that none of its scripts runs: %s (%s)", title, command[1], missing)
			}
		}
	}
}

// rehearsals checks that what a section names exists, and returns its scripts.
func rehearsals(t *testing.T, title, by string) (scripts string) {
	t.Helper()
	folder := ""
	for _, m := range regexp.MustCompile("`([\\w/-]+)`(:?)").FindAllStringSubmatch(by, -1) {
		name := m[1]
		switch {
		case m[2] == ":":
			folder = filepath.Join("../..", name)
		case strings.HasPrefix(name, "Test"):
			files, _ := filepath.Glob(filepath.Join(folder, "*_test.go")) // the pattern is right
			if !slices.ContainsFunc(files, func(path string) bool {
				b, err := os.ReadFile(path)
				return err == nil && strings.Contains(string(b), fmt.Sprintf("\nfunc %s(t *testing.T)", name))
			}) {
				t.Errorf("%q names %s, which is not in %q", title, name, folder)
			}
		default:
			b, err := os.ReadFile(filepath.Join("testdata", name+".txtar"))
			if err != nil {
				t.Errorf("%q names a script that is not there: %v", title, err)
			}
			scripts += string(b)
		}
	}
	return scripts
}

// unrehearsed is what of a command no line of the scripts has: its first words, or a
// flag; "" when one line has all.
func unrehearsed(command, scripts string) string {
	words := strings.Fields(command)
	name := regexp.MustCompile(`^modelfleet[\w-]*(?: [a-z][a-z-]*){0,2}`).FindString(command)
	var flags []string
	for _, w := range words {
		if strings.HasPrefix(w, "-") && !slices.Contains([]string{"--out", "--yes", "--dir", "-o", "-url", "--preset", "--release"}, w) {
			flags = append(flags, w)
		}
	}
	missing := "nothing begins with " + name
	for line := range strings.Lines(scripts) {
		if !strings.Contains(line, name+" ") && !strings.HasSuffix(strings.TrimSpace(line), name) {
			continue
		}
		i := slices.IndexFunc(flags, func(f string) bool {
			return !strings.Contains(line, " "+f+" ") && !strings.HasSuffix(strings.TrimSpace(line), f)
		})
		if i < 0 {
			return ""
		}
		missing = "without " + flags[i]
	}
	return missing
}
