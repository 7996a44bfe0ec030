package command

import "testing"

func TestParseBytes(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]int64{"500000": 500000, "512KiB": 512 << 10, "2MiB": 2 << 20, "1.5GiB": 3 << 29} {
		if got, err := parseBytes(text); got != want || err != nil {
			t.Errorf("%s: got %d, %v, want %d", text, got, err, want)
		}
	}
	for _, bad := range []string{"", "MiB", "0", "-1", "2MB", "1e99GiB", "NaN"} {
		if got, err := parseBytes(bad); err == nil {
			t.Errorf("%q: got %d, want an error", bad, got)
		}
	}
}
