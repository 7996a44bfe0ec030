package command

import (
	"io"
	"testing"

	"github.com/modelfleet/modelfleet/agent"
)

func TestHowMuchIsShared(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		args []string
		want agent.Options // of it, what is shared
	}{
		{nil, agent.Options{}},
		{[]string{"-share", "off"}, agent.Options{Share: "off"}},
		{[]string{"-share", "10.0.0.7:9000", "-share-rate", "4MiB", "-share-disk", "2GiB", "-metered"},
			agent.Options{Share: "10.0.0.7:9000", ShareRate: 4 << 20, ShareDisk: 2 << 30, Metered: true}},
		{[]string{"-share-disk", "0"}, agent.Options{ShareDisk: -1}},
	} {
		o, _, err := parse("1.0.0", append([]string{"-state", "x"}, c.args...), io.Discard)
		if err != nil {
			t.Errorf("%v: %v", c.args, err)
		}
		if o.Share != c.want.Share || o.ShareRate != c.want.ShareRate || o.ShareDisk != c.want.ShareDisk || o.Metered != c.want.Metered {
			t.Errorf("%v: %+v", c.args, o)
		}
	}
	for _, bad := range []string{"-1", "much", "1e99GiB"} {
		if _, _, err := parse("1.0.0", []string{"-share-disk", bad}, io.Discard); err == nil {
			t.Errorf("a disk of %q was taken", bad)
		}
	}
}
