package weights

import (
	"bytes"
	"testing"

	"github.com/modelfleet/modelfleet/coordinator/cli/layout"
)

// The publisher's own parser finds every tensor of the files written here.
func TestPublishersUnderstandTheFiles(t *testing.T) {
	t.Parallel()
	m := newNet(tiny(), 1).model()
	for _, d := range DTypes() {
		file, err := d.Encode(m)
		if err != nil {
			t.Fatal(err)
		}
		name := "model." + d.Ext()
		found := map[string]int64{}
		for _, v := range layout.Of([]layout.File{{Path: name, Size: int64(len(file)), Content: bytes.NewReader(file)}})[name] {
			found[v.Name] = v.Length
		}
		for _, v := range m {
			if found[v.Name] == 0 {
				t.Errorf("%s: tensor %s is not found in %v", d, v.Name, found)
			}
		}
	}
}
